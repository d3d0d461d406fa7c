"""How far an estimate can be trusted: measures of the chains and of their starting point."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from trainables.config import RlctConfig
from trainables.rlct.losses import OUTLOOK, Start, Surroundings
from trainables.rlct.sampling import RMSPROP_EPSILON, Trace

# A chain's kept draws are averaged over this many windows, against the noise of single batches.
WINDOWS = 10


@dataclass(frozen=True)
class Diagnostics:
    """Measures of R replicates, each (R,). "In units of the rlct" means nβ times a loss in nats."""

    r_hat: np.ndarray  # rank-normalised split R-hat of the kept draws over chains (Vehtari et al. 2021); 1 is best
    effective_draws: np.ndarray  # effective sample size of the kept draws of all chains together
    error_of_draws: np.ndarray  # standard error of the estimate from the effective draws, in units of the rlct
    spread: np.ndarray  # standard deviation of the rise of the loss over all kept draws, in units of the rlct
    drift: np.ndarray  # rise from the first to the second half of the kept draws, in units of the rlct
    drift_se: np.ndarray  # its standard error over chains
    negative_share: np.ndarray  # share of the kept windows in which the loss is lower than that of the trained weights
    distance: np.ndarray  # ‖w − w0‖ of the last draw, mean over chains
    distance_ratio: np.ndarray  # distance over that on a flat loss; above 1 the loss pushed the chains away
    relative_distance: np.ndarray  # distance over ‖w0‖
    gradient_norm: np.ndarray  # ‖∇L(w0)‖ over all training samples
    descent: np.ndarray  # fall of the loss along this gradient within a chain's reach, in units of the rlct
    sag: np.ndarray  # mean fall of the loss along the direction of the smallest curvature, in units of the rlct
    stiffness: np.ndarray  # step × nβ × largest curvature at w0 / 2: x → (1 − stiffness)·x is a step to the minimum
    stiffness_end: np.ndarray  # the same at the first chain's last draw
    excess: np.ndarray  # by how much finite steps and batches raise the estimate, from the forces on the kept draws
    batch_noise: np.ndarray  # the batches' part of this, from the variance of their gradients at w0
    settled: np.ndarray  # variance of a weight on a flat loss in the kept draws, as a share of its final variance


def diagnose(trace: Trace, start: Start, around: Surroundings, config: RlctConfig, nbeta: float) -> Diagnostics:
    """Measure the chains of every replicate; NaN if one of them diverged."""
    # arviz-stats takes seconds to import, and only this function needs it.
    from arviz_stats.base.array import array_stats

    rise = nbeta * (trace.loss - trace.start_loss)[config.burn_in :].transpose(1, 2, 0)  # (R, C, kept)
    half = config.kept_draws // 2
    drifts = rise[:, :, -half:].mean(axis=2) - rise[:, :, :half].mean(axis=2)
    finite = np.isfinite(rise).all(axis=(1, 2))
    windows = np.stack([w.mean(axis=2) for w in np.array_split(rise, min(WINDOWS, config.kept_draws), axis=2)])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Chains that do not move have variance 0, and NaN is then correct.
        warnings.simplefilter("ignore", RuntimeWarning)
        r_hat = np.asarray(array_stats.rhat(rise, chain_axis=1, draw_axis=2))
        effective_draws = np.asarray(array_stats.ess(rise, chain_axis=1, draw_axis=2, method="mean"))
    distance, step = trace.distance.mean(axis=1), _largest_step(config)
    return Diagnostics(
        r_hat=np.where(finite, r_hat, math.nan),
        effective_draws=np.where(finite, effective_draws, math.nan),
        error_of_draws=rise.std(axis=(1, 2)) / np.sqrt(effective_draws),
        spread=rise.std(axis=(1, 2)),
        drift=drifts.mean(axis=1),
        drift_se=drifts.std(axis=1, ddof=1) / math.sqrt(config.chains),
        negative_share=np.where(finite, (windows < 0).mean(axis=(0, 2)), math.nan),
        distance=distance,
        distance_ratio=distance / (np.sqrt(start.parameters) * flat_spread(config)),
        relative_distance=np.divide(distance, start.norm, out=np.full(len(distance), np.inf), where=start.norm > 0),
        gradient_norm=start.gradient_norm,
        descent=_descent(start, config, nbeta),
        sag=_sag(around.rises, nbeta),
        stiffness=step * nbeta * np.maximum(around.largest, 0.0) / 2,
        stiffness_end=step * nbeta * np.maximum(trace.curvature[:, 0], 0.0) / 2,
        excess=trace.excess.mean(axis=1),
        batch_noise=step * nbeta**2 * start.batch_variance / 8,
        settled=np.full(len(distance), _settled(config)),
    )


def flat_spread(config: RlctConfig) -> float:
    """Standard deviation of one weight after all draws where the loss is flat.

    Langevin dynamics with the pull γ alone is an Ornstein–Uhlenbeck process: after the time t = step · draws the
    variance is (1 − exp(−γt)) / γ, or t where γ = 0.
    """
    gamma, time = config.localization, _largest_step(config) * config.draws
    return math.sqrt(-math.expm1(-gamma * time) / gamma if gamma > 0 else time)


def _settled(config: RlctConfig) -> float:
    """Mean of 1 − exp(−γt) over the kept draws; 0 if γ = 0, where the variance grows without limit."""
    rate = config.localization * _largest_step(config)
    if rate == 0:
        return 0.0
    return 1 - (math.exp(-rate * config.burn_in) - math.exp(-rate * config.draws)) / (rate * config.kept_draws)


def _descent(start: Start, config: RlctConfig, nbeta: float) -> np.ndarray:
    """nβ·(‖g‖x − hx²/2), with x the distance that a chain without noise moves along the gradient g; h is the curvature.

    A constant force of 1 moves a weight by (1 − exp(−γt/2)) / γ in the time t (t/2 where γ = 0); the curvature shortens
    this distance.
    """
    gamma, time = config.localization, _largest_step(config) * config.draws
    reach = -math.expm1(-gamma * time / 2) / gamma if gamma > 0 else time / 2
    curvature = np.maximum(start.curvature, 0.0)
    x = nbeta * start.gradient_norm / (1 / reach + nbeta * curvature)
    return np.asarray(nbeta * (start.gradient_norm * x - curvature * x**2 / 2))


def _sag(rises: np.ndarray, nbeta: float) -> np.ndarray:
    """−E[nβ·ΔL] under exp(−nβ·ΔL − γt²/2) along the direction t of the smallest curvature; 0 if the loss rises there.

    The loss along the direction tells, not its curvature: a kink of a ReLU can look like a negative one.
    """
    distances = np.array([0.0, *OUTLOOK])
    rises = nbeta * np.pad(rises, ((0, 0), (1, 0)))
    exponents = -rises - distances**2 / 2
    weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    # Where the loss is not finite, no chain goes.
    weighted = np.where(weights > 0, weights * rises, 0.0)
    return np.asarray(np.maximum(-weighted.sum(axis=1) / weights.sum(axis=1), 0.0))


def _largest_step(config: RlctConfig) -> float:
    """The step of a weight; with preconditioning, the step of a weight with a gradient much smaller than ε."""
    return config.step_size / RMSPROP_EPSILON if config.sampler == "rmsprop_sgld" else config.step_size
