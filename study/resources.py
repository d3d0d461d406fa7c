"""Where trials run, and what each one gets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """The Ray cluster and a trial's share of it."""

    address: str | None = None  # of a running Ray cluster; None: one on this machine, or a new local one
    cpus_per_trial: int = 1
    gpus_per_trial: float = 0.0
    concurrent: int | None = None  # trials side by side at most; None: as many as fit
