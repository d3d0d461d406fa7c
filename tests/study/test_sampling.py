"""Trials of a study as parameters of Optuna, and choices of Optuna's as trials."""

import warnings
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.samplers import RandomSampler

from study.search.parameters import Parameters, baseline_of, parameters_of, suggest_trial
from study.spec import StudySpec, build_spec
from trainables.auxiliary import AUXILIARY_TASKS
from trainables.targets import target_depths
from trainables.trial import TrialConfig

TARGETS = {1: 1, 2: 2, "last": 1, "all": 1, "1+2": 2, "hidden1": 1, "hidden2": 2, "hidden1+hidden3": 3}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@st.composite
def dimensions(draw: st.DrawFn, in_every_network: bool) -> dict[str, Any]:
    """A value or a list of values for each dimension; targets that every network has, or that one of them has."""

    def some_of(*values: Any) -> list[Any]:
        chosen: list[Any] = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True))
        return chosen

    depths, detached = some_of(1, 2, 3), some_of(True, False)
    reach = min(depths) if in_every_network else max(depths)
    lists = {
        "hidden_layers": depths,
        "width": some_of(8, 16),
        "control": some_of(*AUXILIARY_TASKS),
        "aux_weight": some_of(0.0, 0.1, 0.5, 0.9),
        "target_depth": some_of(*(target for target, deepest in TARGETS.items() if deepest <= reach)),
        "detach_targets": detached,
        # No gradient passes through a sign.
        "target_form": some_of("raw", "standardized", *(["sign"] if all(detached) else [])),
        "unit_weighting": some_of("mean", "sum"),
        "head": some_of("widened", "separate"),
    }
    return {name: values[0] if len(values) == 1 else values for name, values in lists.items()}


@st.composite
def listed_studies(draw: st.DrawFn) -> StudySpec:
    """A grid, in which some networks may lack a target, or a design of one or two blocks."""
    if draw(st.booleans()):
        return make_spec(sampler="grid", space=draw(dimensions(in_every_network=False)))
    blocks = draw(st.lists(dimensions(in_every_network=True), min_size=1, max_size=2))
    return make_spec(sampler="design", design=blocks)


@st.composite
def searched_studies(draw: st.DrawFn) -> StudySpec:
    """A search whose dimensions are values, lists or ranges."""
    space = draw(dimensions(in_every_network=True))
    ranges = {
        "hidden_layers": {"low": 1, "high": 3},
        "aux_weight": {"low": 0.1, "high": 0.9, "baseline": draw(st.booleans())},
        "target_depth": "any",
    }
    for name in draw(st.sets(st.sampled_from(sorted(ranges)))):
        space[name] = ranges[name]
    if space["hidden_layers"] == ranges["hidden_layers"] and space["target_depth"] != "any":
        space["target_depth"] = ["last", 1]
    return make_spec(sampler="random", trials=1, space=space)


def make_spec(**fields: Any) -> StudySpec:
    return build_spec({"name": "any", "task": "digits"} | fields, "any")


def chosen_by(parameters: Parameters, spec: StudySpec) -> TrialConfig:
    """The trial that Optuna's parameters choose; a value outside its distribution is an error."""
    fixed = optuna.trial.FixedTrial({name: value for name, (value, _) in parameters.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = suggest_trial(fixed, spec)
    assert fixed.distributions == distributions_of(parameters)
    return config


def distributions_of(parameters: Parameters) -> dict[str, BaseDistribution]:
    return {name: distribution for name, (_, distribution) in parameters.items()}


def other_names(trial: optuna.Trial, config: TrialConfig) -> set[str]:
    """The choices by which the trial goes under another name: a control of strength 0 is the baseline, 'none'."""
    return {"control"} if trial.params.get("control", config.self_model.control) != config.self_model.control else set()


@settings(max_examples=60, deadline=None)
@given(spec=listed_studies())
def test_the_parameters_of_a_listed_trial_are_its_values_and_lie_in_their_distributions(spec: StudySpec) -> None:
    trials = list(spec.listed())
    for config in trials:
        flat = config.flat()
        for name, (value, distribution) in parameters_of(spec, config).items():
            assert distribution._contains(distribution.to_internal_repr(value))
            if name == "target_depth":
                assert target_depths(value, config.layers) == config.self_model.target_depths
            else:
                assert value == flat[name]


@settings(max_examples=60, deadline=None)
@given(spec=listed_studies())
def test_different_listed_trials_have_different_parameters(spec: StudySpec) -> None:
    trials = list(spec.listed())
    values = [
        {name: value for name, (value, _) in parameters_of(spec, config).items()}
        | {"depths": config.self_model.target_depths}
        for config in trials
    ]
    assert all(values.count(each) == 1 for each in values)


@settings(max_examples=60, deadline=None)
@given(spec=searched_studies(), seed=st.integers(0, 1000))
def test_the_parameters_of_a_sampled_trial_are_those_that_chose_it_and_choose_it_again(
    spec: StudySpec, seed: int
) -> None:
    trial = optuna.create_study(sampler=RandomSampler(seed=seed)).ask()
    config = suggest_trial(trial, spec)
    parameters = parameters_of(spec, config)
    values = {name: value for name, (value, _) in parameters.items()}
    # A layer may have several names, of which one is its parameter: 1, 'hidden1'.
    ambiguous = {name for name in trial.params if name.startswith("target_depth")} | other_names(trial, config)
    assert {name: value for name, value in trial.params.items() if name not in ambiguous} == {
        name: value for name, value in values.items() if name not in ambiguous
    }
    if not other_names(trial, config):
        assert trial.distributions == distributions_of(parameters)
        assert chosen_by(parameters, spec) == config


@settings(max_examples=30, deadline=None)
@given(spec=searched_studies(), seed=st.integers(0, 1000))
def test_a_baseline_that_is_taken_is_not_offered_again(spec: StudySpec, seed: int) -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    taken: set[str] = set()
    for _ in range(8):
        trial = study.ask()
        config = suggest_trial(trial, spec, lambda baseline: baseline.key("") in taken)
        parameters = parameters_of(spec, config, baseline_of(config).key("") in taken)
        for name in other_names(trial, config):
            parameters[name] = (trial.params[name], trial.distributions[name])
        assert trial.distributions == distributions_of(parameters)
        if "self_modeling" in trial.params:
            assert trial.params["self_modeling"] or config.key("") not in taken
        taken.add(config.key(""))


@settings(max_examples=30, deadline=None)
@given(spec=searched_studies(), seed=st.integers(0, 1000))
def test_a_parameter_of_choices_has_the_same_choices_in_every_trial(spec: StudySpec, seed: int) -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    found: dict[str, BaseDistribution] = {}
    for _ in range(8):
        trial = study.ask()
        suggest_trial(trial, spec)
        for name, distribution in trial.distributions.items():
            check_distribution_compatibility(found.setdefault(name, distribution), distribution)
