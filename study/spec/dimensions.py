"""The search space. Each dimension is one value, a list of choices, or a range.

All sizes are bounded, so that any study is checked, and a wrong one refused, in about a second.
"""

import re
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from trainables.auxiliary import AUXILIARY_TASKS, OPTIONS, get_auxiliary_task
from trainables.config import HeadKind, LayerCount, Section, TargetForm, UnitCount, UnitWeighting

# OPTIONS say how a prediction is made: they have no effect on a network that predicts nothing.
# The role of each dimension: network, auxiliary task, its weight, its targets, its options.
ROLES: dict[str, Literal["network", "auxiliary", "target", "weight", "option"]] = {
    "hidden_layers": "network",
    "width": "network",
    "control": "auxiliary",
    "aux_weight": "weight",
    "target_depth": "target",
    **dict.fromkeys(OPTIONS, "option"),
}
SEARCHED = tuple(ROLES)
_WORDS: dict[str, list[Any]] = {
    "detach_targets": [True, False],
    "target_form": list(get_args(TargetForm)),
    "unit_weighting": list(get_args(UnitWeighting)),
    "head": list(get_args(HeadKind)),
}
LAYER_NAME = re.compile(r"[A-Za-z_]\w*")
LAYER_DEPTH = re.compile(r"[0-9]{1,4}")
# Values of a list.
MOST_CHOICES = 1000
MOST_TARGETS = 100
# A weight above it leaves nothing of the loss it is added to.
LARGEST_WEIGHT = 1e9
# Characters of a target that names layers.
LONGEST_TARGET = 200


class WeightRange(Section):
    """A range of aux_weight, and whether the baseline is searched beside it."""

    low: float = Field(gt=0, le=LARGEST_WEIGHT, description="Smallest weight above 0; `baseline` adds the 0.")
    high: float = Field(gt=0, le=LARGEST_WEIGHT, description="Largest weight.")
    log: bool = Field(True, description="Search on a logarithmic scale.")
    baseline: bool = Field(
        True, description="Let the sampler choose the baseline, aux_weight 0, with a yes/no parameter `self_modeling`."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_ordered(self.low, self.high)
        return self


class IntRange(Section):
    """A range of whole numbers, both ends included."""

    low: int = Field(ge=0, description="Smallest value.")
    high: int = Field(ge=1, description="Largest value.")
    log: bool = Field(False, description="Search on a logarithmic scale.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_ordered(self.low, self.high)
        if self.log and self.low == 0:
            raise ValueError("a logarithmic range begins at 1 or more")
        return self


class LayerRange(IntRange):
    """A range of numbers of hidden layers."""

    low: LayerCount = Field(description="Smallest value.")
    high: LayerCount = Field(description="Largest value.")


class UnitRange(IntRange):
    """A range of numbers of units."""

    low: UnitCount = Field(description="Smallest value.")
    high: UnitCount = Field(description="Largest value.")


def known_values(name: str) -> list[Any]:
    """All values of a dimension with a fixed set of values."""
    return list(AUXILIARY_TASKS) if name == "control" else _WORDS[name]


def _check_ordered(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"low ({low}) must be below high ({high})")


def _parse_target(target: int | str) -> int | str:
    """Accept 2, "2", "1+3", "hidden2", "last", "all", "any"; return the shortest form."""
    if target in ("last", "all", "any"):
        return target
    text = str(target) if isinstance(target, str) or abs(target) < 10_000 else ""
    parts = [part.strip() for part in text[: LONGEST_TARGET + 1].split("+")]
    depths = {int(part) for part in parts if LAYER_DEPTH.fullmatch(part)}
    names = {part for part in parts if LAYER_NAME.fullmatch(part)}
    unclear = 0 in depths or len(depths) + len(names) < len(set(parts)) or names & {"last", "all", "any"}
    if unclear or len(text) > LONGEST_TARGET:
        raise PydanticCustomError(
            "target_depth",
            "not a target: give a depth from 1 (2) or a layer's name (hidden2), several together ('1+2'), 'last', "
            "'all' or 'any' (the search chooses one layer)",
        )
    if len(depths) == 1 and not names:
        return depths.pop()
    return "+".join([*map(str, sorted(depths)), *sorted(names)])


def _distinct(choices: list[Any]) -> list[Any]:
    if len(set(choices)) < len(choices):
        raise ValueError("the choices must differ")
    return choices


def _known_control(name: str) -> str:
    return get_auxiliary_task(name).name


Target = Annotated[int | str, AfterValidator(_parse_target)]
# The name of one of a few known things: a longer text is none of them.
Word = Annotated[str, Field(max_length=100)]
ControlName = Annotated[Word, AfterValidator(_known_control)]
Weight = Annotated[float, Field(ge=0, le=LARGEST_WEIGHT)]
_T = TypeVar("_T")
Choices = Annotated[list[_T], Field(min_length=1, max_length=MOST_CHOICES), AfterValidator(_distinct)]
Targets = Annotated[list[Target], Field(min_length=1, max_length=MOST_TARGETS), AfterValidator(_distinct)]


class SearchSpace(Section):
    """The dimensions in which trials differ. A scalar is fixed, a list is a choice, a mapping low/high is a range."""

    hidden_layers: LayerCount | Choices[LayerCount] | LayerRange = Field(
        1, description="Hidden layers, blocks or stages of the architecture."
    )
    width: UnitCount | Choices[UnitCount] | UnitRange = Field(
        64, description="Units of every hidden layer; of convnet, channels of the first one."
    )
    control: ControlName | Choices[ControlName] = Field(
        "none", description="Control that replaces self-modeling; 'none' is self-modeling itself."
    )
    aux_weight: Weight | Choices[Weight] | WeightRange = Field(
        default=[0.0, 1.0, 5.0, 10.0, 20.0, 50.0],
        description="Weight of the self-modeling loss, or strength of the control; 0 is the baseline.",
    )
    target_depth: Target | Targets = Field(
        "last",
        description="Target layers: a depth from 1 or a layer's name, several together ('1+2'), 'last', 'all', or "
        "'any' (the search chooses one of the network's layers).",
    )
    detach_targets: bool | Choices[bool] = Field(
        True, description="Treat target activations as constants (as published); false lets gradients flow through."
    )
    target_form: TargetForm | Choices[TargetForm] = Field(
        "raw", description="Form of the predicted activations: 'raw' (as published), 'standardized' or 'sign'."
    )
    unit_weighting: UnitWeighting | Choices[UnitWeighting] = Field(
        "mean", description="Squared errors of the target units: 'mean' (as published) or 'sum'."
    )
    head: HeadKind | Choices[HeadKind] = Field(
        "widened", description="Prediction by rows of the final layer ('widened', as published) or a 'separate' head."
    )

    @model_validator(mode="after")
    def _any_stands_alone(self) -> Self:
        if isinstance(self.target_depth, list) and "any" in self.target_depth:
            raise ValueError("target_depth: 'any' stands for every depth already; give it alone, not in a list")
        return self

    def choices(self, name: str) -> list[Any] | None:
        """The choices of a dimension, one for a fixed value; None for a range (and for target_depth 'any')."""
        value = getattr(self, name)
        if isinstance(value, WeightRange | IntRange) or value == "any":
            return None
        return value if isinstance(value, list) else [value]

    def values(self, name: str) -> list[Any]:
        """Every value of a dimension that is a list or a range of whole numbers."""
        value = getattr(self, name)
        if isinstance(value, IntRange):
            return list(range(value.low, value.high + 1))
        choices = self.choices(name)
        assert choices is not None, f"the values of {name} cannot be listed"
        return choices

    def smallest(self, name: str) -> Any:
        """The smallest value of a dimension of numbers."""
        value = getattr(self, name)
        return value.low if isinstance(value, IntRange | WeightRange) else min(self.choices(name) or ())

    def largest(self, name: str) -> Any:
        """The largest value of a dimension of numbers."""
        value = getattr(self, name)
        return value.high if isinstance(value, IntRange | WeightRange) else max(self.choices(name) or ())

    def fixed(self, name: str) -> list[Any]:
        """The value of a fixed dimension, as a list; empty for a dimension that varies."""
        choices = self.choices(name) or []
        return choices if len(choices) == 1 else []

    def contains(self, name: str, value: Any) -> bool:
        """Whether a design point may have this value."""
        dimension = getattr(self, name)
        if isinstance(dimension, WeightRange):
            return dimension.low <= value <= dimension.high or (value == 0 and dimension.baseline)
        if isinstance(dimension, IntRange):
            return bool(dimension.low <= value <= dimension.high)
        if dimension == "any":
            return "+" not in str(value) and value != "all"
        return value in (self.choices(name) or ())


class DesignPoints(Section):
    """Points to run first: every combination of the given values. Fields left out are fixed in the space."""

    hidden_layers: LayerCount | Choices[LayerCount] | None = Field(None, description="Hidden layers, blocks or stages.")
    width: UnitCount | Choices[UnitCount] | None = Field(None, description="Units of every hidden layer.")
    control: ControlName | Choices[ControlName] | None = Field(None, description="Control that replaces self-modeling.")
    aux_weight: Weight | Choices[Weight] | None = Field(None, description="Weight of the loss, or strength.")
    target_depth: Target | Targets | None = Field(None, description="Target layers.")
    detach_targets: bool | Choices[bool] | None = Field(None, description="Targets are constants.")
    target_form: TargetForm | Choices[TargetForm] | None = Field(None, description="raw, standardized or sign.")
    unit_weighting: UnitWeighting | Choices[UnitWeighting] | None = Field(None, description="mean or sum.")
    head: HeadKind | Choices[HeadKind] | None = Field(None, description="widened or separate.")

    def values(self, name: str) -> list[Any]:
        """The values of a dimension, as a list; empty if it is left out."""
        given = getattr(self, name)
        if given is None:
            return []
        return given if isinstance(given, list) else [given]

    @model_validator(mode="after")
    def _targets_are_definite(self) -> Self:
        if self.target_depth == "any" or (isinstance(self.target_depth, list) and "any" in self.target_depth):
            raise ValueError("target_depth: 'any' is for the search; a design point names its target")
        return self


SamplerName = Literal["tpe", "nsga2", "random", "grid", "design"]
# Samplers with which nothing is sampled: the trials are listed.
ENUMERATED: tuple[SamplerName, ...] = ("grid", "design")
