"""Real MLflow servers for tests, on loopback."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.services.postgresql import free_port


@contextmanager
def running_mlflow(*options: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server with these options; its URL once it answers."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with running(
        *command, *options, environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | dict(environment or {})
    ):
        uri = f"http://127.0.0.1:{port}"
        wait_until_it_answers(f"{uri}/health")
        yield uri


@contextmanager
def running(*command: str, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """A server in a process group of its own, killed at the end."""
    process = subprocess.Popen(
        command,
        env=os.environ | dict(environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_it_answers(url: str) -> None:
    for _ in range(240):
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
            if response.status == 200:
                return
        time.sleep(0.5)
    raise AssertionError(f"{url} did not answer")


class RestartableMLflow:
    """A server with a folder of its own that can be killed and started again at the same address."""

    def __init__(self, folder: Path):
        folder.mkdir(exist_ok=True)
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.database = (folder / "mlflow.db").resolve()
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.database}", "--artifacts-destination", str(folder / "files")),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        """Start it; wait until it answers."""
        self._process = subprocess.Popen(
            self._command,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if wait:
            wait_until_it_answers(f"{self.uri}/health")

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
