"""Points of a study and their trials: design points, the points of a grid, all points of a finite space.

A point has a value for each dimension; trainables runs the trial configuration made from it. Several points can give
the same trial: a control of strength 0 is the baseline.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import ValidationError

from study.spec.dimensions import SEARCHED, DesignPoints, WeightRange
from trainables.auxiliary import get_auxiliary_task
from trainables.config import NetworkConfig, Section, SelfModelConfig
from trainables.errors import ConfigError
from trainables.networks import layers_of
from trainables.targets import has_target, in_words, target_depths
from trainables.tasks import get_task
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from study.spec.study import StudySpec

_Section = TypeVar("_Section", bound=Section)
# A space with more points than this is not enumerated.
MOST_POINTS = 5000
# A study that lists more points than this is refused: each is checked.
MOST_LISTED = 10_000


class Point(NamedTuple):
    """A value for each dimension of the search space."""

    hidden_layers: int
    width: int
    aux_weight: float
    target_depth: int | str
    control: str = "none"
    detach_targets: bool = True
    target_form: str = "raw"
    unit_weighting: str = "mean"
    head: str = "widened"


class ListedTrial(NamedTuple):
    """A point that a study lists, and its trial."""

    point: Point
    config: TrialConfig


def listed_trials(spec: "StudySpec") -> Iterator[ListedTrial]:
    """The design points in order, or the points of a grid, each trial once; points that no network can have are left
    out.

    Raises:
        ValueError: a design point lies outside the space, or omits a dimension that the space does not fix; or there
            are more than MOST_LISTED points.
    """
    count_points(spec)
    seen = set()
    for point, config in _grid_trials(spec) if spec.sampler == "grid" else _design_trials(spec):
        if config is not None and config not in seen:
            seen.add(config)
            yield ListedTrial(point, config)


def all_trials(spec: "StudySpec") -> list[ListedTrial] | None:
    """Every different trial of the space; None if there are more than MOST_POINTS, or a range of weights."""
    if isinstance(spec.space.aux_weight, WeightRange):
        return None
    if spec.space.target_depth == "any":
        targets = list(range(1, max(len(spec.layers(depth)) for depth in spec.values("hidden_layers")) + 1))
    else:
        targets = spec.values("target_depth")
    dimensions = [targets if name == "target_depth" else spec.values(name) for name in SEARCHED]
    if math.prod(map(len, dimensions)) > MOST_POINTS:
        return None
    different: dict[TrialConfig, Point] = {}
    for values in product(*dimensions):
        point = Point(**dict(zip(SEARCHED, values, strict=True)))
        config = trial_config(spec, point)
        if config is not None:
            different.setdefault(config, point)
    return [ListedTrial(point, config) for config, point in different.items()]


def trial_config(spec: "StudySpec", point: Point) -> TrialConfig | None:
    """The trial at a point; None if the network does not have the target.

    A control with strength 0 is the baseline; a control without a strength is the same trial at any weight.

    Raises:
        ConfigError: the network does not exist, or the control does not take this strength.
    """
    network = network_config(spec, point.hidden_layers, point.width)
    layers = layers_of(network, get_task(spec.task).shape.inputs)
    if not has_target(point.target_depth, layers):
        if get_auxiliary_task(point.control).needs_targets(point.aux_weight):
            return None
        point = point._replace(target_depth="last")
    return _checked(
        TrialConfig,
        task=spec.task,
        network=network,
        self_model=_self_model(point, target_depths(point.target_depth, layers)),
        training=spec.training,
        rlct=spec.rlct,
        observer=spec.observer,
        seeds=spec.seeds,
        split_seed=spec.split_seed,
    )


def network_config(spec: "StudySpec", hidden_layers: int, width: int) -> NetworkConfig:
    """The study's network of that size."""
    return NetworkConfig(architecture=spec.architecture, hidden_layers=hidden_layers, width=width)


def _self_model(point: Point, depths: tuple[int, ...]) -> SelfModelConfig:
    auxiliary = get_auxiliary_task(point.control)
    weight = 0.0 if auxiliary.strength is None else point.aux_weight
    if auxiliary.strength is not None and weight == 0:
        auxiliary = get_auxiliary_task("none")
    targets = depths if auxiliary.needs_targets(weight) else ()
    # Options without effect on a control keep their defaults, so that they do not make another trial.
    options = {name: getattr(point, name) for name in auxiliary.options} if targets else {}
    return _checked(SelfModelConfig, aux_weight=weight, target_depths=targets, control=auxiliary.name, **options)


def count_points(spec: "StudySpec") -> int:
    """The number of points that a study lists, without making them: a few lists can span millions.

    Raises:
        ValueError: there are more than MOST_LISTED.
    """
    if spec.sampler == "grid":
        points = math.prod(len(spec.space.choices(name) or ()) for name in SEARCHED)
    else:
        points = sum(math.prod(max(1, len(block.values(name))) for name in SEARCHED) for block in spec.design)
    if points > MOST_LISTED:
        of_grid = spec.sampler == "grid"
        what, remedy = ("space: the grid", "lists") if of_grid else ("design: it", "lists or fewer blocks")
        raise ValueError(
            f"{what} has {points:,} points, and a study may list {MOST_LISTED:,}. Give shorter {remedy}, or let a "
            "sampler choose (sampler: tpe, with a number of trials)"
        )
    return points


def _grid_trials(spec: "StudySpec") -> Iterator[tuple[Point, TrialConfig | None]]:
    for values in product(*(spec.space.choices(name) or () for name in SEARCHED)):
        point = Point(**dict(zip(SEARCHED, values, strict=True)))
        yield point, trial_config(spec, point)


def _design_trials(spec: "StudySpec") -> Iterator[tuple[Point, TrialConfig | None]]:
    for number, block in enumerate(spec.design):
        values = [_design_values(spec, number, block, name) for name in SEARCHED]
        for combination in product(*values):
            point = Point(**dict(zip(SEARCHED, combination, strict=True)))
            config = trial_config(spec, point)
            if config is None:
                raise ValueError(
                    f"design[{number}].target_depth: that point's network has no {point.target_depth!r}; it has "
                    f"the layers {in_words(spec.layers(point.hidden_layers))}"
                )
            yield point, config


def _design_values(spec: "StudySpec", number: int, block: DesignPoints, name: str) -> list[Any]:
    values = block.values(name) or spec.space.fixed(name)
    if not values:
        raise ValueError(f"design[{number}].{name}: missing, and space.{name} leaves it open. Give a value")
    for value in values:
        # If nothing is searched, design points may lie outside the space.
        if spec.sampler != "design" and not spec.space.contains(name, value):
            raise ValueError(f"design[{number}].{name}: {value!r} lies outside space.{name}. Widen the space")
    return values


def _checked(model: type[_Section], **fields: Any) -> _Section:
    """The model of these fields; errors become plain ConfigErrors, because this runs within a validation."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
