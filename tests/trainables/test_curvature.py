"""Curvatures, the noise of batches and the excess of finite steps, against what algebra says of them."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainables.landscapes import Landscape, Weights, quadratic
from tests.trainables.test_verdict_cases import estimate_of_logistic, log_losses, logistic, settings
from trainables import RlctConfig
from trainables.rlct import estimate_rlct
from trainables.rlct.curvature import Surface
from trainables.rlct.losses import SampledLoss
from trainables.tasks import Split


def surface_of(matrices: Tensor) -> Surface:
    """Functions wᵀHw/2 of R replicates with symmetric matrices H (R, d, d), at random weights."""
    torch.manual_seed(0)
    weights = nn.Parameter(torch.randn(matrices.shape[:2]))

    def gradient() -> list[Tensor]:
        return [torch.einsum("rij,rj->ri", matrices, weights.detach())]

    return Surface([weights], len(matrices), gradient, probe=0.1)


def symmetric(values: list[float], seed: int) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    return torch.from_numpy(rotation @ np.diag(values) @ rotation.T).float()


def test_all_curvatures_of_a_few_weights_are_found() -> None:
    wanted = [[-3.0, -0.5, 0.2, 1.0, 7.0], [0.1, 0.2, 0.3, 0.4, 40.0]]
    surface = surface_of(torch.stack([symmetric(values, seed) for seed, values in enumerate(wanted)]))
    before = surface.parameters[0].detach().clone()
    spectrum, lowest = surface.spectrum_and_lowest(20)
    np.testing.assert_allclose(spectrum.values, wanted, atol=2e-3)
    np.testing.assert_allclose(spectrum.shares.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(spectrum.largest, [7.0, 40.0], rtol=1e-3)
    # The direction of the smallest one has this curvature.
    np.testing.assert_allclose(surface.curvature_along(lowest), [-3.0, 0.1], atol=5e-3)
    assert torch.equal(surface.parameters[0], before)


def test_the_extreme_curvatures_of_many_weights_are_found_in_fifteen_iterations() -> None:
    values = [-2.0, *np.linspace(0, 1, 300), 30.0]
    spectrum = surface_of(symmetric(values, 0)[None]).spectrum(15)
    assert spectrum.values.shape == (1, 15)
    assert spectrum.largest[0] == pytest.approx(30.0, rel=1e-3)
    assert spectrum.values[0, 0] == pytest.approx(-2.0, rel=0.01)
    # The shares describe the others too: their mean curvature.
    assert (spectrum.shares * spectrum.values).sum() == pytest.approx(np.mean(values), rel=0.5)


def test_curvatures_of_a_replicate_do_not_depend_on_what_it_is_stacked_with() -> None:
    first, second = symmetric([0.0, 1.0, 2.0, 3.0], 0), symmetric([1e6, 1e5, 0.0, -4e5], 1)
    together = surface_of(torch.stack([first, second])).spectrum(4)
    # At other weights: the curvature of a quadratic function is the same everywhere.
    alone = surface_of(first[None]).spectrum(4)
    np.testing.assert_allclose(together.values[0], alone.values[0], atol=1e-3)


def test_a_constant_function_has_no_curvature_and_one_that_is_not_finite_has_none_that_is_known() -> None:
    matrices = torch.stack([torch.zeros(3, 3), torch.full((3, 3), torch.inf), torch.eye(3)])
    spectrum, _ = surface_of(matrices).spectrum_and_lowest(5)
    assert (spectrum.values[0] == 0).all()
    assert np.isnan(spectrum.values[1]).all()
    assert spectrum.largest[2] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("batch", [10, 100, 1000])
def test_the_variance_of_a_batchs_gradient_is_that_of_draws_without_replacement(batch: int) -> None:
    inputs, labels, weights = logistic()
    network = Weights(weights)
    _, gradient, variance = SampledLoss.of(network, Split(inputs, labels), log_losses, None).batches(batch)
    signs = (2 * labels - 1).double()
    each = -(signs * torch.sigmoid(-signs * (inputs.double() @ torch.from_numpy(weights))))[:, None] * inputs.double()
    expected = each.var(dim=0).sum() / batch * (1 - batch / len(inputs))
    assert float(gradient[0].norm()) < 1e-4
    assert float(variance) == pytest.approx(float(expected), rel=0.35)


def test_whole_batches_have_no_noise() -> None:
    inputs, labels, weights = logistic()
    _, _, variance = SampledLoss.of(Weights(weights), Split(inputs, labels), log_losses, None).batches(len(inputs))
    assert float(variance) == 0.0


@pytest.mark.parametrize("stiffness", [0.1, 0.5, 1.0, 1.5])
def test_the_excess_of_a_quadratic_loss_is_the_difference_between_finite_and_small_steps(stiffness: float) -> None:
    # x ← (1 − a)x + √ε·ξ with a = ε(nβ·h + γ)/2 has the variance ε/(1 − (1 − a)²), and 1/(nβ·h + γ) for small ε.
    config = settings(2 * stiffness / 100)
    nbeta, gamma, step = float(config.nbeta), config.localization, config.step_size
    a = step * (nbeta + gamma) / 2
    variance, exact = step / (1 - (1 - a) ** 2), 1 / (nbeta + gamma)
    result = quadratic(np.ones(200)).estimate(config)
    assert result.estimate[0] == pytest.approx(200 * nbeta * variance / 2, rel=0.02)
    assert result.diagnostics.excess[0] == pytest.approx(200 * nbeta * (variance - exact) / 2, rel=0.02)


def test_the_excess_counts_the_noise_of_batches_which_shows_at_the_trained_weights_too() -> None:
    result = estimate_of_logistic(16, "dataset", 4e-3, 1000)
    diagnostics = result.diagnostics
    assert diagnostics.excess[0] > 0.4 * result.estimate[0]
    assert diagnostics.batch_noise[0] == pytest.approx(diagnostics.excess[0], rel=0.3)
    larger = estimate_of_logistic(512, "dataset", 4e-3, 1000).diagnostics
    assert larger.batch_noise[0] < 0.05 * diagnostics.batch_noise[0]


def test_a_preconditioner_that_is_kept_leaves_no_bias() -> None:
    # One that changes with the weights comes out 10 to 22 % too high, see docs/rlct.md.
    landscape = quadratic(np.linspace(0.5, 2, 50))
    config = settings(3e-5, draws=4000).model_copy(update={"sampler": "rmsprop_sgld"})
    result = landscape.estimate(config)
    exact = float((100 * np.linspace(0.5, 2, 50) / (100 * np.linspace(0.5, 2, 50) + 10)).sum() / 2)
    assert result.estimate[0] == pytest.approx(exact, abs=3 * result.standard_error[0] + 0.02 * exact)


def test_the_fall_on_both_sides_of_a_saddle_is_the_mean_along_the_steepest_direction() -> None:
    # A curvature −h with nβ·h = γ/2: the variance is 2/γ, and the mean of nβ·h·t²/2 is 1/2.
    saddle = quadratic(np.array([10.0, 10.0, -0.05]))
    result = saddle.estimate(settings(2e-3))
    # The outlook ends at three standard deviations of the pull alone, where this wider density is cut off.
    assert result.diagnostics.sag[0] == pytest.approx(0.5, rel=0.3)
    assert quadratic(np.ones(3)).estimate(settings(2e-3)).diagnostics.sag[0] == 0.0


def test_only_a_part_of_the_weights_is_sampled_if_asked() -> None:
    class TwoParts(Weights):
        def __init__(self) -> None:
            super().__init__(np.zeros(6))
            self.other = nn.Parameter(torch.zeros(1, 4))

    def losses(network: TwoParts, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = (network.weight.square().sum(dim=1) + network.other.square().sum(dim=1)) / 2
        return loss[:, None].expand(-1, inputs.shape[1])

    nothing = Split(torch.zeros(64, 1), torch.zeros(64, dtype=torch.int64))
    config = settings(1e-3)
    parts = [
        estimate_rlct(TwoParts(), nothing, config, 0, sample_losses=losses, part=part)
        for part in (["weight"], ["other"], None)
    ]
    for result, dimensions in zip(parts, (6, 4, 10), strict=True):
        expected = dimensions * 100 / 110 / 2
        assert result.estimate[0] == pytest.approx(expected, abs=0.06 * expected + 3 * result.standard_error[0])
        assert result.diagnostics.distance[0] == pytest.approx(np.sqrt(dimensions / 110), rel=0.15)


def test_weights_of_zero_have_no_relative_distance() -> None:
    config = RlctConfig(step_size=1e-3, localization=10.0, nbeta=100.0, draws=20, chains=2, batch_size=2)
    flat = Landscape(lambda weights: weights.square().sum(dim=-1) / 2, np.zeros(3))
    assert flat.estimate(config).diagnostics.relative_distance[0] == np.inf
