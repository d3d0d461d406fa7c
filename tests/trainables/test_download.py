"""Downloads of data sets: once for all processes, complete or not at all."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FILES
from tests.trainables.image_host import image_host
from trainables import DataError, load_task
from trainables.tasks import mnist

# The host's answers take long enough that every process has found the files missing before the first is there.
SECONDS = 0.3
processes = multiprocessing.get_context("fork")


def _digest(name: str, root: Path) -> str:
    return load_task(name, root).digest()


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_two_processes_download_a_data_set_once(
    name: str, tmp_path: Path, small_files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_files(name)
    new = tmp_path / "new"
    with image_host(name, root, tmp_path / "host", monkeypatch, SECONDS) as requests:
        load_task(name, tmp_path / "alone")
        alone = list(requests)
        with processes.Pool(2) as pool:
            digests = pool.starmap(_digest, [(name, new), (name, new)], chunksize=1)
    assert digests == [_digest(name, root)] * 2
    assert requests[len(alone) :] == alone
    files = {str(path.relative_to(new)) for path in new.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert files == set(FILES[name])


def test_a_process_that_is_killed_in_a_download_leaves_nothing_in_place_and_holds_up_nobody(
    tmp_path: Path, small_files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_files("mnist")
    new = tmp_path / "new"
    with image_host("mnist", root, tmp_path / "host", monkeypatch, SECONDS) as requests:
        process = processes.Process(target=_digest, args=("mnist", new))
        process.start()
        while len(requests) < 2:  # one file is there, the second under way
            time.sleep(0.01)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not [file for file in FILES["mnist"] if (new / file).exists()]
        assert load_task("mnist", new).digest() == load_task("mnist", root).digest()


def test_a_download_with_the_wrong_content_is_not_kept(
    tmp_path: Path, small_files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_files("mnist")
    monkeypatch.setitem(mnist.SHA256, "t10k-labels-idx1-ubyte", "0" * 64)
    new = tmp_path / "new"
    with (
        image_host("mnist", root, tmp_path / "host", monkeypatch),
        pytest.raises(DataError, match="what its host sent is damaged or another data set"),
    ):
        load_task("mnist", new)
    assert [path.suffix for path in new.rglob("*")] == [".lock"]


def test_a_file_that_is_there_is_kept_when_others_are_downloaded(
    tmp_path: Path, small_files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_files("mnist")
    new = tmp_path / "new"
    kept = new / FILES["mnist"][0]
    kept.parent.mkdir(parents=True)
    kept.write_bytes((root / FILES["mnist"][0]).read_bytes())
    before = kept.stat()
    with image_host("mnist", root, tmp_path / "host", monkeypatch):
        load_task("mnist", new)
    assert kept.stat() == before
