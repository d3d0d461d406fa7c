"""Verdicts: each one on real chains with that behaviour, and each threshold by itself."""

import math
from dataclasses import fields

import numpy as np
import pytest

from tests.conftest import small_trial
from trainables import RlctConfig, run_experiment
from trainables.networks import ReplicatedNetwork
from trainables.outcomes import CAVEATS, VERDICTS, RlctVerdict, worst_verdict
from trainables.rlct import Diagnostics, estimate_rlct
from trainables.rlct.verdict import judge
from trainables.tasks import Split, TaskData

SETTINGS = RlctConfig(step_size=1e-3, localization=10.0, chains=4, draws=400, batch_size=128)


def network_after(epochs: int, digits: TaskData) -> tuple[ReplicatedNetwork, Split]:
    config = small_trial(width=16, training={"epochs": epochs}, seeds=(0, 1))
    split = digits.split(config.training.validation_fraction, config.split_seed).train
    return run_experiment(config, digits).network, split


@pytest.fixture(scope="module")
def trained(digits: TaskData) -> tuple[ReplicatedNetwork, Split]:
    return network_after(40, digits)


@pytest.fixture(scope="module")
def untrained(digits: TaskData) -> tuple[ReplicatedNetwork, Split]:
    return network_after(1, digits)


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "sound"),
        ({"sampler": "rmsprop_sgld", "step_size": 1e-4}, "sound"),
        # Too few draws or too small steps for the chains to reach their final spread.
        ({"draws": 40}, "drifting"),
        ({"step_size": 1e-4}, "drifting"),
        # Steps that overshoot: the chains agree, but on a number four times too large.
        ({"step_size": 0.03, "draws": 200}, "diverged"),
        ({"step_size": 1.0, "draws": 200}, "diverged"),
    ],
)
def test_a_trained_network_is_judged_by_its_chains(
    trained: tuple[ReplicatedNetwork, Split], changed: dict[str, float], verdict: str
) -> None:
    result = estimate_rlct(*trained, SETTINGS.model_copy(update=changed), seed=0)
    assert result.verdicts == (verdict, verdict), result.judgements
    assert result.verdict == verdict


@pytest.mark.parametrize("changed", [{}, {"step_size": 1e-4}, {"sampler": "rmsprop_sgld", "step_size": 1e-4}])
def test_a_network_that_is_still_learning_is_not_at_a_minimum_whatever_the_sampler(
    untrained: tuple[ReplicatedNetwork, Split], changed: dict[str, float]
) -> None:
    result = estimate_rlct(*untrained, SETTINGS.model_copy(update=changed), seed=0)
    assert result.verdicts == ("not_a_minimum", "not_a_minimum"), result.judgements


def test_a_network_without_a_gradient_on_a_plateau_is_not_at_a_minimum(
    trained: tuple[ReplicatedNetwork, Split],
) -> None:
    # A narrow network after self-modeling with a large weight: dead hidden units, the same answer for all inputs.
    dead = trained[0].repeated(1)
    for name, parameter in dead.named_parameters():
        parameter.data.fill_(-0.1 if name.startswith("hidden") and name.endswith("bias") else 0.0)
    result = estimate_rlct(dead, trained[1], SETTINGS, seed=0)
    assert (result.diagnostics.gradient_norm < 0.1).all()
    assert result.verdicts == ("not_a_minimum", "not_a_minimum"), result.judgements


GOOD = {field.name: 0.0 for field in fields(Diagnostics)} | {
    "r_hat": 1.02,
    "effective_draws": 80.0,
    "distance_ratio": 1.0,
    "settled": 0.95,
    "stiffness": 0.1,
    "spread": 2.0,
}


@pytest.mark.parametrize(
    ("estimate", "error", "changed", "verdict", "reason"),
    [
        (10.0, 0.5, {}, "sound", "agree"),
        (10.0, 0.5, {"drift": -0.9, "drift_se": 0.1}, "sound", "agree"),
        (10.0, 0.5, {"drift": -1.1, "drift_se": 0.4}, "drifting", "still changes by 11%"),
        (10.0, 0.5, {"drift": 3.0, "drift_se": 2.0}, "sound", "agree"),
        (10.0, 0.5, {"settled": 0.8}, "drifting", "80% of their final variance"),
        (10.0, 1.1, {}, "chains_disagree", "standard error is 11%"),
        (10.0, 0.1, {"error_of_draws": 1.2}, "chains_disagree", "standard error is 12%"),
        (10.0, 0.5, {"r_hat": 1.3}, "chains_disagree", "R-hat is 1.30"),
        (10.0, 0.5, {"effective_draws": 6.0}, "chains_disagree", "worth 6 independent"),
        (-5.0, 0.5, {}, "not_a_minimum", "the estimate is -5"),
        (3.0, 0.1, {"negative_share": 0.2}, "not_a_minimum", "20% of the kept windows"),
        (10.0, 0.5, {"descent": 2.0}, "not_a_minimum", "falls by 2 along its gradient"),
        (10.0, 0.5, {"distance_ratio": 1.6}, "diverged", "1.6 times as far"),
        (10.0, 0.5, {"stiffness": 2.1}, "diverged", "curvature / 2 is 2.1"),
        (10.0, 0.5, {"stiffness_end": 2.2}, "diverged", "curvature / 2 is 2.2"),
        (10.0, 0.5, {"excess": 0.9}, "sound", "agree"),
        (10.0, 0.5, {"excess": 1.1}, "biased", "raise the estimate of 10 by up to about 1.1"),
        (10.0, 0.5, {"excess": 5.1}, "diverged", "finite steps and batches make up about 5.1"),
        (10.0, 0.5, {"sag": 0.09}, "sound", "agree"),
        (10.0, 0.5, {"sag": 0.11}, "not_a_minimum", "the mean of both sides falls by 0.11 along one direction"),
        (0.0, 0.0, {"spread": 0.0}, "sound", "the loss is the same for all draws"),
        (math.nan, math.nan, {"r_hat": math.nan}, "diverged", "not finite"),
        # The worse verdict comes first: more draws do not help where there is no minimum.
        (-5.0, 3.0, {"r_hat": 1.5, "settled": 0.1}, "not_a_minimum", "the estimate is -5"),
    ],
)
def test_each_measure_has_its_verdict_and_says_so(
    estimate: float, error: float, changed: dict[str, float], verdict: RlctVerdict, reason: str
) -> None:
    judgement = judge(estimate, error, GOOD | changed)
    assert judgement.verdict == verdict
    assert reason in judgement.reason
    assert judgement.advice == VERDICTS[verdict].advice


def test_every_verdict_says_what_to_change_in_one_line() -> None:
    for verdict in VERDICTS.values():
        assert all(text.endswith(".") and "\n" not in text for text in (verdict.meaning, verdict.advice, verdict.why))


@pytest.mark.parametrize(("ratio", "caveats"), [(0.3, ()), (1.0, ()), (1.1, ("not_local",))])
def test_chains_that_go_far_from_the_trained_weights_are_said_to_whatever_the_verdict(
    ratio: float, caveats: tuple[str, ...]
) -> None:
    for changed in ({}, {"r_hat": 1.5}):
        assert judge(10.0, 0.5, GOOD | changed | {"relative_distance": ratio}).caveats == caveats
    assert all(CAVEATS[name].meaning.endswith(".") and CAVEATS[name].advice.endswith(".") for name in caveats)


def test_a_trials_verdict_is_the_worst_of_its_replicates_and_the_three_worst_are_not_usable() -> None:
    assert list(VERDICTS) == ["sound", "drifting", "chains_disagree", "biased", "not_a_minimum", "diverged"]
    assert worst_verdict(["sound", "chains_disagree", "drifting"]) == "chains_disagree"
    assert [verdict.name for verdict in VERDICTS.values() if not verdict.usable] == [
        "biased",
        "not_a_minimum",
        "diverged",
    ]


def test_the_diagnostics_of_chains_that_all_diverge_are_not_numbers(trained: tuple[ReplicatedNetwork, Split]) -> None:
    result = estimate_rlct(*trained, SETTINGS.model_copy(update={"step_size": 1e6, "draws": 20}), seed=0)
    assert result.verdict == "diverged"
    assert np.isnan(result.estimate).all()
    assert np.isnan(result.diagnostics.r_hat).all()
