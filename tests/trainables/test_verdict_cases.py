"""The verdict on estimates of which the truth is known: 'sound' is said of no estimate that is wrong.

The truth is E[nβ·ΔL] under exp(−nβ·ΔL − γ‖w − w0‖²/2), what an exact sampler would find at these nβ and γ. Each case is
run with small steps, where the estimate is right, and with steps that are too large; with whole batches and small ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainables.landscapes import (
    Landscape,
    Weights,
    circle,
    cusp,
    expected_of_quadratic,
    monomial,
    quadratic,
    tanh_network,
)
from trainables import RlctConfig
from trainables.rlct import RlctEstimate, estimate_rlct
from trainables.tasks import Split

TOLERANCE = 0.1
SOUND, TOO_HIGH, NO_MINIMUM = ("sound",), ("biased", "diverged"), ("not_a_minimum",)


@dataclass(frozen=True)
class Case:
    """An estimate, its truth, and the verdicts that are right; any verdict but 'sound' is if there are none."""

    estimate: Callable[[], RlctEstimate]
    truth: Callable[[], float]
    verdicts: tuple[str, ...] = ()


CASES: dict[str, Case] = {}


NBETA, GAMMA = 100.0, 10.0


def settings(step: float, draws: int = 1000, chains: int = 64) -> RlctConfig:
    return RlctConfig(
        step_size=step, nbeta=NBETA, localization=GAMMA, chains=chains, draws=draws, batch_size=2, burn_in_fraction=0.4
    )


def add(name: str, landscape: Landscape, truth: Callable[[], float], config: RlctConfig, *verdicts: str) -> None:
    CASES[name] = Case(lambda: landscape.estimate(config), truth, verdicts)


# Quadratic, at the minimum exactly: no gradient tells how steep it is.
for dimensions in (2, 20, 200):
    for stiffness in (0.05, 0.1, 0.2, 1.0, 1.6):
        curvatures = np.ones(dimensions)
        add(
            f"quadratic, d={dimensions}, stiffness {stiffness}",
            quadratic(curvatures),
            lambda curvatures=curvatures: expected_of_quadratic(curvatures, NBETA, GAMMA),  # type: ignore[misc]
            settings(2 * stiffness / NBETA),
            *(SOUND if stiffness <= 0.1 else TOO_HIGH if stiffness >= 1 else ()),
        )

# Steep in one direction, off the minimum in another: the gradient has no part in the steep one.
for stiffness in (0.3, 1.2, 1.8):
    steep = np.array([100.0, *np.ones(9)])
    add(
        f"steep direction across the gradient, stiffness {stiffness}",
        quadratic(steep, np.array([0.0, 1e-3, *np.zeros(8)])),
        lambda steep=steep: expected_of_quadratic(steep, NBETA, GAMMA),  # type: ignore[misc]
        settings(2 * stiffness / (NBETA * 100), 6000 if stiffness < 1 else 1000),
        *(SOUND if stiffness < 1 else TOO_HIGH if stiffness > 1.5 else ()),
    )

# Many flat directions and a few steep ones, as in a network.
for stiffness in (0.1, 0.6):
    mixed = np.array([*np.full(3, 30.0), *np.full(100, 0.01)])
    add(
        f"three steep directions among flat ones, stiffness {stiffness}",
        quadratic(mixed),
        lambda mixed=mixed: expected_of_quadratic(mixed, NBETA, GAMMA),  # type: ignore[misc]
        settings(2 * stiffness / (NBETA * 30), 6000),
        *(SOUND if stiffness < 0.5 else ()),
    )

# Singular minima.
SINGULAR: dict[str, tuple[Landscape, dict[float, tuple[str, ...]]]] = {
    "x⁴": (monomial(4), {1e-3: SOUND, 1e-2: (), 0.05: ()}),
    "x⁶": (monomial(6), {1e-3: SOUND, 1e-2: (), 0.05: ()}),
    "x²y²": (monomial(2, 2), {1e-3: SOUND, 1e-2: (), 0.05: ()}),
    "x²y⁴": (monomial(2, 4), {1e-3: SOUND, 1e-2: (), 0.05: ()}),
    "x⁴y⁴": (monomial(4, 4), {1e-3: SOUND, 1e-2: (), 0.05: ()}),
    "|x|": (monomial(1), {1e-4: (), 1e-3: ()}),
    "(x²−y³)²": (cusp(), {1e-3: SOUND, 3e-3: (), 1e-2: ()}),
    "circle": (circle(), {3e-4: SOUND, 1e-3: (), 2e-3: TOO_HIGH, 4e-3: TOO_HIGH}),
}
for name, (landscape, steps) in SINGULAR.items():
    for step, verdicts in steps.items():
        add(
            f"{name}, step {step:g}",
            landscape,
            cache(lambda landscape=landscape: landscape.expected_on_grid(NBETA, GAMMA)),
            settings(step, 4000 if step < 1e-3 else 2000, chains=256),
            *verdicts,
        )
for units in (2, 4):
    for step in (1e-3, 1e-2, 3e-2, 6e-2):
        add(
            f"tanh network, {units} units, step {step:g}",
            tanh_network(units),
            cache(lambda units=units: tanh_network(units).expected_by_prior(NBETA, GAMMA)),
            settings(step, 2000),
            *(SOUND if step < 1e-2 else ()),
        )

# No minimum: saddles and maxima whose fall is milder than the pull.
for share in (0.2, 0.5, 0.9):
    for rising, falling in ((5, 1), (5, 5), (20, 2), (0, 3)):
        saddle = np.array([*np.full(rising, 10.0), *np.full(falling, -share * GAMMA / NBETA)])
        add(
            f"saddle, {rising} up, {falling} down at {share} of the pull",
            quadratic(saddle),
            lambda saddle=saddle: expected_of_quadratic(saddle, NBETA, GAMMA),  # type: ignore[misc]
            settings(2e-4, 2500),
            *NO_MINIMUM,
        )

# A constant loss: the rlct is 0, and nothing falls.
add("constant", Landscape(lambda weights: 0 * weights.sum(dim=-1), np.ones(3)), lambda: 0.0, settings(1e-3), *SOUND)


# Regular models of data, where batches add noise.


def logistic(samples: int = 2000, features: int = 7) -> tuple[Tensor, Tensor, np.ndarray]:
    """Inputs, labels and the weights of the best logistic regression."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(samples, features))
    labels = rng.random(samples) < 1 / (1 + np.exp(-inputs @ rng.normal(size=features)))
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(inputs, labels)
    return torch.from_numpy(inputs).float(), torch.from_numpy(labels).long(), fit.coef_[0]


def log_losses(network: Weights, inputs: Tensor, labels: Tensor) -> Tensor:
    weight = network.weight.view(len(inputs), -1, inputs.shape[-1])
    logits = torch.einsum("gbf,gmf->gmb", inputs, weight)
    signs = (2 * labels - 1).to(logits).unsqueeze(1)
    return torch.nn.functional.softplus(-signs * logits).flatten(0, 1)


def estimate_of_logistic(batch: int, nbeta: str | float, step: float, draws: int, chains: int = 32) -> RlctEstimate:
    inputs, labels, weights = logistic()
    config = RlctConfig(
        step_size=step,
        nbeta=nbeta,
        localization=GAMMA,
        chains=chains,
        draws=draws,
        batch_size=batch,
    )
    return estimate_rlct(Weights(weights), Split(inputs, labels), config, 0, sample_losses=log_losses)


@cache
def expected_of_logistic(nbeta: float) -> float:
    """E[nβ·ΔL] by importance sampling from the Gaussian that has the curvature of the minimum."""
    inputs, labels, weights = logistic()
    start, signs = torch.from_numpy(weights), (2 * labels - 1).double()
    inputs = inputs.double()
    probability = torch.sigmoid(inputs @ start)
    curvature = (inputs.T * (probability * (1 - probability))) @ inputs / len(inputs)
    precision = nbeta * curvature + GAMMA * torch.eye(len(start))
    normal = torch.distributions.MultivariateNormal(torch.zeros_like(start), precision_matrix=precision)
    torch.manual_seed(0)
    offsets = normal.sample((20_000,))
    loss = torch.nn.functional.softplus(-signs * ((start + offsets) @ inputs.T)).mean(dim=1)
    rise = nbeta * (loss - torch.nn.functional.softplus(-signs * (inputs @ start)).mean())
    log_weights = -rise - GAMMA / 2 * offsets.square().sum(dim=1) - normal.log_prob(offsets)
    density = (log_weights - log_weights.max()).exp()
    return float((density * rise).sum() / density.sum())


FULL = 2000 / math.log(2000)
for batch in (8, 16, 32, 64, 128, 500):
    for step, draws in ((4e-3, 1000), (3e-4, 2500)):
        CASES[f"logistic regression, nβ of the data, batch {batch}, step {step:g}"] = Case(
            lambda batch=batch, step=step, draws=draws: estimate_of_logistic(batch, "dataset", step, draws),  # type: ignore[misc]
            lambda: expected_of_logistic(FULL),
            TOO_HIGH if batch <= 32 and step == 4e-3 else (SOUND if step == 3e-4 and batch >= 16 else ()),
        )
for batch in (16, 64, 256):
    CASES[f"logistic regression, nβ of the batch, batch {batch}"] = Case(
        lambda batch=batch: estimate_of_logistic(batch, "batch", 4e-3, 1500),  # type: ignore[misc]
        lambda batch=batch: expected_of_logistic(batch / math.log(batch)),  # type: ignore[misc]
        (),
    )


@pytest.mark.parametrize("name", CASES)
def test_an_estimate_is_called_sound_only_if_it_is_right(name: str) -> None:
    case = CASES[name]
    result, truth = case.estimate(), case.truth()
    estimate, error = result.estimate[0], result.standard_error[0]
    (judgement,) = result.judgements
    if judgement.verdict == "sound":
        assert abs(estimate - truth) <= TOLERANCE * abs(truth) + 3 * error, (estimate, error, truth)
    if case.verdicts:
        assert judgement.verdict in case.verdicts, (judgement, estimate, error, truth)


def test_there_are_at_least_sixty_cases() -> None:
    assert len(CASES) >= 60


def test_twice_the_loss_at_half_the_temperature_has_the_same_estimate() -> None:
    # exp(−nβ·L) is all that the sampler sees: the identity holds draw by draw.
    single, double = tanh_network(2), Landscape(lambda weights: 2 * tanh_network(2).loss(weights), np.zeros(4))
    config = settings(1e-3, draws=200)
    half = config.model_copy(update={"nbeta": NBETA / 2})
    np.testing.assert_allclose(double.estimate(half).per_chain, single.estimate(config).per_chain, rtol=1e-3)


def test_at_a_high_temperature_the_estimate_is_nbeta_times_the_mean_loss_under_the_pull_alone() -> None:
    # nβ → 0: E[nβ·ΔL] → nβ·tr H/(2γ), which says nothing of λ.
    config = settings(1e-3).model_copy(update={"nbeta": 0.01})
    result = quadratic(np.linspace(1, 3, 50)).estimate(config)
    expected = 0.01 * 100 / (2 * GAMMA)
    assert result.estimate[0] == pytest.approx(expected, rel=0.03, abs=3 * result.standard_error[0])
