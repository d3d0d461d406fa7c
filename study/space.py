"""The search space: four dimensions, each one value, a list of choices, or a range."""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from trainables.config import Section

SEARCHED = ("hidden_layers", "width", "aux_weight", "target_depth")


class WeightRange(Section):
    """A range of aux_weight, and whether the baseline is searched beside it."""

    low: float = Field(gt=0, description="Smallest weight; the baseline 0 is asked for by `baseline`.")
    high: float = Field(gt=0, description="Largest weight.")
    log: bool = Field(True, description="Search on a logarithmic scale.")
    baseline: bool = Field(
        True, description="Let the sampler choose the baseline, aux_weight 0, by a yes/no parameter `self_modeling`."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_ordered(self.low, self.high)
        return self


class IntRange(Section):
    """A range of whole numbers, both ends included."""

    low: int = Field(ge=1, description="Smallest value.")
    high: int = Field(ge=1, description="Largest value.")
    log: bool = Field(False, description="Search on a logarithmic scale.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_ordered(self.low, self.high)
        return self


def _check_ordered(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"low ({low}) must be below high ({high})")


def _parse_target(target: int | str) -> int | str:
    """Accept 2, "2", "1+3", "last", "all", "any"; give back the shortest form."""
    if target in ("last", "all", "any"):
        return target
    parts = str(target).split("+")
    if not all(part.strip().isdigit() and int(part) >= 1 for part in parts):
        raise PydanticCustomError(
            "target_depth",
            "not a target: give a depth from 1 (2), several together ('1+2'), 'last', 'all' or 'any' (the search "
            "chooses one layer)",
        )
    depths = sorted({int(part) for part in parts})
    return depths[0] if len(depths) == 1 else "+".join(map(str, depths))


def _distinct(choices: list[Any]) -> list[Any]:
    if len(set(choices)) < len(choices):
        raise ValueError("the choices must differ")
    return choices


Target = Annotated[int | str, AfterValidator(_parse_target)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
_T = TypeVar("_T")
Choices = Annotated[list[_T], Field(min_length=1), AfterValidator(_distinct)]


class SearchSpace(Section):
    """What differs between the trials. A scalar is fixed, a list is a choice, a mapping low/high is a range."""

    hidden_layers: Count | Choices[Count] | IntRange = Field(1, description="Number of hidden layers.")
    width: Count | Choices[Count] | IntRange = Field(64, description="Units of every hidden layer.")
    aux_weight: Weight | Choices[Weight] | WeightRange = Field(
        default=[0.0, 1.0, 5.0, 10.0, 20.0, 50.0],
        description="Weight of the self-modeling loss; 0 is the baseline.",
    )
    target_depth: Target | Choices[Target] = Field(
        "last",
        description="Target layers: a depth from 1, several together ('1+2'), 'last', 'all', or 'any' (the search "
        "chooses one layer of those the network has).",
    )

    @model_validator(mode="after")
    def _any_stands_alone(self) -> Self:
        if isinstance(self.target_depth, list) and "any" in self.target_depth:
            raise ValueError("target_depth: 'any' stands for every depth already; give it alone, not in a list")
        return self

    def choices(self, name: str) -> list[Any] | None:
        """The finite choices of a dimension, one for a fixed value; None for a range (and for target_depth 'any')."""
        value = getattr(self, name)
        if isinstance(value, WeightRange | IntRange) or value == "any":
            return None
        return value if isinstance(value, list) else [value]

    def values(self, name: str) -> list[Any]:
        """Every value of a dimension that has finitely many."""
        value = getattr(self, name)
        if isinstance(value, IntRange):
            return list(range(value.low, value.high + 1))
        if value == "any":
            return list(range(1, self.largest_depth + 1))
        choices = self.choices(name)
        assert choices is not None, f"{name} is a range of real numbers"
        return choices

    def contains(self, name: str, value: Any) -> bool:
        """Whether a design point may take that value."""
        dimension = getattr(self, name)
        if isinstance(dimension, WeightRange):
            return dimension.low <= value <= dimension.high or (value == 0 and dimension.baseline)
        if isinstance(dimension, IntRange):
            return bool(dimension.low <= value <= dimension.high)
        if dimension == "any":
            return isinstance(value, int) or value == "last"
        return value in (self.choices(name) or ())

    def targets_within(self, hidden_layers: int) -> list[int | str]:
        """The choices of target_depth that a network of that many hidden layers has."""
        targets = self.choices("target_depth") or []
        return [target for target in targets if max(target_depths(target, hidden_layers)) <= hidden_layers]

    @property
    def smallest_depth(self) -> int:
        """Hidden layers of the shallowest network of the space."""
        if isinstance(self.hidden_layers, IntRange):
            return self.hidden_layers.low
        return int(min(self.choices("hidden_layers") or ()))

    @property
    def largest_depth(self) -> int:
        """Hidden layers of the deepest network of the space."""
        if isinstance(self.hidden_layers, IntRange):
            return self.hidden_layers.high
        return int(max(self.choices("hidden_layers") or ()))


def target_depths(target: int | str, hidden_layers: int) -> tuple[int, ...]:
    """The depths that a target means in a network of that many hidden layers; one may lie beyond them."""
    match target:
        case "last":
            return (hidden_layers,)
        case "all":
            return tuple(range(1, hidden_layers + 1))
        case int():
            return (target,)
        case str():
            return tuple(int(depth) for depth in target.split("+"))


class DesignPoints(Section):
    """Points to run before the search: every combination of the given values, one for a field left out."""

    hidden_layers: Count | Choices[Count] | None = Field(None, description="Number of hidden layers.")
    width: Count | Choices[Count] | None = Field(None, description="Units of every hidden layer.")
    aux_weight: Weight | Choices[Weight] | None = Field(None, description="Weight of the self-modeling loss.")
    target_depth: Target | Choices[Target] | None = Field(None, description="Target layers.")

    @model_validator(mode="after")
    def _targets_are_definite(self) -> Self:
        if self.target_depth == "any" or (isinstance(self.target_depth, list) and "any" in self.target_depth):
            raise ValueError("target_depth: 'any' is for the search; a design point names its target")
        return self


SamplerName = Literal["tpe", "nsga2", "random", "grid"]
