"""A Ray cluster shared by the tests that run studies in their own process."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from study.engine.runners import RUNNERS

SECONDS_TO_START = 120
# The runners as parameters of a test whose Ray case takes a minute: that case runs with the services.
RUNNERS_WITH_SERVICES = [pytest.param(kind, marks=pytest.mark.services if kind == "ray" else ()) for kind in RUNNERS]


@dataclass(frozen=True)
class RayCluster:
    """A cluster of two CPUs, started with `ray start`: tests that join it need not start one."""

    folder: Path

    @property
    def address(self) -> str:
        """The cluster's address, once it is up."""
        file = self.folder / "ray_current_cluster"
        end = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < end:
            if file.exists() and (address := file.read_text().strip()):
                return address
            time.sleep(0.1)
        pytest.fail("Ray did not start")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster that starts in the background, while its first user does other things."""
    from study.engine.ray_address import protect_token

    # A local study leaves a token, after which `ray start` asks for it by default: also on a new machine here.
    protect_token()
    # In a separate folder, so that other programs on this machine do not join it; with a short path, for its sockets.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [
                Path(sys.executable).parent / "ray",
                "start",
                "--head",
                "--port=0",
                "--num-cpus=2",
                "--block",
                "--include-dashboard=false",
                f"--temp-dir={folder}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield RayCluster(Path(folder))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
