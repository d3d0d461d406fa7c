"""The Ray cluster: connect to it, and keep its output off the terminal."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from study.engine.resources import Resources
from study.errors import StudyError

# By default, glibc returns large blocks to the system when they are freed, and requests them again for the next batch:
# page faults took 5 to 20 % of a convolutional network's time (benchmarks/memory.py). A trial runs in a thread, and the
# arenas of threads have no room for large blocks. Other systems ignore these variables.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",  # all blocks come from the heap
    "MALLOC_TRIM_THRESHOLD_": str(2**32),  # the heap is never returned to the system
    "MALLOC_ARENA_MAX": "1",
}


@contextmanager
def connected(resources: Resources, log_file: Path) -> Iterator[None]:
    """A connection to the cluster, or to a new one on this machine; its output goes to the log file.

    Raises:
        StudyError: the cluster cannot be reached, or lacks the resources of a trial.
    """
    with chatter_to(log_file):
        try:
            connect(resources)
            yield
        finally:
            ray.shutdown()


def connect(resources: Resources) -> None:
    """Reach the cluster, or start one on this machine.

    Raises:
        StudyError: the cluster cannot be reached, or lacks the resources of a trial.
    """
    try:
        ray.init(
            address=resources.address,
            configure_logging=False,
            log_to_driver=False,
            include_dashboard=False,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        )
    except (ConnectionError, RuntimeError, OSError) as error:
        where = f"the Ray cluster at {resources.address}" if resources.address else "Ray on this machine"
        raise StudyError(
            f"{where} cannot be reached or started: {error}. Check --address, or 'ray status' on the cluster."
        ) from error
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, wanted in (("CPU", resources.cpus_per_trial), ("GPU", resources.gpus_per_trial)):
        if wanted > available.get(name, 0):
            raise StudyError(
                f"a trial wants {wanted:g} {name}(s), the cluster has {available.get(name, 0):g}: lower "
                f"--{name.lower()}s-per-trial, or add a node that has them."
            )


def most_side_by_side(resources: Resources) -> int:
    """Number of trials that fit the cluster at the same time."""
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    fitting = available["CPU"] / resources.cpus_per_trial
    if resources.gpus_per_trial:
        fitting = min(fitting, available["GPU"] / resources.gpus_per_trial)
    return max(1, int(fitting))


@contextmanager
def chatter_to(log_file: Path) -> Iterator[None]:
    """Send everything that Ray and its processes write to stdout and stderr into a file."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    loggers = [logging.getLogger(name) for name in ("ray", "optuna")]
    handler = logging.FileHandler(log_file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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
