import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import mean_difference, quantile, standard_error


def test_the_interval_covers_the_true_mean_in_95_percent_of_all_samples() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(loc=3.0, scale=2.0, size=(4000, 5))
    covered = [abs(row.mean() - 3.0) <= standard_error(pd.Series(row)) * quantile(len(row) - 1) for row in samples]
    # Three standard errors of a share of 0.95 in 4000 trials are 0.0103.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.0103)


def test_one_value_has_no_error_and_a_missing_value_is_not_skipped() -> None:
    assert math.isnan(standard_error(pd.Series([1.0])))
    assert math.isnan(standard_error(pd.Series([1.0])) * quantile(0))
    assert math.isnan(standard_error(pd.Series([1.0, math.nan, 2.0])))


def test_paired_differences_take_out_what_the_seeds_share() -> None:
    rng = np.random.default_rng(1)
    of_seed = rng.normal(scale=10, size=8)
    baseline = pd.Series(of_seed, index=range(8))
    treated = pd.Series(of_seed - 1 + rng.normal(scale=0.1, size=8), index=range(8))[::-1]
    difference = mean_difference((treated - baseline).to_numpy())
    assert difference is not None
    reference = stats.ttest_rel(treated.sort_index(), baseline)
    assert difference.mean == pytest.approx(-1, abs=0.15)
    assert (difference.low, difference.high) == pytest.approx(tuple(reference.confidence_interval()))
    assert difference.p_value == pytest.approx(reference.pvalue)


def test_seeds_without_a_partner_are_left_out() -> None:
    difference = mean_difference(np.array([1.0, 0.5, np.nan]))
    assert difference is not None
    assert (difference.pairs, difference.mean) == (2, 0.75)
    assert mean_difference(np.array([0.0])) is None
