"""A small process beside a local Ray: it ends what Ray leaves behind, however the driver ends.

Ray's agents stay for a minute when the driver is killed, because they wait for a server that has died with it. The
guardian waits on a pipe from the driver. When the pipe closes, it kills every process of this user that carries the
mark in its environment, and every process that it has seen below one.
"""

import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

MARK = "SELF_MODELING_RAY_SESSION"
# Seconds between two looks for processes that are left, and after which to give up.
INTERVAL, PATIENCE = 0.2, 30.0
# Seconds between two looks for new processes while Ray starts, how long that takes, and after that.
OFTEN, STARTING, RARELY = 1.0, 60.0, 10.0


class Guardian:
    """The driver's end: a guardian process, and the mark of the processes that it ends."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        # In a session of its own: a signal to the driver's process group must not end it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, self._mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Processes that are started meanwhile, and their children, carry the mark."""
        os.environ[MARK] = self._mark
        try:
            yield
        finally:
            del os.environ[MARK]

    def end(self) -> None:
        """End the marked processes, and the guardian."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)


def main(mark: str) -> None:
    """Wait until the driver has closed its end of the pipe, then kill until none of its Ray's processes is left."""
    family: set[psutil.Process] = set()
    driver, begun = psutil.Process(os.getppid()), time.monotonic()
    while not _closed(OFTEN if time.monotonic() - begun < STARTING else RARELY):
        # Not all can be found later: Ray's agents write their titles over their environment.
        family |= _descendants(driver, mark)
    end = time.monotonic() + PATIENCE
    while (left := marked(mark) | {each for each in family if _runs(each)}) and time.monotonic() < end:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(INTERVAL)


def marked(mark: str) -> set[psutil.Process]:
    """The running processes that carry the mark."""
    return {process for process in psutil.process_iter() if _carries(process, mark) and _runs(process)}


def _closed(patience: float) -> bool:
    """Whether the driver closes the pipe within so many seconds; it writes nothing."""
    return bool(select.select([sys.stdin], [], [], patience)[0])


def _descendants(driver: psutil.Process, mark: str) -> set[psutil.Process]:
    """The driver's children that carry the mark, and all processes below them."""
    found: set[psutil.Process] = set()
    with suppress(psutil.Error):
        # Parents come before their children.
        for process in driver.children(recursive=True):
            with suppress(psutil.Error):
                if process.ppid() in {each.pid for each in found} or _carries(process, mark):
                    found.add(process)
    return found


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _carries(process: psutil.Process, mark: str) -> bool:
    # Processes of other users, and those that are ending, have no environment that can be read.
    with suppress(psutil.Error, OSError):
        return bool(process.environ().get(MARK) == mark)
    return False


if __name__ == "__main__":
    main(sys.argv[1])
