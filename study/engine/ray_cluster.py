"""The Ray cluster: connect to it, and keep its output off the terminal."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray
from ray._private import auto_init_hook, ray_constants

from study.engine.guardian import Guardian
from study.engine.ray_address import AUTHENTICATION, find_cluster, protect_token, restore_authentication
from study.engine.ray_capacity import check_cluster, check_this_machine
from study.engine.ray_health import raising_loss, watched
from study.engine.resources import Resources
from study.errors import StudyError, first_line, without_secrets
from study.interrupts import handlers_kept, interruptible

# A thread of Ray Tune that outlives the connection must not start another Ray, as Ray's functions do by default.
auto_init_hook.enable_auto_connect = False

# By default, glibc returns large blocks to the system when they are freed, and requests them again for the next batch:
# page faults took 5 to 20 % of a convolutional network's time (benchmarks/memory.py). A trial runs in a thread, and the
# arenas of threads have no room for large blocks. Other systems ignore these variables.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",  # all blocks come from the heap
    "MALLOC_TRIM_THRESHOLD_": str(2**32),  # the heap is never returned to the system
    "MALLOC_ARENA_MAX": "1",
}


@contextmanager
def connected(resources: Resources, log_file: Path) -> Iterator["Connection"]:
    """A connection to the cluster, or to a new one on this machine; its output goes to the log file.

    Raises:
        StudyError: the cluster cannot be reached, or lacks the resources of a trial.
    """
    authentication = os.environ.get(AUTHENTICATION)
    with interruptible():
        try:
            # What can be refused is refused before the log, a file in the store, is created.
            with chatter_to(Path(os.devnull)):
                address = _choose(resources)
            with chatter_to(log_file), _connection(address, resources) as connection:
                yield connection
        finally:
            restore_authentication(authentication)


def connect(resources: Resources) -> "Connection":
    """Reach the cluster, or start one on this machine.

    Raises:
        StudyError: the cluster cannot be reached, or lacks the resources of a trial.
    """
    return _connect(_choose(resources), resources)


@dataclass
class Connection:
    """A connection to a cluster, and what is known of the cluster's health."""

    address: str  # HOST:PORT
    note: str | None = None  # what the user should know of it, in a sentence
    guardian: Guardian | None = None  # of a Ray that was started here
    raylet: psutil.Process | None = None  # Ray's process on this machine, through which the driver does everything
    lost: StudyError | None = None  # the cluster has died

    @property
    def raylet_has_ended(self) -> bool:
        """Whether Ray's process on this machine has ended; False if it is not known."""
        return self.raylet is not None and not (
            self.raylet.is_running() and self.raylet.status() != psutil.STATUS_ZOMBIE
        )

    def close(self) -> None:
        """Disconnect, and end a Ray that was started here."""
        # Without its server, Ray would wait for it for a minute and then end this process.
        if self.lost is None:
            ray.shutdown()
        if self.guardian is not None:
            self.guardian.end()


@contextmanager
def _connection(address: str | None, resources: Resources) -> Iterator[Connection]:
    connection = _connect(address, resources)
    try:
        with watched(connection), raising_loss(connection):
            yield connection
    finally:
        connection.close()


def _choose(resources: Resources) -> str | None:
    """HOST:PORT of the cluster to join; None: Ray is to be started on this machine, which a trial fits."""
    address = find_cluster(resources.address)
    if address is None:
        check_this_machine(resources)
    return address


def _connect(address: str | None, resources: Resources) -> Connection:
    if address is None:
        return _start_here()
    _init(f"the Ray cluster at {address}", "see 'ray status' on the cluster", address=address)
    try:
        return Connection(address, note=check_cluster(resources), raylet=_raylet())
    except BaseException:
        ray.shutdown()
        raise


def _start_here() -> Connection:
    """Start Ray on this machine, for this study alone."""
    protect_token()
    guardian = Guardian()
    try:
        with guardian.marking(), _on_loopback(), _hangup_blocked():
            address = _init("Ray on this machine", "see the folder /tmp/ray/session_latest/logs", address="local")
    except BaseException:
        ray.shutdown()
        guardian.end()
        raise
    return Connection(address, guardian=guardian, raylet=_raylet())


def _raylet() -> psutil.Process | None:
    """The raylet that this process is connected to; None if it cannot be seen."""
    socket = ray.get_runtime_context().worker.node.raylet_socket_name
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "raylet" and any(word.endswith(f"={socket}") for word in process.cmdline()):
                return process
    return None


def _init(what: str, advice: str, address: str) -> str:
    """Connect with Ray's own function, and return HOST:PORT of the cluster."""
    try:
        with handlers_kept():
            ray.init(
                address=address,
                configure_logging=False,
                log_to_driver=False,
                include_dashboard=False,
                runtime_env={"env_vars": WORKER_ENVIRONMENT},
            )
    except Exception as error:
        # Ray raises bare exceptions too, such as that of its time-out.
        raise StudyError(f"{what} cannot be reached or started: {first_line(error)}. For why, {advice}.") from error
    return str(ray.get_runtime_context().gcs_address)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray that is started now listen on the loopback interface alone.

    By default it does so on macOS and Windows only, and a variable for these systems decides it. Ray replaces a
    `_node_ip_address` of 127.0.0.1 by that of the network.
    """
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    in_environment = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if in_environment is None:
            del os.environ[name]
        else:
            os.environ[name] = in_environment


@contextmanager
def _hangup_blocked() -> Iterator[None]:
    """Processes that are started now do not see SIGHUP: a closing terminal sends it to all, and the driver ends them.

    Ray does the same with SIGINT.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def chatter_to(log_file: Path) -> Iterator[None]:
    """Send everything that Ray and its processes write to stdout and stderr into a file."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    loggers = [logging.getLogger(name) for name in ("ray", "optuna")]
    handler = logging.FileHandler(log_file)
    handler.setFormatter(_FormatterWithoutSecrets("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    saved = [os.dup(1), os.dup(2)]
    with log_file.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for descriptor, original in zip((1, 2), saved, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()


class _FormatterWithoutSecrets(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))
