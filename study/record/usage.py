"""What the trials of a study have used, and of which budget: begun trials, CPU- and GPU-hours, hours of nodes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from analysis.layout import Tag
from study.spec.budget import BudgetConfig

SECONDS_PER_HOUR = 3600.0
# What the limits that hold for a study's whole life are called.
UNITS = {"trials": "trials", "cpu_hours": "CPU-hours", "gpu_hours": "GPU-hours", "money": "units of money"}


@dataclass(frozen=True)
class Usage:
    """What some trials have used."""

    trials: int = 0  # each time that a trial began
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    node_hours: Mapping[str, float] = field(default_factory=dict)  # by type of node; a trial has a share of its node

    def __add__(self, other: "Usage") -> "Usage":
        nodes = dict(self.node_hours)
        for node_type, hours in other.node_hours.items():
            nodes[node_type] = nodes.get(node_type, 0.0) + hours
        return Usage(
            self.trials + other.trials, self.cpu_hours + other.cpu_hours, self.gpu_hours + other.gpu_hours, nodes
        )

    def to_json(self) -> str:
        """As in the record."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Usage":
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


def total(usages: Iterable[Usage]) -> Usage:
    """What all of them are together."""
    return sum(usages, Usage())


@dataclass(frozen=True)
class Machine:
    """A machine that trials run on: what it has, and the type of node that it is, '' if that is not known."""

    cpus: float
    gpus: float
    node_type: str = ""


@dataclass(frozen=True)
class Allotment:
    """What a trial has while it runs."""

    cpus: float = 1
    gpus: float = 0
    node_type: str = ""  # '' if it is not known
    node_share: float = 1.0  # the whole node as long as its size is not known

    def on(self, machine: Machine) -> "Allotment":
        """The same on this machine: its share is that of the CPUs or that of the GPUs, whichever is larger."""
        shares = [
            wanted / there
            for wanted, there in ((self.cpus, machine.cpus), (self.gpus, machine.gpus))
            if wanted and there
        ]
        return replace(self, node_type=machine.node_type, node_share=min(1.0, max(shares, default=1.0)))

    def used(self, seconds: float) -> Usage:
        """What a trial that has begun once uses in this time."""
        hours = max(0.0, seconds) / SECONDS_PER_HOUR
        return Usage(1, self.cpus * hours, self.gpus * hours, {self.node_type: self.node_share * hours})

    def tags(self) -> dict[str, str]:
        """As tags of the trial's run."""
        tags: dict[str, str] = {
            Tag.CPUS: f"{self.cpus:g}",
            Tag.GPUS: f"{self.gpus:g}",
            Tag.NODE_SHARE: f"{self.node_share:.6g}",
        }
        return tags | {Tag.NODE_TYPE: self.node_type} if self.node_type else tags

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "Allotment":
        """From the tags of a trial's run; runs of earlier versions have none, and count as one CPU or GPU."""
        if Tag.CPUS not in tags:
            return cls(gpus=0 if tags.get(Tag.DEVICE, "cpu") == "cpu" else 1)
        return cls(
            float(tags[Tag.CPUS]),
            float(tags[Tag.GPUS]),
            tags.get(Tag.NODE_TYPE, ""),
            float(tags.get(Tag.NODE_SHARE, 1.0)),
        )


@dataclass(frozen=True)
class Share:
    """What a study has used of one limit; `limit` is None if the budget does not have it."""

    name: str  # of the budget's field
    used: float
    limit: float | None

    @property
    def spent(self) -> bool:
        """Whether nothing of it is left."""
        return self.limit is not None and self.used >= self.limit

    def __str__(self) -> str:
        """'3.2 of 64 CPU-hours'."""
        of = "" if self.limit is None else f" of {amount(self.limit)}"
        return f"{amount(self.used)}{of} {UNITS[self.name]}"


def amount(value: float) -> str:
    """A number in four digits, or whole: 0.01234, 64.3, 12,345."""
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:.4g}"


def shares(budget: BudgetConfig, used: Usage) -> tuple[Share, ...]:
    """What is used of each limit that holds for a study's whole life."""
    return (
        Share("trials", used.trials, budget.trials),
        Share("cpu_hours", used.cpu_hours, budget.cpu_hours),
        Share("gpu_hours", used.gpu_hours, budget.gpu_hours),
        Share("money", budget.cost(used.node_hours), budget.money),
    )
