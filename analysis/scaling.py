"""Complexity against weight: sweeps within a study, and the curve fitted to each.

A sweep is a set of trials that differ in aux_weight alone. The curve is a shifted power law,

    y(w) = y0 · (1 + w / w0)^(−α),

finite at the baseline w = 0 and a power law w^(−α) far above w0. α > 0: the measure falls with the weight.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from lmfit import Model
from lmfit.model import ModelResult

from analysis.statistics import Difference, paired_difference
from analysis.table import OPTIONS, PUBLISHED_OPTIONS, UNUSABLE_RLCT, StudyRecord

COMPLEXITIES = ("weight_std", "rlct")
# Further measures that a trial is held against its baseline by.
COMPARED = (
    "train_loss", "generalization_gap", "activation_norm", "dead_unit_share", "effective_rank", "observer_r2",
    "observer_agreement",
)  # fmt: skip
# Three parameters are fitted: fewer weights than this would leave nothing to judge the fit by.
FEWEST_WEIGHTS = 5
# Fewer weights are no sweep, not even to look at.
FEWEST_SHOWN = 3
# Relative distance from a bound of w0 that counts as being at it.
AT_BOUND = 0.01


@dataclass(frozen=True)
class Sweep:
    """Trials of one network, control, target and kind of prediction at different weights, with their baseline."""

    label: str
    trials: pd.DataFrame

    def included(self, measure: str) -> pd.DataFrame:
        """The trials that a curve of this measure is fitted to.

        Collapsed and diverged networks are not simple, they are broken; and some verdicts say that an rlct is none.
        """
        return usable(self.trials, measure)


@dataclass(frozen=True)
class Fit:
    """A fitted curve of one measure over one sweep."""

    sweep: str
    measure: str
    weights: int  # points fitted
    y0: float
    y0_se: float
    w0: float
    w0_se: float  # NaN where w0 is held at a bound
    alpha: float
    alpha_se: float
    reduced_chi_square: float  # NaN where the points have no standard errors to measure it by
    # Second-order Akaike criterion of the best constant minus the curve's: above 0 the curve describes the data better.
    aicc_gain: float
    curve: pd.DataFrame  # aux_weight, value, and low, high of the 95 % band


def usable(trials: pd.DataFrame, *measures: str) -> pd.DataFrame:
    """The trials whose networks learned something and whose measures mean what their names say."""
    fine = trials["status_detail"] == "ok"
    if "rlct" in measures:
        fine &= ~trials["rlct_verdict"].isin(UNUSABLE_RLCT)
    return trials[fine]


def find_sweeps(record: StudyRecord) -> list[Sweep]:
    """All sets of trials that differ in aux_weight alone, with at least FEWEST_SHOWN different weights."""
    sweeps = []
    for (layers, width), of_network in record.trials.groupby(["hidden_layers", "width"]):
        is_baseline = (of_network["aux_weight"] == 0) & (of_network["control"] == "none")
        weighted = of_network[~is_baseline & (of_network["aux_weight"] > 0)]
        for kind, alike in weighted.groupby(["control", "target", *OPTIONS]):
            together = pd.concat([of_network[is_baseline], alike]).sort_values("aux_weight", ignore_index=True)
            if together["aux_weight"].nunique() >= FEWEST_SHOWN:
                named = dict(zip(("control", "target", *OPTIONS), kind, strict=True))
                sweeps.append(Sweep(f"{layers}×{width}, {describe_kind(named)}", together))
    return sweeps


def describe_kind(trial: Mapping[Any, Any]) -> str:
    """What a trial does beside classifying, but for its weight: 'target 1', 'dropout', 'target 2, head separate'."""
    if trial["control"] == "none" and trial["target"] == "none":
        return "baseline"
    parts = [] if trial["control"] == "none" else [str(trial["control"])]
    if trial["target"] != "none":
        parts.append(f"target {trial['target']}")
    parts += [f"{name} {trial[name]}" for name, published in PUBLISHED_OPTIONS.items() if trial[name] != published]
    return ", ".join(parts)


def fit_curve(sweep: Sweep, measure: str) -> Fit | None:
    """Fit the curve by least squares, each point weighted by its standard error; None where it cannot be done."""
    points = sweep.included(measure).dropna(subset=[measure])
    weight, value = points["aux_weight"].to_numpy(float), points[measure].to_numpy(float)
    if len(np.unique(weight)) < FEWEST_WEIGHTS or not (value > 0).all():
        return None
    error = points[f"{measure}_se"].to_numpy(float)
    known = bool((np.isfinite(error) & (error > 0)).all())
    # Few replicates give errors that are too small by chance: none counts for less than half of the typical one. With
    # one replicate there are none: then all points weigh the same, and their scatter about the curve is the error.
    weights = 1 / np.maximum(error, np.median(error) / 2) if known else np.ones_like(value)
    model = Model(shifted_power_law)
    largest, smallest = weight.max(), weight[weight > 0].min()
    parameters = model.make_params(
        y0={"value": value[weight.argmin()], "min": 0},
        # Beyond these bounds the data cannot tell w0 from infinity or from 0.
        w0={"value": math.sqrt(smallest * largest), "min": smallest / 10, "max": largest * 10},
        alpha={"value": 0.1, "min": -5, "max": 5},
    )
    result = model.fit(value, parameters, weight=weight, weights=weights, scale_covar=not known)
    w0 = result.params["w0"]
    if min(abs(w0.value / w0.min - 1), abs(w0.value / w0.max - 1)) < AT_BOUND:
        # The data only says that w0 lies beyond: hold it there, so that the errors of y0 and α mean something.
        parameters["w0"].set(value=w0.value, vary=False)
        result = model.fit(value, parameters, weight=weight, weights=weights, scale_covar=not known)
    constant = np.average(value, weights=weights**2)
    scatter = float((((value - constant) * weights) ** 2).sum())
    gain = _aicc(scatter, len(value), 1, known) - _aicc(float(result.chisqr), len(value), 3, known)
    fitted = result.params
    return Fit(
        sweep=sweep.label, measure=measure, weights=len(value),
        y0=fitted["y0"].value, y0_se=_error(fitted["y0"].stderr),
        w0=fitted["w0"].value, w0_se=_error(fitted["w0"].stderr) if fitted["w0"].vary else math.nan,
        alpha=fitted["alpha"].value, alpha_se=_error(fitted["alpha"].stderr),
        reduced_chi_square=float(result.redchi) if known else math.nan, aicc_gain=gain, curve=_curve(result, largest),
    )  # fmt: skip


def shifted_power_law(weight: np.ndarray, y0: float, w0: float, alpha: float) -> np.ndarray:
    """y0 · (1 + weight / w0)^(−alpha)."""
    return np.asarray(y0 * (1 + weight / w0) ** (-alpha))


def compare_with_baseline(record: StudyRecord) -> pd.DataFrame:
    """The difference of every trial from the baseline of its network, seed by seed, with its 95 % interval.

    Accuracy, COMPLEXITIES and COMPARED are compared; empty where no network has a baseline.
    """
    by_trial = {key: rows.set_index("seed") for key, rows in record.replicates.groupby("trial_key")}
    rows = []
    for (layers, width), of_network in record.trials.groupby(["hidden_layers", "width"]):
        is_baseline = (of_network["aux_weight"] == 0) & (of_network["control"] == "none")
        # A baseline that has learned nothing is nothing to compare with.
        is_baseline &= of_network["status_detail"] == "ok"
        if not is_baseline.any():
            continue
        reference = by_trial[of_network[is_baseline]["trial_key"].iloc[0]]
        for trial in of_network[~is_baseline].to_dict("records"):
            of_trial = by_trial[trial["trial_key"]]
            for measure in (record.accuracy, *COMPLEXITIES, *COMPARED):
                difference: Difference | None = paired_difference(of_trial[measure], reference[measure])
                if difference is not None:
                    rows.append(
                        {"trial": f"{layers}×{width}, {describe_kind(trial)}", "aux_weight": trial["aux_weight"],
                         "measure": measure, "baseline": float(reference[measure].mean()),
                         "difference": difference.mean, "low": difference.low, "high": difference.high,
                         "p_value": difference.p_value, "pairs": difference.pairs,
                         "status_detail": trial["status_detail"], "rlct_verdict": trial["rlct_verdict"]}
                    )  # fmt: skip
    return pd.DataFrame(rows)


def _curve(result: ModelResult, largest: float) -> pd.DataFrame:
    weight = np.concatenate([[0.0], np.geomspace(largest / 1000, largest, 120)])
    value = result.eval(weight=weight)
    band = (
        result.eval_uncertainty(weight=weight, sigma=0.95) if result.covar is not None else np.full_like(weight, np.nan)
    )
    return pd.DataFrame({"aux_weight": weight, "value": value, "low": value - band, "high": value + band})


def _error(stderr: float | None) -> float:
    return math.nan if stderr is None else float(stderr)


def _aicc(squares: float, points: int, parameters: int, errors_known: bool) -> float:
    """Akaike's criterion with the small-sample term (Hurvich and Tsai 1989); infinite where that is not defined.

    `squares` is χ² if the errors of the points are known, else the sum of squared residuals, whose scale is then one
    more parameter.
    """
    parameters += not errors_known
    if points - parameters - 1 <= 0:
        return math.inf
    misfit = squares if errors_known else points * math.log(max(squares, np.finfo(float).tiny) / points)
    return misfit + 2 * parameters + 2 * parameters * (parameters + 1) / (points - parameters - 1)
