"""A host on this machine from which torchvision downloads small image files."""

import contextlib
import functools
import gzip
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import CIFAR10, MNIST

from tests.conftest import FILES
from tests.trainables.small_files import md5


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Answers after some seconds, and notes what was asked for."""

    def __init__(self, *arguments: Any, requests: list[str], seconds: float, **others: Any):
        self._requests, self._seconds = requests, seconds
        super().__init__(*arguments, **others)

    def do_GET(self) -> None:
        self._requests.append(self.path)
        time.sleep(self._seconds)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def image_host(
    name: str, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0
) -> Iterator[list[str]]:
    """Pack the small files in `root` into `folder` as the real host does, and act as this host while the block runs.

    It takes `seconds` to answer; the block gets the list of requests, which grows.
    """
    folder.mkdir()
    requests: list[str] = []
    handler = functools.partial(_Handler, directory=folder, requests=requests, seconds=seconds)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/"
        if name == "mnist":
            monkeypatch.setattr(MNIST, "mirrors", [url])
            monkeypatch.setattr(MNIST, "resources", [_compress(root / file, folder) for file in FILES[name]])
        else:
            archive = shutil.make_archive(str(folder / "cifar-10-python"), "gztar", root, CIFAR10.base_folder)
            monkeypatch.setattr(CIFAR10, "url", f"{url}{CIFAR10.filename}")
            monkeypatch.setattr(CIFAR10, "tgz_md5", md5(Path(archive)))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield requests
        finally:
            server.shutdown()


def _compress(path: Path, folder: Path) -> tuple[str, str]:
    """Write the file, gzipped, to the folder; return name and digest."""
    archive = folder / f"{path.name}.gz"
    archive.write_bytes(gzip.compress(path.read_bytes()))
    return archive.name, md5(archive)
