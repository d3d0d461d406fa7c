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
