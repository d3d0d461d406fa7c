"""The rules of early stopping: a trial that is worse beyond its error, and one that could still be as good."""

import warnings
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from scipy.stats import wilcoxon

from study.errors import StudyError
from study.search.front import KnownFront
from study.search.stopping import Direction, EarlyStopping, Rival, is_dominated, is_worse_by_seed
from study.search.view import STATUS, Ending
from study.spec import StudySpec, build_spec
from study.spec.stopping import StoppingConfig, compared_objectives
from study.spec.yaml_text import read_yaml, write_yaml
from trainables.outcomes import STOPPED_EARLY

Z, P = 2.58, 0.1
BOTH: dict[str, Direction] = {"val_accuracy": "maximize", "weight_std": "minimize"}
UP: dict[str, Direction] = {"a": "maximize"}
finite = st.floats(-100, 100).map(lambda value: round(value, 3))
replicates = st.lists(finite, min_size=2, max_size=8)

SEARCH: dict[str, Any] = {
    "name": "search",
    "task": "digits",
    "trials": 10,
    "replicates": 4,
    "space": {"aux_weight": {"low": 0.1, "high": 20}},
    "training": {"epochs": 8},
}
DOMINATED = {"rule": "dominated", "from_epoch": 3}
WILCOXON = {"rule": "wilcoxon", "from_epoch": 3}


def spec_of(**changes: Any) -> StudySpec:
    return build_spec(SEARCH | changes, "search")


def test_a_study_without_the_section_stops_nothing_and_a_rule_has_the_threshold_of_its_own() -> None:
    assert spec_of().stopping is None
    assert "stopping" not in spec_of().model_dump()
    dominated = spec_of(stopping=DOMINATED).stopping
    assert dominated is not None
    assert (dominated.rule, dominated.from_epoch, dominated.z) == ("dominated", 3, Z)
    one = {"val_accuracy": "maximize"}
    wilcoxon = spec_of(stopping=WILCOXON | {"p_threshold": 0.2}, objectives=one).stopping
    assert wilcoxon is not None
    assert wilcoxon.p_threshold == 0.2
    assert wilcoxon.model_dump() == WILCOXON | {"p_threshold": 0.2}


@pytest.mark.parametrize("rule", [DOMINATED, WILCOXON | {"p_threshold": 0.07}])
def test_a_study_is_read_back_as_it_was_written(rule: dict[str, Any]) -> None:
    spec = spec_of(stopping=rule, objectives={"val_accuracy": "maximize"})
    again = build_spec(read_yaml(write_yaml(spec.model_dump(mode="json")), "spec.yaml"), "spec.yaml")
    assert again == spec
    assert again.stopping_rule == spec.stopping_rule != ""


def test_the_rule_is_part_of_neither_protocol_nor_trial_keys() -> None:
    with_rule, without = spec_of(stopping=DOMINATED), spec_of()
    assert with_rule.protocol("digits") == without.protocol("digits")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sampler": "grid", "trials": None, "space": {"aux_weight": [0, 1]}},
            "stopping: sampler 'grid' runs every listed trial to its end",
        ),
        (
            {"sampler": "design", "trials": None, "design": [{"aux_weight": [0, 1], "target_depth": 1}]},
            "stopping: sampler 'design' runs every listed trial to its end",
        ),
        ({"replicates": 1}, "stopping: dominated needs 2 replicates, and there are 1: the error is that over"),
        (
            {"stopping": WILCOXON, "objectives": {"val_accuracy": "maximize"}, "replicates": 3},
            "stopping: wilcoxon needs 4 replicates, and there are 3: of 3 pairs, the p-value is 0.125 at least",
        ),
        (
            {"stopping": WILCOXON | {"p_threshold": 0.0625}, "objectives": {"val_accuracy": "maximize"}},
            "stopping: wilcoxon needs 5 replicates, and there are 4",
        ),
        ({"stopping": WILCOXON}, "stopping: wilcoxon compares trials by one objective, and the study has 3"),
        (
            {"objectives": {"rlct": "minimize"}},
            "stopping: trials are compared at the same epoch, and rlct is measured at the end alone",
        ),
        ({"stopping": DOMINATED | {"from_epoch": 9}}, "stopping: from_epoch is 9, and no trial has more than 8 epochs"),
        ({"stopping": DOMINATED | {"from_epoch": 0}}, "stopping.from_epoch: should be greater than or equal to 1"),
        ({"stopping": {"rule": "dominated"}}, "stopping.from_epoch: missing"),
        ({"stopping": {"from_epoch": 3}}, "stopping.rule: missing"),
        ({"stopping": DOMINATED | {"p_threshold": 0.1}}, "p_threshold is the threshold of the rule 'wilcoxon'"),
        ({"stopping": WILCOXON | {"z": 3}}, "z is the threshold of the rule 'dominated'"),
        ({"stopping": DOMINATED | {"epoch": 3}}, "stopping.epoch: no such field"),
        ({"stopping": DOMINATED | {"rule": "median"}}, "stopping.rule: should be 'dominated' or 'wilcoxon'"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError) as refused:
        spec_of(**{"stopping": DOMINATED} | changes)
    _, line = str(refused.value).splitlines()
    assert message in line


def test_objectives_that_are_measured_at_the_end_alone_are_not_compared() -> None:
    assert compared_objectives(spec_of(stopping=DOMINATED)) == BOTH
    every: dict[str, Any] = {"weight_std_hidden1": "minimize", "rlct": "minimize"}
    assert list(compared_objectives(spec_of(stopping=DOMINATED, objectives=every))) == ["weight_std_hidden1"]


def test_a_trial_is_dominated_by_one_that_is_better_in_everything_beyond_the_error() -> None:
    trial = {"val_accuracy": [0.80, 0.81, 0.79], "weight_std": [0.30, 0.31, 0.29]}
    better = {"val_accuracy": [0.90, 0.91, 0.89], "weight_std": [0.20, 0.21, 0.19]}
    mixed = {"val_accuracy": [0.90, 0.91, 0.89], "weight_std": [0.30, 0.31, 0.29]}
    assert is_dominated(trial, better, BOTH, Z)
    assert not is_dominated(trial, mixed, BOTH, Z), "it is as good in one objective"
    assert not is_dominated(better, trial, BOTH, Z)
    assert not is_dominated(better, mixed, BOTH, Z)


def test_the_error_is_that_of_both_trials() -> None:
    trial = {"a": [3.0, -3.0, 0.0] * 3}
    error = np.hypot(np.std(trial["a"], ddof=1) / 3, np.std([4.0, -4.0] * 8, ddof=1) / 4)
    for factor, dominated in ((0.99, False), (1.01, True)):
        other = {"a": [value + factor * Z * error for value in [4.0, -4.0] * 8]}
        assert is_dominated(trial, other, UP, Z) is dominated


@pytest.mark.parametrize("other", [[9.0], [9.0, float("nan")], [9.0, float("inf")], []])
def test_without_an_error_nothing_is_dominated(other: list[float]) -> None:
    assert not is_dominated({"a": [1.0, 1.1]}, {"a": other}, UP, Z)
    assert not is_dominated({"a": other}, {"a": [90.0, 91.0]}, UP, Z)


@given(replicates, replicates, st.floats(0.1, 10))
def test_of_two_trials_at_most_one_dominates_and_the_direction_turns_it_around(
    a: list[float], b: list[float], z: float
) -> None:
    first, second = {"a": a}, {"a": b}
    down: dict[str, Direction] = {"a": "minimize"}
    assert not (is_dominated(first, second, UP, z) and is_dominated(second, first, UP, z))
    below, above = ({"a": [-value for value in values]} for values in (a, b))
    assert is_dominated(first, second, UP, z) == is_dominated(below, above, down, z)


@settings(deadline=None, max_examples=25)  # the first call imports SciPy
@given(st.dictionaries(st.integers(0, 9), finite, min_size=2), st.sampled_from(["maximize", "minimize"]), st.data())
def test_the_paired_test_is_wilcoxons(
    best: dict[int, float], direction: Literal["maximize", "minimize"], data: st.DataObject
) -> None:
    trial = {seed: data.draw(finite) for seed in best}
    worse_by = np.array([best[seed] - trial[seed] for seed in best]) * (1 if direction == "maximize" else -1)
    # With equal means, rounding decides.
    assume(abs(worse_by.mean()) > 1e-9)
    p_value = wilcoxon(worse_by, alternative="greater", zero_method="zsplit").pvalue
    assert is_worse_by_seed(trial, best, direction, P) == (p_value < P and worse_by.mean() > 0)


def test_the_paired_test_needs_four_seeds_that_both_trials_have_and_says_nothing_of_what_is_not_finite() -> None:
    best = dict.fromkeys(range(4), 0.9)
    worse = {seed: 0.5 + 0.01 * seed for seed in range(4)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_worse_by_seed(worse, best, "maximize", P)
        assert is_worse_by_seed(worse | {9: 5.0}, best | {8: 0.0}, "maximize", P), "seeds of one alone do not count"
        assert not is_worse_by_seed(worse, best, "minimize", P)
        assert not is_worse_by_seed({seed: worse[seed] for seed in range(3)}, best, "maximize", P)
        elsewhere = {seed + 10: value for seed, value in worse.items()}
        assert not is_worse_by_seed(elsewhere, best, "maximize", P), "no seed shared"
        assert not is_worse_by_seed(worse | {0: float("nan")}, best, "maximize", P)


def stopping(config: dict[str, Any], *rivals: Rival) -> EarlyStopping:
    return EarlyStopping(StoppingConfig(**config), UP, rivals)


def rival(key: str, *epochs: float) -> Rival:
    """A trial with four seeds whose values at each epoch lie around these."""
    values = [{"a": [value, value + 0.01, value + 0.03, value + 0.02]} for value in epochs]
    return Rival(key * 16, (0, 1, 2, 3), tuple(values))


@pytest.mark.parametrize(("rule", "words"), [(DOMINATED, "dominated"), (WILCOXON, "worse by Wilcoxon's test")])
def test_a_trial_is_compared_at_the_same_epoch_from_the_first_one_of_the_rule_on(
    rule: dict[str, Any], words: str
) -> None:
    good = stopping(rule, rival("a", 0.1, 0.1, 0.9, 0.1, 0.9))
    values = {"a": [0.5, 0.51, 0.52, 0.53]}
    reasons = [good.reason(epoch, (0, 1, 2, 3), values) for epoch in range(1, 8)]
    by = "by" if rule is DOMINATED else "than"
    assert reasons == [
        None,
        None,
        f"{words} at epoch 3 {by} trial aaaaaaaa",
        None,
        f"{words} at epoch 5 {by} trial aaaaaaaa",
        None,  # the other was trained for five epochs
        None,
    ]


def test_the_first_of_several_better_trials_is_named() -> None:
    several = stopping(DOMINATED, rival("a", 0, 0, 0), rival("b", 0, 0, 0.9), rival("c", 0, 0, 0.95))
    assert several.reason(3, (0, 1, 2, 3), {"a": [0.5, 0.51, 0.52, 0.53]}) == "dominated at epoch 3 by trial bbbbbbbb"
    assert stopping(DOMINATED).reason(3, (0, 1), {"a": [0.5, 0.6]}) is None


def ending(*values: float, broken: bool = False) -> Ending:
    return Ending({STATUS: "ok"}, list(values), {"learned": float(broken)})


def test_the_front_is_that_of_the_endings_that_lie_far_enough_behind_whatever_ended_first() -> None:
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        front = KnownFront(["maximize", "minimize"], lag=3)
        values = [(0.5, 0.5), (0.6, 0.4), (0.9, 0.9), (0.7, 0.3)]
        for place in order:
            front.end(place, f"trial {place}", ending(*values[place]))
        fronts = [front.at(place) for place in range(8)]
        assert fronts[:3] == [()] * 3
        assert fronts[3:6] == [("trial 0",), ("trial 1",), ("trial 1", "trial 2")]
        assert fronts[6:] == [("trial 2", "trial 3")] * 2
        assert front.candidates == {"trial 2", "trial 3"}


def test_of_one_objective_the_front_is_the_first_of_the_best() -> None:
    front = KnownFront(["minimize"], lag=1)
    for place, value in enumerate([3.0, 1.0, 1.0, 2.0]):
        front.end(place, f"trial {place}", ending(value))
    assert [front.at(place) for place in range(1, 5)] == [("trial 0",), ("trial 1",), ("trial 1",), ("trial 1",)]


def test_trials_that_do_not_count_are_on_no_front() -> None:
    front = KnownFront(["minimize"], lag=1)
    front.end(0, "collapsed", ending(0.0, broken=True))
    front.end(1, "failed", Ending.without_result("failed"))
    stopped = Ending({STATUS: STOPPED_EARLY}, None, {"learned": 1.0})
    assert stopped.state == TrialState.PRUNED
    front.end(2, "stopped", stopped)
    assert front.at(9) == ()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_front_is_optunas(values: list[tuple[int, int]]) -> None:
    front = KnownFront(["maximize", "minimize"], lag=1)
    study = optuna.create_study(directions=["maximize", "minimize"])
    for place, each in enumerate(values):
        front.end(place, str(place), ending(*each))
        study.add_trial(optuna.trial.create_trial(values=list(each)))
    assert set(front.at(len(values))) == {str(trial.number) for trial in study.best_trials}
