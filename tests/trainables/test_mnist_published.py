"""The published numbers on real MNIST: h = 64, 50 epochs, no validation split (arXiv 2407.10188)."""

import pytest
import torch

from trainables import ExperimentResult, TrialConfig, run_experiment
from trainables.tasks import TaskData

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(mnist: TaskData) -> dict[float, ExperimentResult]:
    # Other tests leave this at what they need.
    torch.set_num_threads(2)
    return {
        aux_weight: run_experiment(
            TrialConfig.from_recipe(
                "mnist",
                aux_weight=aux_weight,
                seeds=(0, 1, 2),
                network={"width": 64},
                training={"validation_fraction": 0.0, "shuffle": "once"},
            ),
            mnist,
        )
        for aux_weight in (0.0, 10.0)
    }


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
    # Published: 0.94 at weight 10 (0.925 when it was run again); the baseline learns MNIST.
    assert results[0.0].status == results[10.0].status == "ok"
    assert results[0.0].measurements["test_accuracy"].mean() > 0.95
    assert results[10.0].measurements["test_accuracy"].mean() == pytest.approx(0.935, abs=0.02)
