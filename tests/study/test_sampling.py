"""Points of the space as Optuna parameters, and back."""

import warnings
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import check_distribution_compatibility
from optuna.samplers import RandomSampler

from study.search.parameters import distributions, point_as_params, suggest_point
from study.spec import Point, StudySpec, build_spec
from trainables.auxiliary import AUXILIARY_TASKS

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


def chosen_by(params: dict[str, Any], spec: StudySpec) -> Point:
    """The point that Optuna's parameters choose; a value outside its distribution is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return suggest_point(optuna.trial.FixedTrial(params), spec)


@settings(max_examples=60, deadline=None)
@given(spec=listed_studies())
def test_the_parameters_of_a_listed_point_choose_its_trial(spec: StudySpec) -> None:
    for point, _ in spec.listed():
        assert spec.trial_config(chosen_by(point_as_params(point, spec), spec)) == spec.trial_config(point)


@settings(max_examples=60, deadline=None)
@given(spec=searched_studies(), seed=st.integers(0, 1000))
def test_the_parameters_of_a_sampled_point_choose_it_again(spec: StudySpec, seed: int) -> None:
    trial = optuna.create_study(sampler=RandomSampler(seed=seed)).ask()
    point = suggest_point(trial, spec)
    params = point_as_params(point, spec)
    assert trial.params.items() <= params.items(), "Optuna chose the values of the point"
    assert chosen_by(params, spec) == point
    assert spec.trial_config(point) is not None, "the search chooses only targets that exist"


@settings(max_examples=30, deadline=None)
@given(spec=listed_studies())
def test_the_parameters_of_listed_points_are_known_beforehand_and_the_same_at_every_point(spec: StudySpec) -> None:
    known = distributions(spec)
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for point, _ in spec.listed():
        study.enqueue_trial(point_as_params(point, spec))
        trial = study.ask()
        suggest_point(trial, spec)
        assert trial.distributions.items() <= known.items()


@settings(max_examples=30, deadline=None)
@given(spec=searched_studies(), seed=st.integers(0, 1000))
def test_the_parameters_of_a_search_have_the_same_distributions_in_every_trial(spec: StudySpec, seed: int) -> None:
    known = distributions(spec)
    trial = optuna.create_study(sampler=RandomSampler(seed=seed)).ask()
    suggest_point(trial, spec)
    for name, distribution in trial.distributions.items():
        # A parameter that occurs once in a hundred trials may be unknown.
        check_distribution_compatibility(known.get(name, distribution), distribution)
