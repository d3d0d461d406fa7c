"""Points of the search space as Optuna parameters, both ways, and the samplers."""

from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from study.space import IntRange, SearchSpace, WeightRange
from study.spec import Point, StudySpec

# Random places that are looked at to learn what a space offers.
LOOKS = 64


def make_sampler(spec: StudySpec, trials_before: int) -> BaseSampler:
    """The sampler that the spec names, seeded so that a study that goes on does not draw the same numbers again."""
    seed = spec.seed + trials_before
    if spec.sampler == "nsga2":
        return NSGAIISampler(seed=seed)
    if spec.sampler == "tpe":
        # Trials run side by side: constant_liar keeps one from repeating what another is trying.
        return TPESampler(seed=seed, constant_liar=True)
    return RandomSampler(seed=seed)


def suggest_point(
    trial: optuna.trial.BaseTrial,
    space: SearchSpace,
    is_grid: bool = False,
    baseline_is_taken: Callable[[int, int], bool] = lambda hidden_layers, width: False,
) -> Point:
    """Choose a point: each dimension left open becomes an Optuna parameter of the same name.

    A range of aux_weight with a baseline adds the yes/no parameter `self_modeling`, as long as the baseline of that
    network has not run: a network has only one. `target_depth` is chosen among the layers that the chosen number of
    layers has, and only where there is something to target.
    """
    hidden_layers = int(_suggest_number(trial, space, "hidden_layers", is_grid))
    width = int(_suggest_number(trial, space, "width", is_grid))
    weights = space.aux_weight
    if isinstance(weights, WeightRange):
        offered = weights.baseline and not baseline_is_taken(hidden_layers, width)
        modeling = trial.suggest_categorical("self_modeling", [False, True]) if offered else True
        aux_weight = trial.suggest_float("aux_weight", weights.low, weights.high, log=weights.log) if modeling else 0.0
    else:
        aux_weight = float(_suggest_number(trial, space, "aux_weight", is_grid))
    target = _suggest_target(trial, space, hidden_layers) if aux_weight > 0 else hidden_layers
    return Point(hidden_layers, width, aux_weight, target)


def point_as_params(point: Point, spec: StudySpec) -> dict[str, Any]:
    """The Optuna parameters that make `suggest_point` choose this point."""
    space = spec.space
    params: dict[str, Any] = {"hidden_layers": point.hidden_layers, "width": point.width}
    if isinstance(space.aux_weight, WeightRange):
        params["self_modeling"] = point.aux_weight > 0
    if point.aux_weight > 0 or not isinstance(space.aux_weight, WeightRange):
        params["aux_weight"] = point.aux_weight
    if point.aux_weight > 0:
        target = (
            point.hidden_layers if point.target_depth == "last" and space.target_depth == "any" else point.target_depth
        )
        params[_target_name(space, point.hidden_layers)] = target
    return params


def _suggest_number(trial: optuna.trial.BaseTrial, space: SearchSpace, name: str, is_grid: bool) -> float:
    dimension = getattr(space, name)
    if isinstance(dimension, IntRange):
        return trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
    choices = space.choices(name)
    assert choices is not None
    if not is_grid:
        return float(trial.suggest_categorical(name, choices)) if len(choices) > 1 else float(choices[0])
    # The cells are enqueued, nothing is drawn: a numeric axis plots better than categories, and may grow later.
    if name == "aux_weight":
        return trial.suggest_float(name, min(choices), max(choices))
    return trial.suggest_int(name, min(choices), max(choices))


def _suggest_target(trial: optuna.trial.BaseTrial, space: SearchSpace, hidden_layers: int) -> int | str:
    name = _target_name(space, hidden_layers)
    if space.target_depth == "any":
        return trial.suggest_int(name, 1, hidden_layers)
    choices = space.targets_within(hidden_layers)
    if len(choices) == 1:
        return choices[0]
    chosen = trial.suggest_categorical(name, choices)
    assert isinstance(chosen, int | str)
    return chosen


def _target_name(space: SearchSpace, hidden_layers: int) -> str:
    """Optuna needs the same choices at every use of a categorical name: one name per number of layers."""
    return f"target_depth_of_{hidden_layers}" if isinstance(space.target_depth, list) else "target_depth"


def random_points(spec: StudySpec) -> list[Point]:
    """LOOKS random places of the space, the same every time."""
    study = optuna.create_study(sampler=RandomSampler(seed=spec.seed))
    return [suggest_point(study.ask(), spec.space) for _ in range(LOOKS)]


def distributions(spec: StudySpec) -> dict[str, BaseDistribution]:
    """Name and distribution of every Optuna parameter that the space can ask for."""
    study = optuna.create_study(sampler=RandomSampler(seed=spec.seed))
    found: dict[str, BaseDistribution] = {}
    for _ in range(LOOKS):
        trial = study.ask()
        suggest_point(trial, spec.space, is_grid=spec.sampler == "grid")
        found |= trial.distributions
    return found
