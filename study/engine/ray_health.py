"""Watch the cluster's server (GCS), and Ray's process on this machine (raylet), during a study.

Without the server, Ray waits for a minute and then ends the driver's process, without an exception; without the raylet
it does so once the server has noticed, some 15 seconds later. The watch ends the study before, while its record can
still be closed.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from study.engine.ray_address import answers
from study.errors import StudyError
from study.interrupts import interrupt_main_thread, received

if TYPE_CHECKING:
    from study.engine.ray_cluster import Connection

INTERVAL = 1.0
# Seconds without an answer after which the server counts as dead. On a cluster, another program may start it again,
# and Ray itself waits for 60 seconds.
PATIENCE_HERE, PATIENCE_ON_A_CLUSTER = 3.0, 40.0
CAUSE = "another program has ended it, or memory has run out"


@contextmanager
def watched(connection: "Connection") -> Iterator[None]:
    """Interrupt the main thread when the cluster dies; `raising_loss` turns the interrupt into an error."""
    over = threading.Event()
    patience = PATIENCE_HERE if connection.guardian is not None else PATIENCE_ON_A_CLUSTER

    def watch() -> None:
        last_answer = time.monotonic()
        while not over.wait(INTERVAL):
            if received() is not None:
                # The study is ending. The signal may have gone to Ray's processes too.
                return
            if answers(connection.address):
                last_answer = time.monotonic()
            what = f"Ray's process on this machine (raylet) has died: {CAUSE}" if connection.raylet_has_ended else None
            if time.monotonic() - last_answer > patience:
                what = _death_of_server(connection)
            if what is not None and not over.is_set() and received() is None:
                connection.lost = _loss(connection, what)
                interrupt_main_thread()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def raising_loss(connection: "Connection") -> Iterator[None]:
    """Raise the loss of the cluster, instead of the interrupt or the error that followed from it."""
    try:
        yield
    except BaseException:
        if connection.lost is not None:
            raise connection.lost from None
        raise


def _loss(connection: "Connection", what: str) -> StudyError:
    advice = "" if connection.guardian is not None else "start the cluster again if need be, and "
    return StudyError(f"{what}. Everything finished is kept: {advice}run the same command again.")


def _death_of_server(connection: "Connection") -> str:
    if connection.guardian is not None:
        return f"the server of Ray on this machine (GCS) has died: {CAUSE}"
    return f"the server of the Ray cluster (GCS) at {connection.address} has died, or the network to it"
