"""Uncertainty of means over replicates."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95


def standard_error(values: pd.Series) -> float:
    """Standard error of the mean; NaN for fewer than two values, or if one is missing."""
    return float(stats.sem(values, nan_policy="propagate")) if len(values) > 1 else math.nan


def interval_half_width(values: pd.Series) -> float:
    """Half the width of the 95 % interval of the mean (Student's t); NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    return standard_error(values) * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval."""

    mean: float
    low: float
    high: float
    p_value: float
    pairs: int


def paired_difference(treated: pd.Series, baseline: pd.Series) -> Difference | None:
    """Mean of treated − baseline over the seeds that both have (each indexed by seed); None for fewer than two.

    The replicates of one seed start from the same weights and see the samples in the same order, whatever the trial:
    comparing them seed by seed takes that part of the spread out (paired t interval).
    """
    seeds = treated.dropna().index.intersection(baseline.dropna().index)
    if len(seeds) < 2:
        return None
    differences = (treated.loc[seeds] - baseline.loc[seeds]).to_numpy(dtype=float)
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread == 0:
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, len(seeds))
    result = stats.ttest_1samp(differences, 0.0)
    interval = result.confidence_interval(CONFIDENCE)
    return Difference(mean, float(interval.low), float(interval.high), float(np.asarray(result.pvalue)), len(seeds))


@dataclass(frozen=True)
class Concordance:
    """Kendall's τ-b of two rankings of the same trials, with its 95 % interval."""

    tau: float
    low: float  # NaN for fewer than FEWEST_RANKED trials
    high: float
    trials: int


# With fewer trials the bootstrap has too few different samples to say anything.
FEWEST_RANKED = 4
RESAMPLES = 1000


def kendall_tau(first: pd.Series, second: pd.Series) -> Concordance:
    """How far two measures order the same trials alike (both indexed by trial); 1 the same order, −1 the reverse.

    The interval is the percentile bootstrap over trials: what other trials of the same kind would give.
    """
    both = pd.concat([first, second], axis=1, join="inner").dropna().to_numpy(float)
    trials = len(both)
    if trials < 2:
        return Concordance(math.nan, math.nan, math.nan, trials)
    tau = _tau_b(both[:, 0], both[:, 1])
    if trials < FEWEST_RANKED:
        return Concordance(tau, math.nan, math.nan, trials)
    interval = stats.bootstrap(
        (both[:, 0], both[:, 1]), _tau_b, n_resamples=RESAMPLES, paired=True, vectorized=False, method="percentile",
        confidence_level=CONFIDENCE, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Concordance(tau, float(interval.low), float(interval.high), trials)


def _tau_b(first: np.ndarray, second: np.ndarray) -> float:
    # A sample of one trial over and over has no order.
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.kendalltau(first, second).statistic)
