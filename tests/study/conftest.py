"""A Ray cluster that stays up, for the tests that run studies in their own process."""

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

SECONDS_TO_START = 120


@dataclass(frozen=True)
class RayCluster:
    """A cluster of two CPUs, as `ray start` makes one: who joins it has none of his own to start."""

    folder: Path

    @property
    def address(self) -> str:
        """Where it is, once it is up."""
        file = self.folder / "ray_current_cluster"
        end = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < end:
            if file.exists() and (address := file.read_text().strip()):
                return address
            time.sleep(0.1)
        pytest.fail("Ray did not start")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster that starts while its first user still does other things."""
    # In a folder of its own, so that nobody else on this machine takes it for his; a short one, for its sockets.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "ray", "start", "--head", "--port=0", "--num-cpus=2", "--block",
             "--include-dashboard=false", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"],
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            yield RayCluster(Path(folder))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
