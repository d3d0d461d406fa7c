"""Linear networks of two to six layers, whose λ is known (Aoyagi 2024)."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.trainables.landscapes import (
    deep_linear,
    deep_linear_lambda,
    deep_linear_lambda_at_start,
    deep_linear_layers,
    product_of,
    quadratic_after_draws,
)
from tests.trainables.test_rlct_known import reduced_rank_lambda
from trainables import RlctConfig

SIZES = st.integers(1, 12)
# devinterp's own reduced-rank models, inputs, hidden units and outputs, with their λ.
DEVINTERP = {(5, 3, 5): 6.5, (5, 4, 5): 8.0, (4, 3, 8): 6.0, (8, 3, 4): 6.0, (3, 8, 4): 6.0}


@given(inputs=SIZES, hidden=SIZES, outputs=SIZES, rank=st.integers(0, 12))
def test_two_layers_are_reduced_rank_regression(inputs: int, hidden: int, outputs: int, rank: int) -> None:
    assume(rank <= min(inputs, hidden, outputs))
    found, _ = deep_linear_lambda((inputs, hidden, outputs), rank)
    assert found == pytest.approx(reduced_rank_lambda(inputs, outputs, hidden, rank))


@given(sizes=st.lists(SIZES, min_size=3, max_size=7), rank=st.integers(0, 12))
def test_a_deeper_network_is_no_more_complex_than_half_its_maps_and_half_its_weights(
    sizes: list[int], rank: int
) -> None:
    assume(rank <= min(sizes))
    found, multiplicity = deep_linear_lambda(sizes, rank)
    weights = sum(a * b for a, b in pairwise(sizes))
    assert -1e-9 <= found <= min(weights, sizes[0] * sizes[-1]) / 2 + 1e-9
    assert multiplicity >= 1
    # The order of the layers' sizes makes no difference but for the first and the last.
    other, same = deep_linear_lambda([sizes[0], *sizes[-2:0:-1], sizes[-1]], rank)
    assert other == pytest.approx(found)
    assert same == multiplicity


@pytest.mark.parametrize(("sizes", "known"), DEVINTERP.items(), ids=str)
def test_devinterps_own_models_have_the_lambda_that_its_tests_state(sizes: tuple[int, ...], known: float) -> None:
    # They are models of the map of rank 0.
    assert deep_linear_lambda(sizes, 0)[0] == pytest.approx(known)


@pytest.mark.parametrize(
    ("sizes", "rank", "nbeta", "within"),
    [
        ((20, 10, 20), 5, 1e4, 0.06),
        ((30, 20, 30), 10, 1e4, 0.06),
        ((15, 10, 10, 15), 6, 1e4, 0.06),
        ((16, 12, 12, 12, 16), 8, 1e5, 0.1),
        ((14, 12, 12, 12, 12, 14), 8, 1e5, 0.15),
        # The more layers, the slower are the directions that the others leave almost flat.
        ((16, 12, 12, 12, 12, 12, 16), 8, 1e5, 0.2),
    ],
    ids=str,
)
# The λ of the model; around these weights it is a little larger, and the chains end before they find it: see below.
def test_an_estimate_comes_near_the_lambda_of_a_deep_linear_network(
    sizes: tuple[int, ...], rank: int, nbeta: float, within: float
) -> None:
    settings = RlctConfig(
        step_size=0.02 / nbeta, nbeta=nbeta, localization=1.0, chains=8, draws=4000, batch_size=2, burn_in_fraction=0.75
    )
    result, (known, _) = deep_linear(sizes, rank).estimate(settings), deep_linear_lambda(sizes, rank)
    assert result.estimate[0] == pytest.approx(known, rel=within, abs=3 * result.standard_error[0])
    assert result.diagnostics.excess[0] < 0.05 * known


@pytest.mark.parametrize(("sizes", "rank"), [((15, 10, 10, 15), 6), ((12, 12, 12, 12, 12), 2)], ids=str)
def test_an_estimate_is_that_of_the_curvatures_at_the_trained_weights_after_so_many_draws(
    sizes: tuple[int, ...], rank: int
) -> None:
    # At this nβ the loss is quadratic within a chain's reach. The weights are no singular ones: λ around them is half
    # the number of curvatures that are not 0, more than the λ of the model, and slow directions are still on their way.
    settings = RlctConfig(
        step_size=2e-8, nbeta=1e6, localization=1.0, chains=32, draws=2000, batch_size=2, burn_in_fraction=0.75
    )
    curvatures = curvatures_of(deep_linear_layers(sizes, rank), sizes)
    assert (curvatures > 1e-9).sum() / 2 == deep_linear_lambda_at_start(sizes, rank)
    expected = quadratic_after_draws(curvatures, settings).sum()
    assert expected < 0.95 * deep_linear_lambda_at_start(sizes, rank)
    result = deep_linear(sizes, rank).estimate(settings)
    assert result.estimate[0] == pytest.approx(expected, abs=3 * result.standard_error[0])
    assert result.standard_error[0] < 0.02 * expected


def curvatures_of(layers: list[np.ndarray], sizes: tuple[int, ...]) -> np.ndarray:
    """The curvatures at w0, as many as the product has entries: of Σ_l (A·Aᵀ) ⊗ (Bᵀ·B), A and B the other layers."""
    total = np.zeros((sizes[0] * sizes[-1],) * 2)
    for index in range(len(layers)):
        after, before = product_of(layers[index + 1 :], sizes[index + 1]), product_of(layers[:index], sizes[0])
        total += np.kron(after @ after.T, before.T @ before)
    return np.linalg.eigvalsh(total).clip(min=0)
