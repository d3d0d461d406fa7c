"""Curves fitted to sweeps of a record with known values: the families, and the choice between them."""

import numpy as np
import pandas as pd
import pytest

from analysis import StudyRecord
from analysis.curves import CONSTANT, CURVES, Curve, Parameter, constant, shifted_power_law
from analysis.fits import CurveFits, FittedParameter, fit_curve, fit_table
from analysis.sweeps import find_sweeps
from tests.analysis.in_memory import record_in_memory

WEIGHTS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
POWER_LAW = "shifted power law"


def falling(weight: float, number: int) -> dict[str, float]:
    """rlct falls with the weight as 30·(1 + w/5)^−0.4, weight_std as 0.3·(1 + w/5)^−0.1, with some noise."""
    noise = np.random.default_rng([number, int(weight * 10)]).normal(scale=0.002)
    return {
        "rlct": 30 * (1 + weight / 5) ** -0.4 * (1 + noise),
        "weight_std": 0.3 * (1 + weight / 5) ** -0.1 * (1 + noise),
    }


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return record_in_memory(falling, WEIGHTS)


def fits_of(record: StudyRecord, measure: str) -> CurveFits:
    (sweep,) = find_sweeps(record)
    fits = fit_curve(sweep, measure)
    assert fits is not None
    return fits


def within(parameter: FittedParameter, truth: float, standard_errors: float = 3) -> bool:
    return abs(parameter.value - truth) < standard_errors * parameter.se


@pytest.mark.parametrize(("measure", "y0", "alpha"), [("rlct", 30, 0.4), ("weight_std", 0.3, 0.1)])
def test_the_fitted_curve_finds_the_parameters_the_values_were_made_with(
    record: StudyRecord, measure: str, y0: float, alpha: float
) -> None:
    fits = fits_of(record, measure)
    assert (fits.best.family, fits.points) == (POWER_LAW, len(WEIGHTS))
    fitted = fits.best.parameters
    assert within(fitted["y0"], y0)
    assert within(fitted["alpha"], alpha)
    assert within(fitted["w0"], 5)
    assert not any(parameter.at_bound for parameter in fitted.values())
    assert fits.gain(fits.best) > 10
    band = fits.best.curve[(fits.best.curve["weight"] > 0)]
    truth = y0 * (1 + band["weight"] / 5) ** -alpha
    assert ((band["low"] <= truth) & (truth <= band["high"])).mean() > 0.9


def test_the_constant_is_the_mean_weighted_by_the_standard_errors(record: StudyRecord) -> None:
    level = fits_of(record, "rlct").fit_of(CONSTANT).parameters["level"]
    value, error = record.trials["rlct"], record.trials["rlct_se"]
    precision = 1 / np.maximum(error, error.median() / 2) ** 2
    assert level.value == pytest.approx(np.average(value, weights=precision))
    assert level.se == pytest.approx(1 / precision.sum() ** 0.5)


def test_with_one_replicate_the_scatter_about_the_curve_is_the_error() -> None:
    fits = fits_of(record_in_memory(falling, WEIGHTS, replicates=1), "rlct")
    alpha = fits.fit_of(POWER_LAW).parameters["alpha"]
    assert within(alpha, 0.4, standard_errors=4)
    assert alpha.se < 0.1
    assert fits.gain(fits.fit_of(POWER_LAW)) > 10
    assert np.isnan(fits.best.reduced_chi_square)


def test_the_constant_fits_constant_values_best() -> None:
    def level(weight: float, number: int) -> dict[str, float]:
        return {"rlct": 20 + (number - 1.5), "weight_std": 0.2}

    record = record_in_memory(level, WEIGHTS)
    # With and without differences between the replicates.
    for measure in ("rlct", "weight_std"):
        fits = fits_of(record, measure)
        assert fits.best.family == CONSTANT
        assert fits.gain(fits.fit_of(POWER_LAW)) < 0


def test_fewer_than_five_weights_are_a_sweep_without_a_curve_and_fewer_than_three_are_no_sweep() -> None:
    (sweep,) = find_sweeps(record_in_memory(falling, (0, 1, 2, 5)))
    assert fit_curve(sweep, "rlct") is None
    assert find_sweeps(record_in_memory(falling, (0, 1))) == []


def test_a_parameter_that_the_data_cannot_determine_is_held_at_its_bound() -> None:
    def pure_power(weight: float, number: int) -> dict[str, float]:
        return {"rlct": (1 + 0.001 * (number - 1.5)) * (100 if weight == 0 else 10 * weight**-0.5)}

    fitted = fits_of(record_in_memory(pure_power, WEIGHTS), "rlct").fit_of(POWER_LAW).parameters
    # The measure falls between the baseline and the smallest weight: w0 is below a tenth of the smallest weight.
    assert fitted["w0"].at_bound
    assert fitted["w0"].value == pytest.approx(0.1)
    assert np.isnan(fitted["w0"].se)
    assert not fitted["alpha"].at_bound
    assert fitted["alpha"].se > 0


def test_values_that_are_not_positive_are_no_power_law() -> None:
    (sweep,) = find_sweeps(record_in_memory(lambda weight, number: {"rlct": -1.0 - number}, WEIGHTS))
    assert fit_curve(sweep, "rlct") is None


def test_a_family_added_at_run_time_is_fitted_and_wins_where_it_is_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(weight: np.ndarray, start: float, slope: float) -> np.ndarray:
        """start + slope · weight."""
        return start + slope * weight

    def linear(weight: float, number: int) -> dict[str, float]:
        return {"rlct": 3 - 0.2 * weight + np.random.default_rng([number, int(weight)]).normal(scale=0.1)}

    monkeypatch.setitem(CURVES, "line", Curve(line, {"start": Parameter(0.0), "slope": Parameter(0.0, high=10)}))
    fits = fits_of(record_in_memory(linear, WEIGHTS), "rlct")
    # The values fall below 0, so no power law is fitted.
    assert [fit.family for fit in fits.fits] == ["line", CONSTANT]
    assert within(fits.best.parameters["start"], 3)
    assert within(fits.best.parameters["slope"], -0.2)
    rows = fit_table([fits])
    assert rows.loc[rows["best"], "parameter"].tolist() == ["start", "slope"]


def test_the_table_of_fits_has_a_row_per_parameter_and_its_columns_even_when_empty(record: StudyRecord) -> None:
    fits = fits_of(record, "rlct")
    table = fit_table([fits])
    assert table["parameter"].tolist() == ["y0", "w0", "alpha", "level"]
    assert table["best"].tolist() == [True, True, True, False]
    constant_row = table.iloc[-1]
    assert (constant_row["family"], constant_row["aicc_gain"]) == (CONSTANT, 0)
    assert table["aicc_gain"][0] == pytest.approx(constant_row["aicc"] - table["aicc"][0])
    assert list(fit_table([]).columns) == list(table.columns)


def test_the_formulas_are_those_of_the_functions() -> None:
    weight = np.array([0.0, 3.0])
    assert shifted_power_law(weight, 2.0, 1.0, 0.5).tolist() == [2.0, 1.0]
    assert constant(weight, 2.0).tolist() == [2.0, 2.0]
    assert CURVES[POWER_LAW].formula == "y0 · (1 + weight / w0)^(−alpha)"
    assert CURVES[CONSTANT].formula == "level"
    assert {name: curve.fewest_weights for name, curve in CURVES.items()} == {CONSTANT: 3, POWER_LAW: 5}


def test_parameters_start_and_end_where_the_points_say() -> None:
    points = np.array([0.0, 1.0, 4.0]), np.array([7.0, 5.0, 3.0])
    starts = {name: each.numbers(*points) for name, each in CURVES[POWER_LAW].parameters.items()}
    assert starts == {"y0": (7.0, 0.0, np.inf), "w0": (2.0, 0.1, 40.0), "alpha": (0.1, -5.0, 5.0)}
    assert pd.Series(CURVES[CONSTANT].parameters["level"].numbers(*points)).tolist() == [5.0, -np.inf, np.inf]
