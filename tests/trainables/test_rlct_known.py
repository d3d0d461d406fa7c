"""Estimates of models whose rlct is known.

Models of one kind are the replicates of one module; smaller models are padded with weights that do not affect the loss.
Apart from the noise of the chains, an estimate differs from the real log canonical threshold λ for two reasons:

- nβ is finite. The chains sample E[nβ·L] under exp(−nβ·L − γ‖w − w0‖²/2), which tends to λ − (m − 1)/ln nβ for
multiplicity m. If this mean is known in closed form or as an integral, the estimate is compared with it, and it with λ.
- The step is finite: a direction of curvature c is sampled wider by 1/(1 − step·nβ·c/4). With the settings here this is
at most STEP_BIAS; of singular models it is what the estimate itself states, `excess`.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor, nn

from tests.trainables import references
from trainables import RlctConfig
from trainables.networks import ReplicatedLinear, ReplicatedModule
from trainables.networks.base import Activations
from trainables.rlct import RlctEstimate, estimate_rlct
from trainables.tasks import Split

STEP_BIAS = 0.05


def check(
    result: RlctEstimate, index: int, expected: float, error_of_expected: float = 0.0, bias: float | None = None
) -> None:
    """Within three standard errors of the expected value, up to the bias of the step, and with a usable verdict."""
    estimate, error = result.estimate[index], math.hypot(result.standard_error[index], error_of_expected)
    bias = STEP_BIAS * expected if bias is None else bias
    assert abs(estimate - expected) < 3 * error + bias, (estimate, error, bias, expected)
    # The check above is strict.
    assert error < 0.06 * expected
    # With such a weak pull, weights that do not affect the loss spread on and on: "drifting" is then correct.
    assert result.verdicts[index] in ("sound", "drifting"), result.judgements[index]


# Regular models: λ is half the number of parameters.

REGULAR = (1, 2, 5, 20)


class LinearRegressions(ReplicatedModule):
    """Replicate r regresses on the first REGULAR[r] inputs, and starts at its least-squares solution."""

    mask: Tensor

    def __init__(self, inputs: np.ndarray, targets: np.ndarray):
        super().__init__()
        solutions = np.zeros((len(REGULAR), max(REGULAR)))
        for row, parameters in zip(solutions, REGULAR, strict=True):
            row[:parameters] = np.linalg.lstsq(inputs[:, :parameters], targets, rcond=None)[0]
        self.weight = nn.Parameter(torch.from_numpy(solutions).float())
        self.register_buffer("mask", (torch.arange(max(REGULAR)) < torch.tensor(REGULAR)[:, None]).float())


def squared_errors(network: LinearRegressions, inputs: Tensor, targets: Tensor) -> Tensor:
    weight = (network.weight * network.mask).view(len(inputs), -1, inputs.shape[-1])
    predictions = torch.einsum("gbf,gmf->gmb", inputs, weight)
    return ((predictions - targets.unsqueeze(1)).square() / 2).flatten(0, 1)


def regular(settings: RlctConfig) -> RlctEstimate:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(1000, max(REGULAR)))
    targets = inputs[:, 0] + rng.normal(size=1000)
    split = Split(torch.from_numpy(inputs).float(), torch.from_numpy(targets).float())
    return estimate_rlct(LinearRegressions(inputs, targets), split, settings, 0, sample_losses=squared_errors)


# γ narrows a direction of curvature c by γ/(nβ·c) = 0.7 %.
REGULAR_SETTINGS = RlctConfig(
    step_size=2e-4, localization=1.0, nbeta="dataset", chains=64, draws=2000, batch_size=100, burn_in_fraction=0.25
)


@pytest.fixture(scope="module")
def plain() -> RlctEstimate:
    return regular(REGULAR_SETTINGS)


@pytest.fixture(scope="module")
def preconditioned() -> RlctEstimate:
    return regular(REGULAR_SETTINGS.model_copy(update={"sampler": "rmsprop_sgld", "step_size": 3e-5}))


@pytest.mark.parametrize("parameters", REGULAR)
def test_a_regular_model_has_half_its_parameters(plain: RlctEstimate, parameters: int) -> None:
    check(plain, REGULAR.index(parameters), parameters / 2)


@pytest.mark.parametrize("parameters", REGULAR)
def test_the_preconditioned_sampler_finds_it_too(preconditioned: RlctEstimate, parameters: int) -> None:
    check(preconditioned, REGULAR.index(parameters), parameters / 2)


class SoftmaxRegression(ReplicatedModule):
    """One softmax regression without a hidden layer: adding a constant to all outputs changes nothing."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.head = ReplicatedLinear(1, features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Activations:
        logits = self.head(inputs)
        return Activations(logits, None, logits, {})


@pytest.mark.parametrize(("features", "classes"), [(4, 2), (3, 4)])
def test_a_classifier_counts_only_the_parameters_that_change_its_answer(features: int, classes: int) -> None:
    # The default loss. λ = (classes − 1)(features + 1)/2: the direction common to all classes is flat.
    torch.manual_seed(0)
    inputs, network = torch.randn(4000, features), SoftmaxRegression(features, classes)
    labels = torch.distributions.Categorical(logits=inputs @ torch.randn(features, classes)).sample()
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(inputs[None]).logits[0], labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    settings = RlctConfig(step_size=1e-3, localization=1.0, nbeta=500.0, chains=64, draws=1500, batch_size=500)
    result = estimate_rlct(network, Split(inputs, labels), settings, 0)
    check(result, 0, (classes - 1) * (features + 1) / 2)


# Reduced-rank regression, y = BAx with A (H, M), B (N, H) and a true map of rank r: Aoyagi and Watanabe (2005),
# "Stochastic complexities of reduced rank regression in Bayesian estimation", Neural Networks 18, main theorem.

REDUCED_RANK = ((3, 3, 2, 0), (3, 3, 2, 1), (3, 3, 2, 2), (4, 2, 1, 0), (2, 4, 1, 0), (2, 2, 5, 0), (3, 3, 3, 1))
REDUCED_RANK_NBETA, REDUCED_RANK_GAMMA = 300.0, 1.0
# E[nβ·L] is lower than λ at these, by 5.2 % at most.
BIAS_OF_NBETA = 0.06


def reduced_rank_lambda(inputs: int, outputs: int, hidden: int, rank: int) -> float:
    """λ of reduced-rank regression; the multiplicity is 2 in the first case with an odd sum of sizes, else 1."""
    m, n, h, r = inputs, outputs, hidden, rank
    if n + r <= m + h and m + r <= n + h and h + r <= m + n:
        quadratic = -((h + r) ** 2) - m**2 - n**2 + 2 * (h + r) * (m + n) + 2 * m * n
        return (quadratic + (m + h + n + r) % 2) / 8
    if m + h < n + r:
        return (h * m - h * r + n * r) / 2
    if n + h < m + r:
        return (h * n - h * r + m * r) / 2
    return m * n / 2


class ReducedRankRegressions(ReplicatedModule):
    """Replicate r is REDUCED_RANK[r] at its most singular point: hidden units beyond the true rank are zero."""

    first_mask: Tensor
    second_mask: Tensor
    truth: Tensor

    def __init__(self) -> None:
        super().__init__()
        m, n, h, _ = (max(sizes) for sizes in zip(*REDUCED_RANK, strict=True))
        first, second = torch.zeros(len(REDUCED_RANK), h, m), torch.zeros(len(REDUCED_RANK), n, h)
        self.register_buffer("first_mask", torch.zeros_like(first))
        self.register_buffer("second_mask", torch.zeros_like(second))
        for index, (inputs, outputs, hidden, rank) in enumerate(REDUCED_RANK):
            first[index, range(rank), range(rank)] = second[index, range(rank), range(rank)] = 1.0
            self.first_mask[index, :hidden, :inputs] = self.second_mask[index, :outputs, :hidden] = 1.0
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)
        self.register_buffer("truth", second @ first)


def map_errors(network: ReducedRankRegressions, inputs: Tensor, labels: Tensor) -> Tensor:
    error = (network.second * network.second_mask) @ (network.first * network.first_mask) - network.truth
    error = error.view(len(inputs), -1, *error.shape[1:])
    return (torch.einsum("gbf,gmof->gmbo", inputs, error).square().sum(dim=-1) / 2).flatten(0, 1)


@pytest.fixture(scope="module")
def reduced_rank() -> RlctEstimate:
    inputs = np.random.default_rng(0).normal(size=(2048, 4))
    # Uncorrelated inputs of variance 1 in the sample itself: L = ‖BA − truth‖²/2 exactly.
    inputs = np.linalg.svd(inputs - inputs.mean(axis=0), full_matrices=False)[0] * math.sqrt(len(inputs))
    split = Split(torch.from_numpy(inputs).float(), torch.zeros(len(inputs), dtype=torch.int64))
    settings = RlctConfig(
        step_size=1e-4,
        localization=REDUCED_RANK_GAMMA,
        nbeta=REDUCED_RANK_NBETA,
        chains=16,
        draws=10_000,
        batch_size=256,
    )
    return estimate_rlct(ReducedRankRegressions(), split, settings, 0, sample_losses=map_errors)


@pytest.mark.parametrize("sizes", REDUCED_RANK, ids=str)
def test_reduced_rank_regression_has_the_lambda_of_aoyagi_and_watanabe(
    reduced_rank: RlctEstimate, sizes: tuple[int, int, int, int]
) -> None:
    if sizes[3]:
        expected, error = references.REDUCED_RANK[sizes].mean, references.REDUCED_RANK[sizes].standard_error
    else:
        expected, error = reduced_rank_with_no_true_map(REDUCED_RANK_NBETA, REDUCED_RANK_GAMMA, *sizes[:3]), 0.0
    assert expected == pytest.approx(reduced_rank_lambda(*sizes), rel=BIAS_OF_NBETA)
    index = REDUCED_RANK.index(sizes)
    check(reduced_rank, index, expected, error, bias=reduced_rank.diagnostics.excess[index])


@cache
def reduced_rank_with_no_true_map(nbeta: float, gamma: float, inputs: int, outputs: int, hidden: int) -> float:
    """E[nβ·L] of a true map of zero: given B, A is Gaussian; the mean over B is over 200,000 draws of its prior."""
    second = np.random.default_rng(0).normal(size=(200_000, outputs, hidden)) / math.sqrt(gamma)
    squares = np.linalg.eigvalsh(np.swapaxes(second, 1, 2) @ second).clip(min=0)
    log_weight = -inputs / 2 * np.log1p(nbeta * squares / gamma).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    return float((weight * inputs / 2 * (nbeta * squares / (gamma + nbeta * squares)).sum(axis=1)).sum() / weight.sum())


# Normal crossings, L = Π wᵢ^(2kᵢ): λ = 1/(2·max kᵢ); the multiplicity m is the number of times that the largest kᵢ
# occurs. These are the nine of devinterp's own tests (its repository's tests/slt/sampler_accuracy_test.py).

MONOMIALS = ((1, 0), (1, 1), (2, 0), (1, 2), (2, 2), (3, 0), (1, 3), (2, 3), (3, 3))
# E[nβ·L] at nβ = 100, γ = 1 as a share of λ. The missing share falls as a power of nβ for multiplicity 1, and as 1/ln
# nβ for multiplicity 2; the power is small if another exponent is almost the largest.
SHARE_OF_LAMBDA = {
    (1, 0): 1.00,
    (1, 1): 0.71,
    (2, 0): 0.97,
    (1, 2): 0.82,
    (2, 2): 0.59,
    (3, 0): 0.93,
    (1, 3): 0.84,
    (2, 3): 0.66,
    (3, 3): 0.53,
}


class Monomials(ReplicatedModule):
    """Replicate r is the monomial with the exponents 2·MONOMIALS[r], at zero."""

    exponents: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("exponents", torch.tensor(MONOMIALS, dtype=torch.float32))
        self.weight = nn.Parameter(torch.zeros(self.exponents.shape))


def monomial_values(network: Monomials, inputs: Tensor, labels: Tensor) -> Tensor:
    values = (network.weight.square() ** network.exponents).prod(dim=1)
    return values[:, None].expand(-1, inputs.shape[1])


@pytest.fixture(scope="module")
def monomials() -> RlctEstimate:
    no_data = Split(torch.zeros(8192, 1), torch.zeros(8192, dtype=torch.int64))
    # After so many draws all weights have their final variance. At nβ = 1000 the steps would have to be ten times
    # smaller, and the chains of the last two end too early: 12 ± 7 and 21 ± 7 % too low.
    settings = RlctConfig(
        step_size=6e-4, localization=1.0, nbeta=100.0, chains=128, draws=12_000, batch_size=2, burn_in_fraction=0.4
    )
    return estimate_rlct(Monomials(), no_data, settings, 0, sample_losses=monomial_values)


@pytest.mark.parametrize("exponents", MONOMIALS, ids=str)
def test_a_monomial_has_the_lambda_of_its_largest_exponent(monomials: RlctEstimate, exponents: tuple[int, int]) -> None:
    expected = _monomial_at(monomials.nbeta, 1.0, exponents)
    assert expected * 2 * max(exponents) == pytest.approx(SHARE_OF_LAMBDA[exponents], abs=0.01)
    index = MONOMIALS.index(exponents)
    check(monomials, index, expected, bias=monomials.diagnostics.excess[index])
    assert monomials.verdicts[index] == "sound"


def test_the_bias_of_multiplicity_two_goes_as_the_logarithm_of_nbeta() -> None:
    # λ − (m − 1)/ln nβ: the reciprocal of the difference from λ grows by 1 with every factor e of nβ.
    missing = [0.5 - _monomial_at(nbeta, 1.0, (1, 1)) for nbeta in (1e4, 1e5, 1e6, 1e7)]
    growth = np.diff([1 / m for m in missing]) / math.log(10)
    assert growth == pytest.approx([1.0] * 3, abs=0.1)


def _monomial_at(nbeta: float, gamma: float, exponents: Sequence[int]) -> float:
    """E[nβ·L] of Π wᵢ^(2kᵢ) in two dimensions, by quadrature over both on a logarithmic scale."""
    first, second = exponents
    # ln w from far inside the singularity to far outside the pull of γ.
    logs = np.linspace(-25, math.log(9 / math.sqrt(gamma)), 2401)
    x, y = np.exp(logs)[:, None], np.exp(logs)[None, :]
    rise = nbeta * x ** (2 * first) * y ** (2 * second)
    density = np.exp(-rise - gamma / 2 * (x**2 + y**2)) * x * y
    return float(_over_plane(rise * density, logs) / _over_plane(density, logs))


def _over_plane(values: np.ndarray, logs: np.ndarray) -> float:
    return float(integrate.simpson(integrate.simpson(values, x=logs), x=logs))
