"""The runners by name, and which resources each can use."""

from collections.abc import Callable

from study.engine.resources import Resources
from study.engine.runner import Runner
from study.engine.snapshots import SnapshotPlace
from study.errors import StudyError
from study.record.stores import Stores

RUNNERS = ("ray", "local")


def check_runner(name: str, resources: Resources) -> None:
    """Check that a runner can use these resources.

    Raises:
        StudyError: the runner in this process was given options of a cluster.
    """
    if name != "local":
        return
    if resources.address is not None:
        raise StudyError("--address names a Ray cluster, but --runner local runs in this process: leave one out.")
    if resources.concurrent not in (None, 1):
        raise StudyError(
            f"--concurrent {resources.concurrent}: --runner local runs one trial after the other. Take --runner "
            "ray, or let each trial have more CPU cores with --cpus-per-trial."
        )


def make_runner(
    name: str, resources: Resources, stores: Stores, study: str, tell: Callable[[str], None] = print
) -> Runner:
    """The runner of that name, one of RUNNERS; it tells the user what its trials wait for."""
    check_runner(name, resources)
    snapshots = SnapshotPlace(stores.snapshots(study), resources.snapshot_interval)
    if name == "local":
        from study.engine.local import LocalRunner

        return LocalRunner(resources, snapshots)
    # Ray takes a second to import, and the local runner does not need it.
    from study.engine.ray_tune import RayRunner

    return RayRunner(resources, stores, study, snapshots, tell)
