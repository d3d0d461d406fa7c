"""Estimates against NUTS, where there are too many weights for an integral: see `references.py`.

The chains take large batches and small steps. Three standard errors of the difference, those of both samplers together,
are tolerated, and the bias of the step that the estimate itself states (`excess`).
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainables.landscapes import Weights
from tests.trainables.references import (
    LOGISTIC,
    REDUCED_RANK,
    TANH,
    TANH_GAMMA,
    TANH_NBETA,
    TANH_UNITS,
    Reference,
    tanh_start,
    tanh_task,
)
from tests.trainables.test_rlct_known import (
    REDUCED_RANK_GAMMA,
    REDUCED_RANK_NBETA,
    reduced_rank_with_no_true_map,
)
from tests.trainables.test_verdict_cases import FULL, estimate_of_logistic, expected_of_logistic
from trainables import RlctConfig
from trainables.rlct import RlctEstimate, estimate_rlct
from trainables.tasks import Split


def check(result: RlctEstimate, reference: Reference) -> None:
    (estimate,), (error,), (excess,) = result.estimate, result.standard_error, result.diagnostics.excess
    assert reference.agrees(estimate, error, max(excess, 0.0)), (estimate, error, excess, reference)
    # The check above is strict: an estimate that is wrong by 15 % fails it.
    assert 3 * np.hypot(error, reference.standard_error) + excess < 0.1 * reference.mean
    assert result.verdicts == ("sound",), result.judgements


def test_a_network_of_tanh_units_has_the_mean_that_nuts_finds() -> None:
    # λ is 1.83: at this nβ and γ the mean is far from it.
    data = torch.from_numpy(np.stack(tanh_task(), axis=1)).float()

    def squared_errors(network: Weights, pairs: Tensor, labels: Tensor) -> Tensor:
        slopes, heights = network.weight.view(len(pairs), -1, 1, 2, TANH_UNITS).unbind(dim=3)
        outputs = ((pairs[:, None, :, :1] * slopes).tanh() * heights).sum(dim=-1)
        return ((outputs - pairs[:, None, :, 1]).square() / 2).flatten(0, 1)

    settings = RlctConfig(
        step_size=3e-4,
        localization=TANH_GAMMA,
        nbeta=TANH_NBETA,
        chains=64,
        draws=4000,
        batch_size=64,
        burn_in_fraction=0.3,
    )
    split = Split(data, torch.zeros(len(data), dtype=torch.int64))
    check(estimate_rlct(Weights(tanh_start()), split, settings, 0, sample_losses=squared_errors), TANH)


def test_a_logistic_regression_has_the_mean_that_nuts_finds() -> None:
    check(estimate_of_logistic(500, "dataset", 3e-4, 2500), LOGISTIC)


def test_nuts_finds_the_means_that_are_known_otherwise() -> None:
    # Importance sampling, and an integral over one of the two maps.
    assert LOGISTIC.agrees(expected_of_logistic(FULL))
    for (inputs, outputs, hidden, rank), reference in REDUCED_RANK.items():
        if rank == 0:
            args = REDUCED_RANK_NBETA, REDUCED_RANK_GAMMA, inputs, outputs, hidden
            assert reference.agrees(reduced_rank_with_no_true_map(*args))


@pytest.mark.parametrize("share", [0.85, 1.15])
def test_a_mean_that_is_wrong_by_15_percent_does_not_agree(share: float) -> None:
    for reference in (TANH, LOGISTIC, *REDUCED_RANK.values()):
        assert not reference.agrees(share * reference.mean, 0.02 * reference.mean, 0.02 * reference.mean)
