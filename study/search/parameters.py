"""Trials of a study as parameters of Optuna, and choices of Optuna's as trials."""

import contextlib
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial

from study.spec import StudySpec
from study.spec.dimensions import ANY, Dimension
from study.spec.ranges import Range, WeightRange
from study.spec.trials import Values, lies_in
from trainables.auxiliary import get_auxiliary_task
from trainables.config import SelfModelConfig
from trainables.errors import ConfigError
from trainables.fields import FIELDS, TARGET, with_effect
from trainables.targets import has_target, target_depths
from trainables.trial import TrialConfig

# Number of random trials that are drawn to learn what a space costs.
LOOKS = 64
# The yes/no parameter that chooses the baseline beside a range of weights.
SELF_MODELING = "self_modeling"

Parameters = dict[str, tuple[Any, BaseDistribution]]


def parameters_in(trial: optuna.Trial | FrozenTrial) -> Parameters:
    """The parameters that a trial of Optuna has."""
    params = trial.params
    return {name: (params[name], distribution) for name, distribution in trial.distributions.items()}


def fields_of_trial(parameters: Parameters) -> dict[str, Any]:
    """Values and distributions apart, as `create_trial` takes them: `params` and `distributions`."""
    return {
        "params": {name: value for name, (value, _) in parameters.items()},
        "distributions": {name: distribution for name, (_, distribution) in parameters.items()},
    }


def quieten_optuna() -> None:
    """Silence Optuna's messages on studies and trials; its warnings on a database come as errors of ours as well."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def suggest_trial(
    trial: optuna.trial.BaseTrial, spec: StudySpec, is_taken: Callable[[TrialConfig], bool] = lambda config: False
) -> TrialConfig:
    """Let Optuna choose a trial: each dimension of the space that is left open becomes a parameter of the same name.

    A range of aux_weight with a baseline adds the yes/no parameter `self_modeling`, as long as `is_taken` does not say
    that the baseline has run: a network has only one. A field that has no effect is not chosen, so that a baseline has
    no target. Targets are chosen from the layers of the network.

    Raises:
        ConfigError: the choices contradict each other.
    """
    task = _suggest(trial, "task", list(spec.tasks))
    architecture = _suggest(trial, _label_of_architecture(spec, task), list(spec.architectures_of(task)))
    values = spec.base(task, architecture)
    for name in spec.free_names:
        if name not in with_effect(values):
            continue
        dimension = _dimension(spec, name, values)
        if isinstance(dimension, WeightRange):
            offered = dimension.baseline and not is_taken(_baseline(spec, values))
            modeling = trial.suggest_categorical(SELF_MODELING, [False, True]) if offered else True
            chosen = _suggest(trial, name, dimension) if modeling else 0.0
        else:
            chosen = _suggest(trial, _label(spec, name, values), dimension)
        values = values | {name: chosen}
    config = spec.make_trial(values)
    assert config is not None, "the space offers only targets that the network has"
    return config


def parameters_of(spec: StudySpec, config: TrialConfig, baseline_is_taken: bool = False) -> Parameters:
    """The parameters, with their distributions, by which the search of a study comes to a trial.

    A choice that the space does not allow is left out, and so is one that has no other. `baseline_is_taken` tells
    whether the baseline of the trial's network came before: it was not offered again.
    """
    if spec.is_enumerated:
        return _listed_parameters(spec, config)
    task, architecture = config.task, config.network.architecture
    if not _has(spec, config):
        return {}
    values = spec.base(task, architecture)
    found = _parameter("task", task, list(spec.tasks))
    found |= _parameter(_label_of_architecture(spec, task), architecture, list(spec.architectures_of(task)))
    for name in spec.free_names:
        if name not in with_effect(values):
            continue
        dimension = _dimension(spec, name, values)
        if isinstance(dimension, WeightRange):
            weight = config.self_model.aux_weight
            if dimension.baseline and not baseline_is_taken:
                found |= _parameter(SELF_MODELING, weight > 0, [False, True])
            if weight > 0:
                found |= _parameter(name, weight, dimension)
            chosen: Any = weight
        else:
            chosen = _value_in(config, name, dimension)
            found |= _parameter(_label(spec, name, values), chosen, dimension)
        values = values | {name: chosen}
    return found


def baseline_of(config: TrialConfig) -> TrialConfig:
    """The baseline of a trial's network and settings."""
    return config.model_copy(update={"self_model": SelfModelConfig()})


def offers(spec: StudySpec, config: TrialConfig) -> bool:
    """Whether a study lists this trial, or its search can come to it."""
    if spec.is_enumerated:
        return spec.lists(config.model_copy(update={"seeds": spec.seeds}))
    if not _has(spec, config):
        return False
    values = spec.base(config.task, config.network.architecture)
    for name in spec.free_names:
        if name not in with_effect(values):
            continue
        dimension = _dimension(spec, name, values)
        chosen = _value_in(config, name, dimension)
        if name == "control" and isinstance(dimension, list) and chosen not in dimension:
            # A control of strength 0 is the baseline.
            chosen = next((each for each in dimension if get_auxiliary_task(each).strength is not None), chosen)
        if not lies_in(dimension, name, chosen):
            return False
        values = values | {name: chosen}
    return spec.make_trial(values) == config.model_copy(update={"seeds": spec.seeds})


def _has(spec: StudySpec, config: TrialConfig) -> bool:
    """Whether a study has the task and, for it, the architecture of a trial."""
    return config.task in spec.tasks and config.network.architecture in spec.architectures_of(config.task)


def random_trials(spec: StudySpec) -> list[TrialConfig]:
    """Up to LOOKS random trials of the space, the same every time; choices that contradict each other are left out."""
    return [config for config, _ in _looks(spec)]


def parameters_of_space(spec: StudySpec) -> tuple[dict[str, BaseDistribution], set[str]]:
    """The parameters that the sampler of a study will be asked for, and those of them that only some trials have.

    They are those of LOOKS random trials.
    """
    looks = [found for _, found in _looks(spec)]
    every = {name: distribution for found in looks for name, distribution in found.items()}
    return every, {name for name in every if any(name not in found for found in looks)}


def _looks(spec: StudySpec) -> list[tuple[TrialConfig, dict[str, BaseDistribution]]]:
    quieten_optuna()
    study = optuna.create_study(sampler=RandomSampler(seed=spec.seed))
    found = []
    for _ in range(LOOKS):
        trial = study.ask()
        with contextlib.suppress(ConfigError):
            found.append((suggest_trial(trial, spec), trial.distributions))
    return found


def _dimension(spec: StudySpec, name: str, values: Values) -> Dimension:
    """What the search may choose for a field: of targets, those that the network has."""
    dimension = spec.dimension(name, values)
    if name == TARGET and isinstance(dimension, list):
        layers = spec.layers(values)
        return [target for target in dimension if has_target(target, layers)]
    return dimension


def _label(spec: StudySpec, name: str, values: Values) -> str:
    """The name of a field's parameter. Optuna wants the same choices at every use of a name."""
    if name == TARGET:
        if spec.space_dimension(name, values) == [ANY] or len(spec.values(name)) == 1:
            return name
        several = f"{values['task']}_" if len(spec.tasks) > 1 else ""
        several += f"{values['architecture']}_" if len(spec.architectures) > 1 else ""
        return f"{name}_of_{several}{values['hidden_layers']}"
    given = spec.space.by_name(name)
    if not given:
        return name
    by_task = len(spec.tasks) > 1 and values["architecture"] not in given
    return f"{name}_of_{values['task' if by_task else 'architecture']}"


def _label_of_architecture(spec: StudySpec, task: str) -> str:
    """The name of the parameter that chooses the architecture: tasks with the same ones share it."""
    same = all(spec.architectures_of(each) == spec.architectures_of(task) for each in spec.tasks)
    return "architecture" if same else f"architecture_of_{task}"


def _suggest(trial: optuna.trial.BaseTrial, label: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Range):
        suggest = trial.suggest_int if dimension.whole else trial.suggest_float
        steps = {} if dimension.step is None else {"step": dimension.step}
        return suggest(label, dimension.low, dimension.high, log=dimension.log, **steps)
    if _is_depths(label, dimension):
        return trial.suggest_int(label, dimension[0], dimension[-1])
    return trial.suggest_categorical(label, dimension) if len(dimension) > 1 else dimension[0]


def _is_depths(label: str, dimension: list[Any]) -> bool:
    """Whether these are the layers of a network, as target 'any' stands for: a range of depths plots better."""
    return label == TARGET and len(dimension) > 1 and dimension == list(range(1, len(dimension) + 1))


def _distribution(label: str, dimension: Dimension) -> BaseDistribution | None:
    """The distribution that `_suggest` uses; None if there is nothing to choose."""
    if isinstance(dimension, Range):
        if dimension.whole:
            return IntDistribution(dimension.low, dimension.high, dimension.log, dimension.step or 1)
        return FloatDistribution(dimension.low, dimension.high, dimension.log, dimension.step)
    if _is_depths(label, dimension):
        return IntDistribution(dimension[0], dimension[-1])
    return CategoricalDistribution(dimension) if len(dimension) > 1 else None


def _parameter(label: str, value: Any, dimension: Dimension) -> Parameters:
    distribution = _distribution(label, dimension)
    if distribution is None or not lies_in(dimension, label, value):
        return {}
    return {label: (value, distribution)}


def _value_in(config: TrialConfig, name: str, dimension: Dimension) -> Any:
    """The value of a field in a trial; a target by the name that the dimension has for it."""
    if name != TARGET:
        return FIELDS[name].value_in(config)
    depths, layers = config.self_model.target_depths, config.layers
    assert isinstance(dimension, list)
    named = [each for each in dimension if has_target(each, layers) and target_depths(each, layers) == depths]
    return named[0] if named else depths


def _baseline(spec: StudySpec, values: Values) -> TrialConfig:
    """The baseline of a network and its settings."""
    config = spec.make_trial(values | {"control": FIELDS["control"].info.default, "aux_weight": 0.0})
    assert config is not None, "a baseline has no target"
    return config


def _listed_parameters(spec: StudySpec, config: TrialConfig) -> Parameters:
    """The parameters of a trial that a study lists: nothing is drawn, and numbers in a range plot better than words."""
    effective = with_effect(config.flat())
    found: Parameters = {}
    for name in spec.names:
        if name not in effective:
            continue
        # A grid may have thousands of numbers in a dimension, and a trial must not cost more for them.
        numbers = spec.numbers(name)
        values = [] if numbers and name != TARGET else [value for value in spec.values(name) if value != ANY]
        value = _value_in(config, name, values)
        if numbers and isinstance(value, int | float) and not isinstance(value, bool):
            low, high = min(*numbers, value), max(*numbers, value)
            whole = all(isinstance(each, int) for each in (*numbers, value))
            found[name] = (value, IntDistribution(int(low), int(high)) if whole else FloatDistribution(low, high))
        elif len(values) > 1 and value in values:
            found[name] = (value, CategoricalDistribution(values))
    return found
