"""Mixtures of two normal distributions, fitted to data of a single one.

The density (1 − a)·N(b₁, 1) + a·N(b₂, 1) over the true one, N(0, 1), is 1 + Σ m_k·H_k(x)/k!, H_k Hermite's polynomials
and m_k = (1 − a)·b₁ᵏ + a·b₂ᵏ, k = 1, 2, … These polynomials are orthogonal: near 0 the Kullback-Leibler divergence K is
Σ m_k²/(2·k!), and it has the λ of the sum of those m_k² whose m_k generate the others.

- **b₁ = 0 is known**: m_k = a·b₂ᵏ is a multiple of m₁, so that K ~ a²b₂²/2. It is 0 on two lines that cross at
  a = b₂ = 0: λ = 1/2, multiplicity 2. (The example of a mixture in Watanabe 2009, Algebraic Geometry and Statistical
  Learning Theory.)
- **both are free**, 0 < a < 1: with u = m₁ and d = b₂ − b₁, m₂ = u² + a(1 − a)d², so that K ~ u²/2 + (a(1 − a)d²)²/4.
  λ = 1/2 + 1/4, multiplicity 1. Yamazaki and Watanabe (2003), Neural Networks 16, have the bound 1.

The samples are the nodes of a Gauss-Hermite quadrature, each with its weight: as many as there are have twice as many
moments of N(0, 1), so that their mean loss is K, and the true weights are at its minimum.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor, nn

from trainables import RlctConfig
from trainables.networks import ReplicatedModule
from trainables.rlct import RlctEstimate, estimate_rlct
from trainables.tasks import Split

SAMPLES = 24
NBETA, GAMMA = 200.0, 3.0
KNOWN, FREE = 0, 1  # b₁ is known to be 0, or free


def samples() -> np.ndarray:
    """Points and weights of mean 1, (SAMPLES, 2)."""
    points, weights = np.polynomial.hermite_e.hermegauss(SAMPLES)
    return np.stack([points, weights / weights.mean()], axis=1)


class Mixtures(ReplicatedModule):
    """Replicate r has the weights a, b₁ and b₂ of the truth; in the first one, b₁ has no effect."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]))
        self.weight = nn.Parameter(torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]))


def log_losses(network: Mixtures, inputs: Tensor, labels: Tensor) -> Tensor:
    weight = (network.weight * network.mask).view(len(inputs), -1, 1, 3)
    return weighted_logs(weight, inputs[:, None]).flatten(0, 1)


def weighted_logs(weights: Tensor, data: Tensor) -> Tensor:
    """−ln of the mixture's density over that of N(0, 1): weights (…, 3), points with weights (…, 2), gives (…)."""
    share, points = mirrored(weights[..., 0]), data[..., 0]
    first, second = (mean * points - mean.square() / 2 for mean in (weights[..., 1], weights[..., 2]))
    return -data[..., 1] * (first + torch.log1p(share * torch.expm1(second - first)))


def mirrored(values: Tensor) -> Tensor:
    """Every number as one between 0 and 1, as seen in mirrors at both: no weight of a mixture is outside."""
    return 1 - (1 - values.abs() % 2).abs()


@pytest.fixture(scope="module")
def mixtures() -> RlctEstimate:
    # Batches of all samples: their noise is what other tests are about, and the steps can be larger without it.
    split = Split(torch.from_numpy(samples()).float(), torch.zeros(SAMPLES, dtype=torch.int64))
    settings = RlctConfig(
        step_size=6e-4,
        localization=GAMMA,
        nbeta=NBETA,
        chains=128,
        draws=4000,
        batch_size=SAMPLES,
        burn_in_fraction=0.3,
    )
    return estimate_rlct(Mixtures(), split, settings, 0, sample_losses=log_losses)


def test_a_mixture_with_a_known_component_has_the_mean_of_the_integral(mixtures: RlctEstimate) -> None:
    check(mixtures, KNOWN, expected_of_known(NBETA, GAMMA))


def test_a_mixture_of_free_components_has_the_mean_of_the_integral(mixtures: RlctEstimate) -> None:
    expected, error = expected_of_free(NBETA, GAMMA)
    assert error < 0.005 * expected
    check(mixtures, FREE, expected, error)


def check(result: RlctEstimate, index: int, expected: float, error_of_expected: float = 0.0) -> None:
    """Within three standard errors, up to the bias of the step that the estimate itself states."""
    estimate, excess = result.estimate[index], result.diagnostics.excess[index]
    error = math.hypot(result.standard_error[index], error_of_expected)
    assert abs(estimate - expected) < 3 * error + excess, (estimate, error, excess, expected)
    # The check above is strict: an estimate that is wrong by 15 % fails it.
    assert 3 * error + excess < 0.12 * expected
    assert result.verdicts[index] == "sound", result.judgements[index]


def test_near_the_truth_the_divergence_is_what_its_lambda_is_derived_from() -> None:
    a, b, d = 0.02, 0.05, 0.1
    loss_of_known, loss_of_free = mean_losses(torch.tensor([[a, 0.0, b], [0.3, -0.3 * d, 0.7 * d]]).double())
    # Up to the higher moments, smaller by a factor b² or d.
    assert float(loss_of_known) == pytest.approx((a * b) ** 2 / 2, rel=2 * b**2)
    assert float(loss_of_free) == pytest.approx((0.3 * 0.7 * d**2) ** 2 / 4, rel=d / 2)


def test_the_integral_tends_to_lambda_minus_the_reciprocal_of_the_logarithm_of_nbeta() -> None:
    # Multiplicity 2: the reciprocal of the difference from λ = 1/2 grows by 1 with every factor e of nβ.
    missing = [0.5 - expected_of_known(nbeta, GAMMA) for nbeta in (1e5, 1e6, 1e7)]
    growth = np.diff([1 / m for m in missing]) / math.log(10)
    assert growth == pytest.approx([1.0] * 2, abs=0.1)


def mean_losses(weights: Tensor) -> Tensor:
    """L − L(w0) of weights (N, 3), (N,)."""
    data = torch.from_numpy(samples())
    return torch.cat([weighted_logs(part[:, None, :], data).mean(dim=1) for part in torch.split(weights, 16384)])


def expected_of_known(nbeta: float, gamma: float, points: int = 181) -> float:
    """E[nβ·L] by quadrature over a and b₂ on a logarithmic scale; the loss is symmetric in both."""
    # From far inside the singularity to far outside the pull of γ. The mirrors at a = 1, 2, … are ends of intervals.
    low, high = math.exp(-14), 5 / math.sqrt(gamma)
    means = torch.linspace(math.log(low), math.log(high), 2 * points, dtype=torch.float64)
    parts = []
    for first, last in pairwise(np.log([low, *range(1, math.ceil(high)), high])):
        shares = torch.linspace(first, last, points, dtype=torch.float64)
        a, b = torch.meshgrid(shares.exp(), means.exp(), indexing="ij")
        rise = nbeta * mean_losses(torch.stack([a, torch.zeros_like(a), b], dim=-1).view(-1, 3)).view(a.shape)
        density = torch.exp(-rise - gamma / 2 * (a.square() + b.square())) * a * b
        parts.append([_over_plane(values, shares, means) for values in (rise * density, density)])
    rises, densities = np.sum(parts, axis=0)
    return float(rises / densities)


def _over_plane(values: Tensor, x: Tensor, y: Tensor) -> float:
    return float(integrate.simpson(integrate.simpson(values.numpy(), x=y.numpy()), x=x.numpy()))


def expected_of_free(nbeta: float, gamma: float, draws: int = 200_000) -> tuple[float, float]:
    """E[nβ·L] from draws of exp(−γ‖w − w0‖²/2), and its standard error."""
    start, generator = torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64), torch.Generator().manual_seed(0)
    offsets = torch.randn(draws, 3, generator=generator, dtype=torch.float64) / math.sqrt(gamma)
    rise = nbeta * mean_losses(start + offsets)
    density = torch.exp(-rise)
    mean = (rise * density).sum() / density.sum()
    return float(mean), float(((rise - mean) * density).square().sum().sqrt() / density.sum())
