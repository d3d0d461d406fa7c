"""The verdict on an estimate: which condition fails, by how much, and what to change."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainables.outcomes import VERDICTS, RlctCaveat, RlctVerdict
from trainables.rlct.diagnostics import Diagnostics

# Largest tolerated share of the estimate for its error, its drift, its bias and a descent from the trained weights, and
# of a weight's final variance that is missing.
TOLERANCE = 0.1
# A drift counts if it is larger than this many of its standard errors.
DRIFT_STANDARD_ERRORS = 2.0
# Rank-normalised split R-hat above which the chains are not samples of one distribution.
MOST_R_HAT = 1.2
# With fewer effective draws, the error of the estimate cannot be trusted.
FEWEST_EFFECTIVE_DRAWS = 10.0
# Largest tolerated share of kept windows with a loss below that of the trained weights.
MOST_NEGATIVE_SHARE = 0.1
# Chains that go further than this times the distance on a flat loss were thrown out of the basin.
MOST_DISTANCE_RATIO = 1.5
# The chains have left the neighbourhood if finite steps make up more than this share of the estimate.
LARGEST_EXCESS = 0.5
# A direction along which the loss rises adds up to ½; trained weights are no minimum if one takes off more than this.
MOST_SAG = 0.1
# ‖w − w0‖ / ‖w0‖ above which the draws are further from the trained weights than these are from zero.
LOCAL = 1.0
# A step that overshoots the minimum goes further from it than it was at a stiffness above this.
MOST_STIFFNESS = 2.0


@dataclass(frozen=True)
class Judgement:
    """The verdict on one replicate, and the measure that led to it."""

    verdict: RlctVerdict
    reason: str
    caveats: tuple[RlctCaveat, ...] = ()

    @property
    def advice(self) -> str:
        """What to change, in one line."""
        return VERDICTS[self.verdict].advice


def judge(estimate: float, standard_error: float, diagnostics: Mapping[str, float]) -> Judgement:
    """Judge a replicate's estimate by standard error over chains and Diagnostics: the first verdict that applies."""
    verdict, reason = _first_that_applies(estimate, standard_error, diagnostics)
    return Judgement(verdict, reason, ("not_local",) if diagnostics["relative_distance"] > LOCAL else ())


def _first_that_applies(
    estimate: float, standard_error: float, diagnostics: Mapping[str, float]
) -> tuple[RlctVerdict, str]:
    d = diagnostics
    if d["spread"] == 0:
        return "sound", "the loss is the same for all draws: the rlct is 0"
    tolerated = TOLERANCE * abs(estimate)
    # With few chains their spread is uncertain: the effective draws give a second estimate of the error.
    error = max(standard_error, d["error_of_draws"])
    # The difference of two halves has twice the standard error of the mean of all draws.
    drift_error = max(d["drift_se"], 2 * d["error_of_draws"])
    stiffness = float(np.nanmax([d["stiffness"], d["stiffness_end"], 0.0]))
    drift, least_drift = abs(d["drift"]), max(tolerated, DRIFT_STANDARD_ERRORS * drift_error)
    checks: tuple[tuple[RlctVerdict, bool, str], ...] = (
        ("diverged", not math.isfinite(estimate), "the loss of a chain is not finite"),
        ("diverged", stiffness > MOST_STIFFNESS, f"step × nβ × curvature / 2 is {stiffness:.2g}"),
        ("not_a_minimum", estimate <= 0, f"the loss fell: the estimate is {estimate:.3g}"),
        (
            "not_a_minimum",
            d["negative_share"] > MOST_NEGATIVE_SHARE,
            f"the loss is below that of the trained weights in {d['negative_share']:.0%} of the kept windows",
        ),
        (
            "not_a_minimum",
            d["descent"] > tolerated,
            f"the loss falls by {d['descent']:.2g} along its gradient, against an estimate of {estimate:.3g}",
        ),
        ("not_a_minimum", d["sag"] > MOST_SAG, f"the mean of both sides falls by {d['sag']:.2g} along one direction"),
        (
            "diverged",
            d["excess"] > LARGEST_EXCESS * abs(estimate),
            f"finite steps and batches make up about {d['excess']:.2g} of the estimate of {estimate:.3g}",
        ),
        (
            "diverged",
            d["distance_ratio"] > MOST_DISTANCE_RATIO,
            f"the chains went {d['distance_ratio']:.2g} times as far as noise alone goes",
        ),
        (
            "biased",
            d["excess"] > tolerated,
            f"finite steps and batches raise the estimate of {estimate:.3g} by up to about {d['excess']:.2g} "
            f"(batches alone, at the trained weights: {d['batch_noise']:.2g})",
        ),
        (
            "drifting",
            d["settled"] < 1 - TOLERANCE,
            f"weights that the loss leaves free have {d['settled']:.0%} of their final variance",
        ),
        ("drifting", drift > least_drift, f"the kept half still changes by {drift / (estimate or 1):.0%}"),
        ("chains_disagree", d["r_hat"] > MOST_R_HAT, f"R-hat is {d['r_hat']:.2f}"),
        ("chains_disagree", error > tolerated, f"the standard error is {error / (estimate or 1):.0%} of the estimate"),
        (
            "chains_disagree",
            d["effective_draws"] < FEWEST_EFFECTIVE_DRAWS,
            f"all draws are worth {d['effective_draws']:.0f} independent ones",
        ),
    )
    for verdict, holds, reason in checks:
        if holds:
            return verdict, reason
    return "sound", "the chains agree, stand still and stay above the trained weights' loss"


def judge_all(estimates: np.ndarray, standard_errors: np.ndarray, diagnostics: Diagnostics) -> tuple[Judgement, ...]:
    """The judgement on each of R replicates."""
    return tuple(
        judge(
            float(estimate),
            float(standard_error),
            {name: float(values[index]) for name, values in vars(diagnostics).items()},
        )
        for index, (estimate, standard_error) in enumerate(zip(estimates, standard_errors, strict=True))
    )
