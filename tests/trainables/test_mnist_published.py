"""Real MNIST, h = 64, no validation split: the published numbers at 50 epochs (arXiv 2407.10188), a collapsed network,
and the stacked rlct against devinterp's own."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.conftest import DATA
from tests.trainables.plain_llc import plain_llc
from trainables import ExperimentResult, RlctConfig, TrialConfig, load_task, run_experiment
from trainables.networks import ReplicatedNetwork
from trainables.rlct import RlctEstimate, estimate_rlct
from trainables.tasks import TaskData

pytestmark = pytest.mark.slow


def run_published(
    aux_weight: float,
    seeds: tuple[int, ...],
    training: dict[str, Any] | None = None,
    rlct: dict[str, Any] | None = None,
) -> ExperimentResult:
    """A trial of the published recipe, with the given fields replaced."""
    torch.set_num_threads(1)
    config = TrialConfig.from_recipe(
        "mnist",
        aux_weight=aux_weight,
        seeds=seeds,
        network={"width": 64},
        training={"validation_fraction": 0.0, "shuffle": "once"} | (training or {}),
        rlct=rlct,
        observer={"epochs": 0},
    )
    return run_experiment(config, load_task("mnist", DATA))


@pytest.fixture(scope="module")
def results(mnist: TaskData) -> dict[float, ExperimentResult]:
    """Trials by aux_weight: the published ones, one between them with few epochs, and one that collapses."""
    # Two processes with one thread each are faster than one process with two threads.
    with ProcessPoolExecutor(max_workers=2, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {aux_weight: pool.submit(run_published, aux_weight, seeds=(0, 1)) for aux_weight in (0.0, 10.0)}
        running[50.0] = pool.submit(run_published, 50.0, seeds=(0,))
        # A few epochs are enough for a network between the first two.
        running[5.0] = pool.submit(run_published, 5.0, seeds=(0,), training={"epochs": 15}, rlct={"draws": 8})
        return {aux_weight: future.result() for aux_weight, future in running.items()}


@pytest.mark.parametrize(("aux_weight", "published", "tolerance"), [(0.0, 0.261, 0.010), (10.0, 0.225, 0.015)])
def test_weight_std_is_the_published_one(
    results: dict[float, ExperimentResult], aux_weight: float, published: float, tolerance: float
) -> None:
    assert results[aux_weight].config.training.epochs == 50
    assert results[aux_weight].measurements["weight_std"].mean() == pytest.approx(published, abs=tolerance)


def test_rlct_is_near_the_published_one_and_falls_with_self_modeling(results: dict[float, ExperimentResult]) -> None:
    baseline, modeled = (results[aux_weight].measurements["rlct"].mean() for aux_weight in (0.0, 10.0))
    assert 28 <= baseline <= 38
    assert modeled <= baseline - 3


def test_accuracy_is_near_the_published_one(results: dict[float, ExperimentResult]) -> None:
    # Published: 0.94 at weight 10 (0.925 in our repetition); the baseline learns MNIST.
    assert results[0.0].status == results[10.0].status == "ok"
    assert results[0.0].measurements["test_accuracy"].mean() > 0.95
    assert results[10.0].measurements["test_accuracy"].mean() == pytest.approx(0.935, abs=0.02)


class Compared(NamedTuple):
    """Three networks of falling rlct, estimated in one stack and by one plain llc call each."""

    stacked: RlctEstimate
    plain: np.ndarray  # (3,)
    plain_error: np.ndarray  # (3,), standard error over chains


@pytest.fixture(scope="module")
def compared(mnist: TaskData, results: dict[float, ExperimentResult]) -> Compared:
    trained = [results[aux_weight] for aux_weight in (0.0, 5.0, 10.0)]
    assert [result.status for result in trained] == ["ok"] * 3
    stack = _in_one_stack([result.network.replicate(0).classifier() for result in trained])
    split, settings = mnist.split(validation_fraction=0.0, seed=0).train, RlctConfig(draws=300)
    stacked = estimate_rlct(stack, split, settings, seed=0)
    plain = [
        plain_llc(stack, replicate, split, settings, stacked.nbeta, float(stacked.initial_loss[replicate]))
        for replicate in range(stack.replicates)
    ]
    estimates, errors = np.array(plain).T
    return Compared(stacked, estimates, errors)


def _in_one_stack(networks: list[ReplicatedNetwork]) -> ReplicatedNetwork:
    """Networks of one replicate each as the replicates of one network."""
    stack = networks[0].repeated(len(networks))
    with torch.no_grad():
        for parameter, *parts in zip(stack.parameters(), *(n.parameters() for n in networks), strict=True):
            parameter.copy_(torch.cat(parts))
    return stack


def test_the_stacked_rlct_and_one_plain_llc_call_per_network_agree(compared: Compared) -> None:
    joint_error = np.hypot(compared.stacked.standard_error, compared.plain_error)
    assert (abs(compared.stacked.estimate - compared.plain) < 3 * joint_error).all(), compared


def test_the_stacked_rlct_and_one_plain_llc_call_per_network_give_one_order(compared: Compared) -> None:
    assert list(np.argsort(compared.stacked.estimate)) == list(np.argsort(compared.plain)) == [2, 1, 0]
    # The order is significant: by either estimate, neighbours differ by more than chance.
    for estimate, error in (
        (compared.stacked.estimate, compared.stacked.standard_error),
        (compared.plain, compared.plain_error),
    ):
        assert (-np.diff(estimate) > 2 * np.hypot(error[1:], error[:-1])).all(), compared


def test_the_verdict_on_a_collapsed_network_is_not_a_minimum(results: dict[float, ExperimentResult]) -> None:
    collapsed = results[50.0]
    assert collapsed.config.training.epochs == 50
    assert collapsed.config.rlct == RlctConfig()
    assert collapsed.status == "collapsed"
    assert collapsed.rlct.verdict == "not_a_minimum"
