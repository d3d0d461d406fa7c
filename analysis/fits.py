"""Curves fitted to the measures of a sweep, and compared with each other by Akaike's criterion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.curves import CONSTANT, CURVES, Curve
from analysis.layout import ERROR_SUFFIX
from analysis.sweeps import Sweep

if TYPE_CHECKING:
    from lmfit import Parameters
    from lmfit.model import ModelResult

# A parameter is at its bound if it is within this share of the bound.
AT_BOUND = 0.01
# Residuals below this share of the values are rounding errors.
ROUNDING = 1e-12


@dataclass(frozen=True)
class FittedParameter:
    """A parameter of a fitted curve."""

    value: float
    se: float  # standard error; NaN if the parameter is held at a bound, or if the error cannot be computed
    at_bound: bool


@dataclass(frozen=True)
class Fit:
    """One family fitted to one measure over one sweep."""

    family: str
    parameters: dict[str, FittedParameter]
    reduced_chi_square: float  # NaN if the points have no standard errors
    aicc: float  # second-order Akaike criterion: the lower, the better the family describes the data
    curve: pd.DataFrame  # weight, value, and low, high of the 95 % band


@dataclass(frozen=True)
class CurveFits:
    """All families fitted to one measure over one sweep, the one with the lowest AICc first."""

    sweep: str
    measure: str
    points: int
    fits: tuple[Fit, ...]

    @property
    def best(self) -> Fit:
        """The fit that describes the data best."""
        return self.fits[0]

    def fit_of(self, family: str) -> Fit:
        """The fit of that family.

        Raises:
            KeyError: this family was not fitted.
        """
        return {fit.family: fit for fit in self.fits}[family]

    def gain(self, fit: Fit) -> float:
        """AICc of the constant minus AICc of the fit: above 0, the fit describes the data better."""
        return self.fit_of(CONSTANT).aicc - fit.aicc


@dataclass(frozen=True)
class _Points:
    """The points that a curve is fitted to, each (P,)."""

    weight: np.ndarray
    value: np.ndarray
    precision: np.ndarray  # 1 / standard error; 1 where standard errors are not known
    errors_known: bool


def fit_curve(sweep: Sweep, measure: str) -> CurveFits | None:
    """Fit by least squares every family of CURVES with enough points; None if only the constant has enough.

    Each point is weighted by its standard error. With few replicates some errors are too small by chance: each counts
    as at least half of the typical error. With one replicate there are no errors: then all points weigh the same, and
    their scatter about the curve is the error.
    """
    table = sweep.included(measure).dropna(subset=[measure])
    weight, value = table[sweep.record.weight].to_numpy(float), table[measure].to_numpy(float)
    families = {
        name: curve
        for name, curve in CURVES.items()
        if len(np.unique(weight)) >= curve.fewest_weights and ((value > 0).all() or not curve.positive)
    }
    if not families.keys() - {CONSTANT}:
        return None
    error = table[measure + ERROR_SUFFIX].to_numpy(float)
    known = bool((np.isfinite(error) & (error > 0)).all())
    precision = 1 / np.maximum(error, np.median(error) / 2) if known else np.ones_like(value)
    points = _Points(weight, value, precision, known)
    fits = [_fit(name, curve, points) for name, curve in families.items()]
    return CurveFits(sweep.label, measure, len(value), tuple(sorted(fits, key=lambda fit: fit.aicc)))


def fit_table(all_fits: Sequence[CurveFits]) -> pd.DataFrame:
    """All fits as a table, a row per sweep, measure, family and parameter; `best` says which family is drawn."""
    columns = (
        "sweep",
        "measure",
        "family",
        "parameter",
        "value",
        "se",
        "at_bound",
        "points",
        "reduced_chi_square",
        "aicc",
        "aicc_gain",
        "best",
    )
    rows = [
        (
            of_measure.sweep,
            of_measure.measure,
            fit.family,
            name,
            parameter.value,
            parameter.se,
            parameter.at_bound,
            of_measure.points,
            fit.reduced_chi_square,
            fit.aicc,
            of_measure.gain(fit),
            fit is of_measure.best,
        )
        for of_measure in all_fits
        for fit in of_measure.fits
        for name, parameter in fit.parameters.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def _fit(family: str, curve: Curve, points: _Points) -> Fit:
    # lmfit takes as long to import as everything else that a small report needs.
    from lmfit import Model

    model = Model(curve.function, independent_vars=["weight"])
    starts = {name: each.numbers(points.weight, points.value) for name, each in curve.parameters.items()}
    parameters = model.make_params(
        **{name: {"value": start, "min": low, "max": high} for name, (start, low, high) in starts.items()}
    )

    def least_squares() -> "ModelResult":
        return model.fit(
            points.value,
            parameters,
            weight=points.weight,
            weights=points.precision,
            scale_covar=not points.errors_known,
        )

    result = least_squares()
    held = _at_bounds(result.params)
    if held and len(held) < len(parameters):
        # The data only show that these parameters lie beyond: hold them at the bound, so that the others' errors are
        # meaningful.
        for name in held:
            parameters[name].set(value=result.params[name].value, vary=False)
        result = least_squares()
    fitted = {
        name: FittedParameter(
            value=float(result.params[name].value),
            se=math.nan if name in held or result.params[name].stderr is None else float(result.params[name].stderr),
            at_bound=name in held,
        )
        for name in curve.parameters
    }
    return Fit(
        family=family,
        parameters=fitted,
        reduced_chi_square=float(result.redchi) if points.errors_known else math.nan,
        aicc=_aicc(float(result.chisqr), points, len(fitted)),
        curve=_drawn(result, float(points.weight.max())),
    )


def _at_bounds(parameters: "Parameters") -> list[str]:
    """Names of the parameters that are at one of their bounds."""
    return [
        name
        for name, parameter in parameters.items()
        for bound in (parameter.min, parameter.max)
        if math.isfinite(bound) and abs(parameter.value - bound) <= AT_BOUND * abs(bound or parameter.init_value)
    ]


def _drawn(result: "ModelResult", largest: float) -> pd.DataFrame:
    weight = np.concatenate([[0.0], np.geomspace(largest / 1000, largest, 120)])
    value = result.eval(weight=weight)
    band = np.full_like(weight, np.nan)
    if result.covar is not None:
        # Points that lie exactly on the curve leave no uncertainty, by which lmfit would divide.
        with np.errstate(invalid="ignore"):
            band = result.eval_uncertainty(weight=weight, sigma=0.95)
    return pd.DataFrame({"weight": weight, "value": value, "low": value - band, "high": value + band})


def _aicc(squares: float, points: _Points, parameters: int) -> float:
    """Akaike's criterion with the small-sample term (Hurvich and Tsai 1989); infinite where the term is not defined.

    `squares` is χ² if the errors of the points are known, else the sum of squared residuals, whose scale is one more
    parameter.
    """
    count = len(points.value)
    parameters += not points.errors_known
    if count - parameters - 1 <= 0:
        return math.inf
    misfit = squares
    if not points.errors_known:
        rounding = count * (ROUNDING * np.abs(points.value).max()) ** 2
        misfit = count * math.log(max(squares, rounding, np.finfo(float).tiny) / count)
    return misfit + 2 * parameters + 2 * parameters * (parameters + 1) / (count - parameters - 1)
