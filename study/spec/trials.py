"""The trials that a study lists: those at its design points, those of a grid, those of a finite space.

A choice is a value for each dimension; trainables makes the trial of it. Several choices can make the same trial: a
control of strength 0 is the baseline.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from study.spec.dimensions import Dimension
from study.spec.ranges import Range
from trainables.fields import FIELDS, TARGET, Role, with_effect
from trainables.targets import in_words
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from study.spec.study import StudySpec

# Every field is chosen after those that it depends on.
_ROLES: tuple[Role, ...] = ("task", "network", "setting", "auxiliary", "weight", "target", "option")
ORDER = tuple(sorted(FIELDS, key=lambda name: _ROLES.index(FIELDS[name].role)))
# A space with more choices than this is not enumerated.
MOST_POINTS = 5000
# A study that lists more points than this is refused: each is checked.
MOST_LISTED = 10_000

Values = dict[str, Any]


def branches(values: Values, names: Sequence[str], choices: Callable[[str, Values], Sequence[Any]]) -> Iterator[Values]:
    """Every way to choose the named fields, in their order; a field without effect is not chosen.

    `values` has all fields; `choices` maps a field and what was chosen before to the values that it may have.
    """
    if not names:
        yield values
        return
    name, *rest = names
    if name not in with_effect(values):
        yield from branches(values, rest, choices)
        return
    for value in choices(name, values):
        yield from branches(values | {name: value}, rest, choices)


def listed_trials(spec: "StudySpec") -> Iterator[TrialConfig]:
    """The trials at the design points in order, or those of a grid, each once.

    Points of a grid that no network can have are left out.

    Raises:
        ValueError: a design point lies outside the space, or omits a dimension that the space does not fix; or there
            are more than MOST_LISTED points.
    """
    count_points(spec)
    seen = set()
    for config in _grid_trials(spec) if spec.sampler.name == "grid" else _design_trials(spec):
        if config is not None and config not in seen:
            seen.add(config)
            yield config


def all_trials(spec: "StudySpec") -> list[TrialConfig] | None:
    """Every different trial of the space; None if there are more than MOST_POINTS choices, or a range has no end."""

    def listed(name: str, values: Values) -> Sequence[Any]:
        return _listed(spec.dimension(name, values)) or ()

    choices = 0
    for base in spec.bases:
        lists = [_listed(spec.dimension(name, base)) for name in spec.free_names if name != TARGET]
        if any(values is None for values in lists):
            return None
        choices += math.prod(len(values or ()) for values in lists)
    if choices > MOST_POINTS:
        return None
    different: dict[TrialConfig, None] = {}
    for base in spec.bases:
        for values in branches(base, spec.free_names, listed):
            config = spec.make_trial(values)
            if config is not None:
                different.setdefault(config)
                if len(different) > MOST_POINTS:
                    return None
    return list(different)


def _listed(dimension: Dimension) -> Sequence[Any] | None:
    return dimension.listed() if isinstance(dimension, Range) else dimension


def count_points(spec: "StudySpec") -> int:
    """The number of points that a study lists, without making them: a few lists can span millions.

    Raises:
        ValueError: there are more than MOST_LISTED.
    """
    if spec.sampler.name == "grid":
        points = sum(
            math.prod(len(_listed(spec.dimension(name, base)) or ()) for name in spec.free_names) for base in spec.bases
        )
    else:
        points = sum(math.prod(max(1, len(block.values(name))) for name in FIELDS) for block in spec.design)
    if points > MOST_LISTED:
        of_grid = spec.sampler.name == "grid"
        what, remedy = ("space: the grid", "lists") if of_grid else ("design: it", "lists or fewer blocks")
        raise ValueError(
            f"{what} has {points:,} points, and a study may list {MOST_LISTED:,}. Give shorter {remedy}, or let a "
            "sampler choose (sampler: tpe, with a number of trials)"
        )
    return points


def _grid_trials(spec: "StudySpec") -> Iterator[TrialConfig | None]:
    for base in spec.bases:
        for values in branches(base, spec.free_names, lambda *at: _listed(spec.dimension(*at)) or ()):
            yield spec.make_trial(values)


def _design_trials(spec: "StudySpec") -> Iterator[TrialConfig | None]:
    for number in range(len(spec.design)):
        for base in _bases_of_block(spec, number):
            for chosen in product(*(_design_values(spec, number, name, base) for name in spec.free_names)):
                values = base | dict(zip(spec.free_names, chosen, strict=True))
                config = spec.make_trial(values)
                if config is None:
                    raise ValueError(
                        f"design[{number}].{TARGET}: that point's network has no {values[TARGET]!r}; it has the layers "
                        f"{in_words(spec.layers(values))}"
                    )
                yield config


def _bases_of_block(spec: "StudySpec", number: int) -> Iterator[Values]:
    """The fields of each task and architecture of a block of the design, before those that the block names."""
    block = spec.design[number]
    tasks = block.values("task") or spec.tasks
    if not block.values("task") and len(tasks) > 1:
        raise ValueError(f"design[{number}].task: missing, and the study has several. Give a value")
    for task in tasks:
        if task not in spec.tasks:
            raise ValueError(f"design[{number}].task: {task!r} is no task of the study. Add it to task")
        architectures = block.values("architecture") or spec.architectures_of(task)
        if not block.values("architecture") and len(architectures) > 1:
            raise ValueError(f"design[{number}].architecture: missing, and the study has several. Give a value")
        for architecture in architectures:
            if architecture not in spec.architectures_of(task):
                has = ", ".join(spec.architectures_of(task))
                raise ValueError(
                    f"design[{number}].architecture: {architecture!r} is none of the study's for {task}: {has}"
                )
            yield spec.base(task, architecture)


def _design_values(spec: "StudySpec", number: int, name: str, base: Values) -> Sequence[Any]:
    """The values of a field in a block of the design, those of the space if the block has none."""
    values = spec.design[number].values(name)
    dimension = spec.space_dimension(name, base)
    if not values:
        if not isinstance(dimension, list) or len(dimension) > 1 or dimension == ["any"]:
            raise ValueError(f"design[{number}].{name}: missing, and space.{name} leaves it open. Give a value")
        return dimension
    for value in values:
        # If nothing is searched, design points may lie outside the space.
        if spec.sampler.name != "design" and not lies_in(dimension, name, value):
            raise ValueError(f"design[{number}].{name}: {value!r} lies outside space.{name}. Widen the space")
    return values


def lies_in(dimension: Dimension, name: str, value: Any) -> bool:
    """Whether a dimension of the space has this value."""
    if isinstance(dimension, Range):
        return dimension.contains(value) or (value == 0 and bool(getattr(dimension, "baseline", False)))
    if dimension == ["any"]:
        return "+" not in str(value) and value != "all"
    return value in dimension
