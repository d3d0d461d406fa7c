"""Points of the search space to Optuna parameters and back, and the samplers."""

import hashlib
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FixedTrial

from study.spec import ListedTrial, Point, StudySpec
from study.spec.dimensions import WeightRange, known_values
from trainables.auxiliary import get_auxiliary_task
from trainables.targets import target_depths

# Number of random points that are drawn to learn which parameters a space has.
LOOKS = 64


def quieten_optuna() -> None:
    """Silence Optuna's messages on studies and trials; its warnings on a database come as errors of ours as well."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def make_sampler(spec: StudySpec, trial: int, attempt: int, at_random: bool = False) -> BaseSampler:
    """The sampler that the spec names, or one that draws at random, for one suggestion.

    Its random numbers depend on the study's seed, the number of trials before this one and the suggestions for it that
    were known already. A study that goes on after a crash therefore draws the numbers that it would have drawn.
    """
    digest = hashlib.sha256(f"{spec.seed}/{trial}/{attempt}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if spec.sampler == "nsga2" and not at_random:
        return NSGAIISampler(seed=seed)
    if spec.sampler == "tpe" and not at_random:
        # Trials run in parallel: constant_liar avoids points that another running trial is at.
        return TPESampler(seed=seed, constant_liar=True)
    return RandomSampler(seed=seed)


def suggest_point(
    trial: optuna.trial.BaseTrial,
    spec: StudySpec,
    baseline_is_taken: Callable[[int, int], bool] = lambda hidden_layers, width: False,
) -> Point:
    """Choose a point: each dimension left open becomes an Optuna parameter of the same name.

    A range of aux_weight with a baseline adds the yes/no parameter `self_modeling`, as long as the baseline of that
    network has not run: a network has only one. Dimensions that a trial does not use are not chosen: a baseline has no
    target, a control without prediction no form of target. `target_depth` is chosen from the layers of the network.
    """
    hidden_layers = int(_suggest_number(trial, spec, "hidden_layers"))
    width = int(_suggest_number(trial, spec, "width"))
    control = str(_suggest_category(trial, spec, "control"))
    auxiliary, weights = get_auxiliary_task(control), spec.space.aux_weight
    if auxiliary.strength is None:
        aux_weight = 0.0
    elif isinstance(weights, WeightRange) and not spec.is_enumerated:
        offered = weights.baseline and not baseline_is_taken(hidden_layers, width)
        modeling = trial.suggest_categorical("self_modeling", [False, True]) if offered else True
        aux_weight = trial.suggest_float("aux_weight", weights.low, weights.high, log=weights.log) if modeling else 0.0
    else:
        aux_weight = float(_suggest_number(trial, spec, "aux_weight"))
    if not auxiliary.needs_targets(aux_weight):
        return Point(hidden_layers, width, aux_weight, "last", control)
    target = _suggest_target(trial, spec, hidden_layers)
    options = {name: _suggest_category(trial, spec, name) for name in auxiliary.options}
    return Point(hidden_layers, width, aux_weight, target, control, **options)


def point_as_params(point: Point, spec: StudySpec) -> dict[str, Any]:
    """The Optuna parameters that make `suggest_point` choose this point."""
    auxiliary = get_auxiliary_task(point.control)
    params: dict[str, Any] = {"hidden_layers": point.hidden_layers, "width": point.width, "control": point.control}
    if auxiliary.strength is not None:
        searched = isinstance(spec.space.aux_weight, WeightRange) and not spec.is_enumerated
        if searched:
            params["self_modeling"] = point.aux_weight > 0
        if point.aux_weight > 0 or not searched:
            params["aux_weight"] = point.aux_weight
    if auxiliary.needs_targets(point.aux_weight):
        target = point.target_depth
        if spec.space.target_depth == "any" and not spec.is_enumerated:
            (target,) = target_depths(target, spec.layers(point.hidden_layers))
        params[_target_name(spec, point.hidden_layers)] = target
        params |= {name: getattr(point, name) for name in auxiliary.options}
    return params


def _suggest_number(trial: optuna.trial.BaseTrial, spec: StudySpec, name: str) -> float:
    choices = spec.choices(name)
    if choices is None:
        dimension = getattr(spec.space, name)
        return trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
    if not spec.is_enumerated:
        return float(trial.suggest_categorical(name, choices)) if len(choices) > 1 else float(choices[0])
    # All trials are enqueued and nothing is drawn: a numeric range plots better than categories, and can grow later.
    if name == "aux_weight":
        return trial.suggest_float(name, min(choices), max(choices))
    return trial.suggest_int(name, min(choices), max(choices))


def _suggest_category(trial: optuna.trial.BaseTrial, spec: StudySpec, name: str) -> Any:
    choices = spec.choices(name)
    assert choices is not None
    if len(choices) == 1:
        return choices[0]
    # Optuna's choices cannot grow: a study that only lists its trials offers all known values.
    return trial.suggest_categorical(name, known_values(name) if spec.is_enumerated else choices)


def _suggest_target(trial: optuna.trial.BaseTrial, spec: StudySpec, hidden_layers: int) -> int | str:
    name = _target_name(spec, hidden_layers)
    if spec.space.target_depth == "any" and not spec.is_enumerated:
        return trial.suggest_int(name, 1, len(spec.layers(hidden_layers)))
    choices = spec.targets_within(hidden_layers)
    if len(choices) == 1:
        return choices[0]
    chosen = trial.suggest_categorical(name, choices)
    assert isinstance(chosen, int | str)
    return chosen


def _target_name(spec: StudySpec, hidden_layers: int) -> str:
    """Optuna needs the same choices at every use of a categorical name, so there is one name per number of layers."""
    return f"target_depth_of_{hidden_layers}" if len(spec.choices("target_depth") or ()) > 1 else "target_depth"


def random_trials(spec: StudySpec) -> list[ListedTrial]:
    """The trials at LOOKS random points of the space, the same every time."""
    quieten_optuna()
    study = optuna.create_study(sampler=RandomSampler(seed=spec.seed))
    points = [suggest_point(study.ask(), spec) for _ in range(LOOKS)]
    return [ListedTrial(point, config) for point in points if (config := spec.trial_config(point)) is not None]


def distributions(spec: StudySpec) -> dict[str, BaseDistribution]:
    """Name and distribution of every Optuna parameter that the space can use."""
    if spec.is_enumerated:
        listed: dict[str, BaseDistribution] = {}
        for point, _ in spec.listed():
            fixed = FixedTrial(point_as_params(point, spec))
            suggest_point(fixed, spec)
            listed |= fixed.distributions
        return listed
    study = optuna.create_study(sampler=RandomSampler(seed=spec.seed))
    found: dict[str, BaseDistribution] = {}
    for _ in range(LOOKS):
        trial = study.ask()
        suggest_point(trial, spec)
        found |= trial.distributions
    return found
