"""The Ray cluster: reaching it, and keeping what it says off the terminal."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from study.errors import StudyError
from study.resources import Resources

# glibc by itself gives large blocks back to the system as soon as they are free, and takes them anew for the next
# batch: page faults took 5 to 20 % of a convolutional network's time (benchmarks/memory.py). A trial runs in a thread,
# and threads' own arenas have no room for large blocks. Other systems ignore these variables.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",  # no block outside the heap
    "MALLOC_TRIM_THRESHOLD_": str(2**32),  # and nothing of the heap given back
    "MALLOC_ARENA_MAX": "1",
}


def connect(resources: Resources) -> None:
    """Reach the cluster, or start one on this machine.

    Raises:
        StudyError: it cannot be reached, or has not what a trial wants.
    """
    try:
        ray.init(
            address=resources.address, configure_logging=False, log_to_driver=False, include_dashboard=False,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        )  # fmt: skip
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
            )  # fmt: skip


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
