"""A Ray cluster of several nodes on this machine, each of which can be killed."""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

RAY = Path(sys.executable).parent / "ray"
SECONDS_TO_START = 120


@dataclass
class Nodes:
    """A head and other nodes of one CPU each, started with `ray start`; they share a token."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every node and driver."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        patience = {"RAY_raylet_start_wait_time_s": str(SECONDS_TO_START)}  # on a machine that does other things
        return os.environ | token | patience

    @property
    def address(self) -> str:
        """The address of the head."""
        return (self.folder / "ray_current_cluster").read_text().strip()

    def start(self, name: str, cpus: int = 1, before: Sequence[str] = (), labels: str = "") -> None:
        """Start a node, the head first, and wait until it is up.

        `before` is a command that runs the command which follows it; `labels` are as `ray start` takes them.
        """
        place = ["--head", "--port=0", "--include-dashboard=false", f"--temp-dir={self.folder}"]
        if self.processes:
            place = [f"--address={self.address}"]
        options = [f"--num-cpus={cpus}", "--node-ip-address=127.0.0.1", f"--node-name={name}", "--block"]
        options += [f"--labels={labels}"] if labels else []
        self.processes[name] = subprocess.Popen(
            [*before, RAY, "start", *place, *options],
            env=self.environment,
            stdout=(self.folder / f"{name}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        self._wait(self.folder / f"{name}.log", "Ray runtime started.")
        self._wait(self.folder / "ray_current_cluster", ":")

    def kill(self, name: str) -> None:
        """Kill a node with all its workers, as a machine does that goes away."""
        with contextlib.suppress(psutil.NoSuchProcess):
            node = psutil.Process(self.processes[name].pid)
            for process in [node, *node.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.processes[name].wait()

    def _wait(self, file: Path, expected: str) -> None:
        end = time.monotonic() + SECONDS_TO_START
        while not file.exists() or expected not in file.read_text():
            if time.monotonic() > end:
                pytest.fail(f"Ray did not start: no {expected!r} in {file}")
            time.sleep(0.1)


@contextlib.contextmanager
def cluster_of_nodes() -> Iterator[Nodes]:
    """No node at first; those that are started are killed at the end."""
    # A short path, for Ray's sockets.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        nodes = Nodes(Path(folder))
        (nodes.folder / "token").write_text(secrets.token_hex(32))
        try:
            yield nodes
        finally:
            for name in reversed(nodes.processes):
                nodes.kill(name)
