"""A record's description of itself: its measures, dimensions, statuses and verdicts.

The writer of a record stores it on the study's run (artifact `description.json`). The analysis knows only the measures,
dimensions, statuses and verdicts that the record describes.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from analysis.layout import CHAIN_ERROR_SUFFIX

# What a dimension is part of: the task that the network learns; the network; the auxiliary task, its target layers, its
# weight and its other options; or the settings of training and measurement.
Role = Literal["task", "network", "auxiliary", "target", "weight", "option", "setting"]
# The description for records without one, from before records described themselves.
UNDESCRIBED = Path(__file__).parent / "undescribed.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Measure(_Part):
    """A measure of every replicate."""

    name: str  # for a measure of each layer, the part of the name before the layer's name
    label: str  # for an axis
    unit: str  # "" for a pure number
    meaning: str
    simpler: Literal["lower", "higher"] | None = None  # which values mean a simpler network
    performance: bool = False  # whether it tells how well a network does its task
    per_layer: bool = False
    needs_verdict: bool = False  # whether the value counts only if the rlct verdict is usable
    error: str | None = None  # name of the metric with the standard error of a replicate's value


class Dimension(_Part):
    """What may differ between trials: a field of their configuration."""

    name: str
    meaning: str
    role: Role
    default: Any = None
    label: str = ""  # for an axis; "": the name
    # Values of other dimensions with which a trial has this one; a trial with others has no value of it.
    only_with: dict[str, tuple[Any, ...]] = {}


class Outcome(_Part):
    """A status of trials and replicates, or a verdict on an rlct."""

    name: str
    meaning: str
    usable: bool  # whether values with this outcome count
    why: str = ""  # why it is usable, or why not
    advice: str = ""  # what to change


class Caveat(_Part):
    """What an estimate of the rlct does not say, whatever its verdict is."""

    name: str
    meaning: str
    advice: str


class Description(_Part):
    """Everything that the analysis knows about the names in a record, in the order of display.

    At least one dimension has the role of the network; exactly one each has the roles of auxiliary task, target and
    weight; at most one that of the task. A trial whose auxiliary task and weight have their defaults is the baseline of
    all trials with its task, network and settings.
    """

    measures: tuple[Measure, ...]
    dimensions: tuple[Dimension, ...]
    statuses: tuple[Outcome, ...]  # from best to worst
    verdicts: tuple[Outcome, ...]  # from best to worst
    caveats: tuple[Caveat, ...] = ()  # of an estimate, beside its verdict; older records describe none

    @model_validator(mode="after")
    def _roles_are_taken(self) -> Self:
        for role in ("auxiliary", "target", "weight"):
            if len(names := self.names_of(role)) != 1:
                raise ValueError(f"one dimension has the role {role!r}, got {list(names)}")
        if not self.names_of("network"):
            raise ValueError("no dimension has the role 'network'")
        if len(names := self.names_of("task")) > 1:
            raise ValueError(f"at most one dimension has the role 'task', got {list(names)}")
        for dimension in (self.auxiliary, self.weight):
            if dimension.default is None:
                raise ValueError(f"{dimension.name} has no default, which the baseline needs")
        return self

    def names_of(self, *roles: Role) -> tuple[str, ...]:
        """Names of the dimensions with one of the roles."""
        return tuple(dimension.name for dimension in self.dimensions if dimension.role in roles)

    @property
    def size_of_network(self) -> tuple[str, ...]:
        """Names of the dimensions that name a network, '1×32': those that every record has, else all of the network."""
        names = self.names_of("network")
        return tuple(name for name in names if name in undescribed().names_of("network")) or names

    @property
    def lists_all_fields(self) -> bool:
        """Whether the dimensions are all fields of a configuration. Older descriptions list only those of interest."""
        return bool(self.names_of("task", "setting"))

    @property
    def weight(self) -> Dimension:
        """The dimension that is the weight of the auxiliary task."""
        return self._only("weight")

    @property
    def auxiliary(self) -> Dimension:
        """The dimension that is the auxiliary task."""
        return self._only("auxiliary")

    @property
    def target(self) -> Dimension:
        """The dimension that is the target of the auxiliary task."""
        return self._only("target")

    def measure(self, name: str) -> Measure | None:
        """The measure with this name, or the per-layer measure that the name belongs to; None if not described."""
        for measure in self.measures:
            if measure.name == name:
                return measure
        if name.endswith(CHAIN_ERROR_SUFFIX):
            return None
        return next((each for each in self.measures if each.per_layer and name.startswith(each.name)), None)

    def measures_among(self, names: Iterable[str]) -> list[str]:
        """The names that are measures, in the description's order."""
        measure_of = {name: self.measure(name) for name in names}
        return [name for measure in self.measures for name in measure_of if measure_of[name] is measure]

    @property
    def usable_statuses(self) -> frozenset[str]:
        """Names of the statuses whose values count."""
        return frozenset(status.name for status in self.statuses if status.usable)

    @property
    def usable_verdicts(self) -> frozenset[str]:
        """Names of the verdicts with which a value counts that needs a usable verdict."""
        return frozenset(verdict.name for verdict in self.verdicts if verdict.usable)

    def _only(self, role: Role) -> Dimension:
        (dimension,) = (each for each in self.dimensions if each.role == role)
        return dimension


@cache
def undescribed() -> Description:
    """The description of records that carry none."""
    return Description.model_validate_json(UNDESCRIBED.read_text(encoding="utf-8"))
