"""The sampler of a study, made anew for every suggestion, and the check of its options before the first trial.

docs/search.md says what each sampler does with constraints, running trials, conditional parameters and noise.
"""

import contextlib
import hashlib
import importlib
import inspect
import random
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from study.errors import StudyError, first_line
from study.shown import shown
from study.spec.sampler import SamplerConfig
from trainables.registry import did_you_mean

SAMPLERS: dict[str, type[BaseSampler]] = {
    "tpe": TPESampler,
    "nsga2": NSGAIISampler,
    "nsga3": NSGAIIISampler,
    "gp": GPSampler,
    "cmaes": CmaEsSampler,
    "random": RandomSampler,
    "qmc": QMCSampler,
}
# Options that differ from Optuna's defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    # Without scrambling, every study has the same points, and a corner of the space is the first.
    "qmc": {"scramble": True},
}
# Parameters of a sampler that the study sets: its seed, and constraints, which every trial has for itself.
SET_BY_STUDY = ("seed", "constraints_func")
# Finished trials of the rehearsal; samplers draw at random until they have seen some.
MOST_REHEARSED = 100


def make_sampler(
    sampler: SamplerConfig, study_seed: int, trial: int, attempt: int, at_random: bool = False
) -> BaseSampler:
    """The sampler that a study names, or one that draws at random, for one suggestion.

    Its random numbers depend on the study's seed, the trial's place in the search and the suggestions for it that were
    known already. A search that goes on after a crash therefore draws the numbers that it would have drawn.

    Raises:
        StudyError: the sampler cannot be made; `check_sampler` says so before the first trial.
    """
    seed = _digest(f"{study_seed}/{trial}/{attempt}")
    if at_random:
        return RandomSampler(seed=seed)
    if sampler.name == "qmc":
        # A point of the sequence that is known already has no other: the next try is at random.
        return RandomSampler(seed=seed) if attempt else _quasi_random(sampler, study_seed, trial, seed)
    return _construct(_class_of(sampler), sampler, seed)


def draws_at_random(sampler: SamplerConfig) -> bool:
    """Whether the sampler draws at random the parameters that only some trials have, and learns nothing of them.

    Of a sampler that is not known here, nothing is assumed.
    """
    return sampler.name not in ("tpe", "random")


def check_sampler(sampler: SamplerConfig, objectives: int, numeric_only: bool) -> None:
    """Check the options, and that the sampler suggests a point in a rehearsal with made-up results.

    Code named by an import path, or of OptunaHub, is imported and run.

    Args:
        sampler: one that chooses trials.
        objectives: the number of objectives of the study.
        numeric_only: whether all parameters of the space are ranges of numbers.

    Raises:
        StudyError: a package is missing, an option is unknown or has a wrong value, or the sampler cannot search with
            these objectives or in this space.
    """
    if sampler.name == "cmaes" and objectives > 1:
        raise StudyError(
            f"sampler: cmaes searches for one objective, and the study has {objectives}. Keep one, or take tpe, gp, "
            "nsga2 or nsga3."
        )
    if sampler.name == "cmaes" and not numeric_only:
        raise StudyError(
            "sampler: cmaes searches ranges of numbers alone, and the space has a list of choices. Give a range or one "
            "value in its place, or take tpe or gp."
        )
    kind = _class_of(sampler)
    for name, value in sampler.options.items():
        _check_option(sampler, kind, name, value)
    try:
        _rehearse(_construct(kind, sampler, seed=0), sampler, objectives, numeric_only)
    except ModuleNotFoundError as error:
        raise StudyError(
            f"sampler: {sampler.name} needs the package {error.name}, which is not installed. pip install {error.name}"
        ) from error
    except StudyError:
        raise
    except Exception as error:  # It is code of a library, or the user's own.
        raise StudyError(
            f"sampler: {sampler} fails in a rehearsal with {objectives} objective(s): {type(error).__name__}: "
            f"{first_line(error).removesuffix('.')}. Correct its options, or take another sampler."
        ) from error


def looks_at_results(sampler: SamplerConfig) -> bool:
    """Whether what the sampler chooses depends on how other trials have ended."""
    return sampler.name != "random"


def knows_by_trials_alone(sampler: SamplerConfig, objectives: int) -> bool:
    """Whether the sampler keeps no notes: parameters, values and constraints of all trials are what it goes by.

    Genetic samplers note generations, CMA-ES its state, and a TPE that draws several parameters at once what it drew.
    Of a sampler that is not known here, notes are assumed.
    """
    if sampler.name == "tpe":
        multivariate = sampler.options.get("multivariate")
        return not (objectives == 1 if multivariate is None else multivariate) and not sampler.options.get("group")
    return sampler.name in ("gp", "qmc", "random")


class _SequenceByTrial(QMCSampler):
    """Quasi-random points, of which a trial takes the one of its own number.

    QMCSampler counts in the study how many points it has drawn; a search that goes on would draw the same points once
    more.
    """

    def __init__(self, *, place: int, **options: Any):
        super().__init__(**options)
        self._place = place

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._place


def _quasi_random(sampler: SamplerConfig, study_seed: int, trial: int, seed: int) -> BaseSampler:
    # All trials share one sequence, and so its seed; what is not in the sequence is drawn with a seed of the trial.
    options: dict[str, Any] = DEFAULTS["qmc"] | sampler.options
    with _quietly():
        return _SequenceByTrial(
            place=trial, seed=_digest(str(study_seed)), independent_sampler=RandomSampler(seed=seed), **options
        )


def _construct(kind: type[BaseSampler], sampler: SamplerConfig, seed: int) -> BaseSampler:
    options: dict[str, Any] = DEFAULTS.get(sampler.name, {}) | sampler.options
    parameters = inspect.signature(kind).parameters
    if "seed" in parameters or _takes_any(parameters):
        options["seed"] = seed
    with _quietly():
        made = kind(**options)
    if isinstance(made, BaseGASampler):
        _count_enqueued_trials(made)
    return made


def _count_enqueued_trials(sampler: BaseGASampler) -> None:
    """Give every trial a generation. Optuna gives one only to trials whose parameters it draws.

    Design points could then be no parents, and a trial that is interrupted and enqueued again would be missing from its
    generation.
    """
    before = sampler.before_trial

    def before_trial(study: optuna.Study, trial: FrozenTrial) -> None:
        before(study, trial)
        sampler.get_trial_generation(study, trial)

    sampler.before_trial = before_trial  # type: ignore[method-assign]


def _class_of(sampler: SamplerConfig) -> type[BaseSampler]:
    if sampler.name in SAMPLERS:
        return SAMPLERS[sampler.name]
    if sampler.hub_package is not None:
        return _class_of_hub(sampler.hub_package)
    assert sampler.import_path is not None, f"{sampler.name} chooses no trials"
    module_name, class_name = sampler.import_path
    module = _imported(
        sampler, lambda: importlib.import_module(module_name), f"Is the folder of {module_name} on PYTHONPATH?"
    )
    kind: object = getattr(module, class_name, None)
    if not _is_sampler_class(kind):
        found = [name for name, value in vars(module).items() if _is_sampler_class(value)]
        raise StudyError(
            f"sampler: {sampler.name} is no complete subclass of optuna.samplers.BaseSampler. "
            f"In {module_name}, {did_you_mean(class_name, found)}the samplers are: {', '.join(found) or 'none'}."
        )
    return kind


def _class_of_hub(package: str) -> type[BaseSampler]:
    sampler = SamplerConfig(name=f"optunahub:{package}")
    try:
        hub = importlib.import_module("optunahub")
    except ModuleNotFoundError as error:
        raise StudyError(
            f"sampler: {sampler.name} needs the package {error.name}, which is not installed. pip install optunahub"
        ) from error
    module = _imported(
        sampler,
        lambda: hub.load_module(package),
        "hub.optuna.org lists the packages; the first use downloads the package from GitHub.",
    )
    names = getattr(module, "__all__", None) or list(vars(module))
    found = [value for name in names if _is_sampler_class(value := getattr(module, name, None))]
    # A module may import the samplers that its own one is built on.
    kinds: list[type[BaseSampler]] = [kind for kind in found if kind.__module__.startswith(module.__name__)]
    if len(kinds) != 1:
        raise StudyError(
            f"sampler: {sampler.name} has {len(kinds)} sampler classes "
            f"({', '.join(kind.__name__ for kind in kinds) or 'none'}). Import the one meant in a module of your own, "
            "and give package.module:Class."
        )
    return kinds[0]


def _imported(sampler: SamplerConfig, load: Callable[[], types.ModuleType], advice: str) -> types.ModuleType:
    try:
        return load()
    except Exception as error:  # It is code of the user, or of the hub.
        raise StudyError(
            f"sampler: {sampler.name} cannot be imported: {type(error).__name__}: "
            f"{first_line(error).removesuffix('.')}. {advice}"
        ) from error


def _is_sampler_class(value: object) -> typing.TypeGuard[type[BaseSampler]]:
    return isinstance(value, type) and issubclass(value, BaseSampler) and not inspect.isabstract(value)


def _check_option(sampler: SamplerConfig, kind: type[BaseSampler], name: str, value: Any) -> None:
    if name in SET_BY_STUDY:
        raise StudyError(f"sampler: {sampler.name}'s {name} is set by the study. Remove it from the options.")
    parameters = inspect.signature(kind).parameters
    options = {each: checker for each in parameters if (checker := _checker(kind, parameters[each])) is not None}
    if name not in parameters and _takes_any(parameters):
        return
    if name not in options:
        what = "is an object of Python, which a study cannot hold" if name in parameters else "is unknown"
        listed = f"options of {sampler.name}: {', '.join(options)}" if options else f"{sampler.name} has no options"
        raise StudyError(f"sampler: option {shown(name)} {what}; {did_you_mean(name, options)}{listed}.")
    try:
        options[name].validate_python(value, strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]["msg"].removeprefix("Input ")
        raise StudyError(f"sampler: {sampler.name}'s {name} is {shown(value)}; it {wrong}.") from error


def _checker(kind: type[BaseSampler], parameter: inspect.Parameter) -> TypeAdapter[Any] | None:
    """What checks the value of an option; None if a study file cannot hold its values: callables, other samplers."""
    if parameter.name in SET_BY_STUDY or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        return None
    if parameter.annotation is parameter.empty:
        return TypeAdapter(Any)
    alone = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        # Libraries import many types for the type checker alone: their names are unknown here.
        hints = typing.get_type_hints(alone, globalns=getattr(inspect.unwrap(kind.__init__), "__globals__", {}))
        return TypeAdapter(hints[parameter.name])
    except (NameError, AttributeError, TypeError, PydanticSchemaGenerationError):
        return None


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())


def _rehearse(search: BaseSampler, sampler: SamplerConfig, objectives: int, numeric_only: bool) -> None:
    """Let the sampler search a small space with made-up results, until it no longer draws at random.

    Raises:
        Exception: whatever the sampler raises.
    """
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1), "n": IntDistribution(1, 8)}
    if not numeric_only:
        space["choice"] = CategoricalDistribution(["a", "b"])
    results = random.Random(0)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(directions=["minimize"] * objectives, sampler=search)
        for _ in range(min(_trials_at_random(type(search), sampler) + 1, MOST_REHEARSED)):
            trial = study.ask(space)
            trial.set_constraint("learned", results.choice([0.0, 1.0]))
            study.tell(trial, [results.random() for _ in range(objectives)])


def _trials_at_random(kind: type[BaseSampler], sampler: SamplerConfig) -> int:
    """How many trials a sampler draws at random at first: its start-up, or a first generation."""
    parameters = inspect.signature(kind).parameters
    counts = [
        sampler.options.get(name, parameters[name].default)
        for name in ("n_startup_trials", "population_size")
        if name in parameters
    ]
    return max((count for count in counts if isinstance(count, int)), default=1)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings that a sampler or an option is experimental or deprecated: they would come at every trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _digest(text: str) -> int:
    """A seed that follows from a text: 32 bits, the most that NumPy takes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
