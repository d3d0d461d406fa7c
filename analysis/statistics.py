"""Uncertainty: of means over replicates, of differences from a baseline, of orders of trials."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

CONFIDENCE = 0.95


def standard_error(values: pd.Series) -> float:
    """Standard error of the mean; NaN for fewer than two values, or if a value is missing."""
    if len(values) < 2 or values.isna().any():
        return math.nan
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def quantile(degrees_of_freedom: int | np.ndarray) -> np.ndarray:
    """Student's t with a two-sided tail probability of 1 − CONFIDENCE; NaN for 0 degrees of freedom."""
    return np.asarray(special.stdtrit(degrees_of_freedom, (1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval."""

    mean: float
    low: float
    high: float
    p_value: float
    pairs: int


def mean_difference(differences: np.ndarray) -> Difference | None:
    """Mean of the differences of pairs (P,); None for fewer than two. A pair with a missing value is left out.

    In all trials the replicates of one seed start from the same weights and see the samples in the same order:
    differences seed by seed leave this part of the spread out (paired t interval).
    """
    present = differences[~np.isnan(differences)]
    pairs = len(present)
    if pairs < 2:
        return None
    mean, error = float(present.mean()), float(present.std(ddof=1)) / math.sqrt(pairs)
    if error == 0:
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, pairs)
    half_width = float(quantile(pairs - 1)) * error
    p_value = 2 * float(special.stdtr(pairs - 1, -abs(mean) / error))
    return Difference(mean, mean - half_width, mean + half_width, p_value, pairs)


@dataclass(frozen=True)
class Concordance:
    """Kendall's τ-b of two rankings of the same trials, with its 95 % interval."""

    tau: float
    low: float  # NaN for fewer than FEWEST_RANKED trials
    high: float
    trials: int


# With fewer trials the bootstrap has too few different samples.
FEWEST_RANKED = 4
RESAMPLES = 1000


def kendall_tau(first: pd.Series, second: pd.Series) -> Concordance:
    """Agreement of two measures on the order of the same trials (both indexed by trial): 1 same order, −1 reversed.

    The interval is the percentile bootstrap over trials: the spread to expect from other trials of the same kind.
    """
    # scipy.stats takes most of scipy's import time, and only calibrations need it.
    from scipy import stats

    both = pd.concat([first, second], axis=1, join="inner").dropna().to_numpy(float)
    trials = len(both)
    if trials < 2:
        return Concordance(math.nan, math.nan, math.nan, trials)

    def tau_b(first: np.ndarray, second: np.ndarray) -> float:
        # A bootstrap sample that repeats one trial has no order.
        if np.ptp(first) == 0 or np.ptp(second) == 0:
            return 0.0
        return float(stats.kendalltau(first, second).statistic)

    tau = tau_b(both[:, 0], both[:, 1])
    if trials < FEWEST_RANKED:
        return Concordance(tau, math.nan, math.nan, trials)
    interval = stats.bootstrap(
        (both[:, 0], both[:, 1]),
        tau_b,
        n_resamples=RESAMPLES,
        paired=True,
        vectorized=False,
        method="percentile",
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Concordance(tau, float(interval.low), float(interval.high), trials)
