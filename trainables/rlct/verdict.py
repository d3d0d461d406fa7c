"""The verdict on an estimate: which of the things that must hold does not, by how much, and what to change."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainables.rlct.diagnostics import Diagnostics

RlctVerdict = Literal["sound", "drifting", "chains_disagree", "not_a_minimum", "diverged"]
# From best to worst; a trial's verdict is the worst of its replicates'.
VERDICTS: tuple[RlctVerdict, ...] = ("sound", "drifting", "chains_disagree", "not_a_minimum", "diverged")
# With these the number is no rlct at all: nothing may be ranked or fitted by it.
UNUSABLE: tuple[RlctVerdict, ...] = ("not_a_minimum", "diverged")

# What to change, one line each.
ADVICE: dict[RlctVerdict, str] = {
    "sound": "Nothing: the estimate can be used.",
    "drifting": "The chains are still on their way: take more draws, larger steps or a larger localization.",
    "chains_disagree": "The chains tell different stories: take more draws, more chains or a larger localization.",
    "not_a_minimum": "The trained weights are no minimum, and the number says nothing of complexity: train longer, or "
    "with a smaller aux_weight or learning rate; no setting of the sampler mends it.",
    "diverged": "The steps are too large for the curvature: take a step_size (or nbeta) 3 to 10 times smaller.",
}

# Share of the estimate above which its error, its drift or a descent from the trained weights matters, and share of a
# weight's final variance that may be missing.
TOLERANCE = 0.1
# A drift counts if it is larger than this many of its standard errors.
DRIFT_STANDARD_ERRORS = 2.0
# Rank-normalised split R-hat above which the chains are not samples of one distribution.
MOST_R_HAT = 1.2
# Below this many effective draws no error of the estimate can be believed.
FEWEST_EFFECTIVE_DRAWS = 10.0
# Share of the kept windows that may lie below the trained weights' loss.
MOST_NEGATIVE_SHARE = 0.1
# Chains that have come further than this times the distance on a flat loss were thrown out, not held in a basin.
MOST_DISTANCE_RATIO = 1.5
# The steepest direction is sampled 1/(1 − stiffness/2) times too wide: a third with this, without end with 2.
MOST_STIFFNESS = 0.5


@dataclass(frozen=True)
class Judgement:
    """The verdict on one replicate and the measure that it rests on."""

    verdict: RlctVerdict
    reason: str

    @property
    def advice(self) -> str:
        """What to change, in one line."""
        return ADVICE[self.verdict]


def judge(estimate: float, standard_error: float, diagnostics: Mapping[str, float]) -> Judgement:
    """Judge one replicate's estimate by its standard error over chains and its Diagnostics; the first that holds."""
    d = diagnostics
    tolerated = TOLERANCE * abs(estimate)
    # The chains' spread is itself uncertain with few of them: their effective draws give a second opinion.
    error = max(standard_error, d["error_of_draws"])
    # A difference of two halves has twice the standard error of the whole.
    drift_error = max(d["drift_se"], 2 * d["error_of_draws"])
    drift, least_drift = abs(d["drift"]), max(tolerated, DRIFT_STANDARD_ERRORS * drift_error)
    checks: tuple[tuple[RlctVerdict, bool, str], ...] = (
        ("diverged", not math.isfinite(estimate), "the loss of a chain is not finite"),
        ("diverged", d["stiffness"] > MOST_STIFFNESS, f"step × nβ × curvature / 2 is {d['stiffness']:.2g}"),
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
        (
            "diverged",
            d["distance_ratio"] > MOST_DISTANCE_RATIO,
            f"the chains went {d['distance_ratio']:.2g} times as far as noise alone goes",
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
            return Judgement(verdict, reason)
    return Judgement("sound", "the chains agree, stand still and stay above the trained weights' loss")


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
