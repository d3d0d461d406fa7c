"""A range of numbers that a search chooses from."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Generic, Self, TypeVar, get_args, get_origin

from pydantic import BeforeValidator, Field, create_model, field_validator, model_validator

from trainables.config import Section
from trainables.fields import TrialField

_Number = TypeVar("_Number", int, float)
# A range with more numbers is not listed one by one.
MOST_LISTED_NUMBERS = 100_000
MOST_STEPS = 1_000_000_000


class Range(Section, Generic[_Number]):
    """Numbers from `low` to `high`, both included."""

    low: _Number = Field(description="Smallest value.")
    high: _Number = Field(description="Largest value.")
    log: bool = Field(False, description="Search on a logarithmic scale.")
    step: _Number | None = Field(None, description="Only low, low + step, low + 2·step and so on.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and self.low <= 0:
            above = "begins at 1 or more" if self.whole else "has a low above 0"
            raise ValueError(f"a logarithmic range {above}. Raise low, or set log: false")
        if self.step is None:
            return self
        if self.log:
            raise ValueError("a logarithmic range has no step. Leave step out, or set log: false")
        if not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step ({self.step:g}) must be above 0 and at most high − low ({self.high - self.low:g})")
        if (self.high - self.low) / self.step > MOST_STEPS:
            raise ValueError(f"step ({self.step:g}) makes more than {MOST_STEPS:,} steps. Leave it out, or enlarge it")
        return self

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole ones."""
        return isinstance(self.low, int)

    def contains(self, value: Any) -> bool:
        """Whether it has this value."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return not self.whole or value == int(value)
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def listed(self) -> list[Any] | None:
        """All its numbers; None if they are not whole ones and it has no step, or if there are too many."""
        step = 1 if self.step is None and self.whole else self.step
        if step is None:
            return None
        last = int((self.high - self.low) / step + 1e-9)
        return None if last >= MOST_LISTED_NUMBERS else [self.low + index * step for index in range(last + 1)]


class WeightRange(Range[float]):
    """A range of aux_weight, and whether the baseline is searched beside it."""

    log: bool = Field(True, description="Search on a logarithmic scale.")
    baseline: bool = Field(
        True, description="Let the sampler choose the baseline, aux_weight 0, with a yes/no parameter `self_modeling`."
    )

    @field_validator("low", check_fields=False)
    @classmethod
    def _above_the_baseline(cls, low: float) -> float:
        if low == 0:
            raise ValueError(
                "must be above 0, such as 0.1: weight 0, the baseline, is searched beside the range with baseline: "
                "true, as it is by default"
            )
        return low


def range_of(field: TrialField) -> type[Section] | None:
    """The type of a field's ranges, with the bounds of the field; None if its values are no numbers."""
    number = _number(field.info.annotation, field.info.metadata)
    if number is None or field.role == "target":
        return None
    kind = get_args(number)[0] if get_origin(number) is Annotated else number
    base: type[Section] = WeightRange if field.role == "weight" else Range[int] if kind is int else Range[float]
    number = Annotated[number, BeforeValidator(no_truth_value)]
    ends = {name: (number, Field(description=base.model_fields[name].description)) for name in ("low", "high")}
    return create_model(f"RangeOf_{field.name}", __base__=base, **ends)  # type: ignore[call-overload,no-any-return]


def no_truth_value(value: Any) -> Any:
    """The value, unless it is yes or no, which Python takes for a number.

    Raises:
        ValueError: it is True or False.
    """
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _number(annotation: Any, bounds: Sequence[Any]) -> Any:
    """The type of the numbers among the values of a type; None if there are none."""
    if annotation in (int, float):
        return Annotated[annotation, *bounds] if bounds else annotation
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        return _number(inner, own)
    return next((found for each in get_args(annotation) if (found := _number(each, bounds)) is not None), None)
