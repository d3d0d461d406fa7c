"""Tables as text: values with their intervals, a row per trial."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.record import STATUS, VERDICT, StudyRecord
from analysis.values import as_text


def summary_rows(record: StudyRecord, trials: pd.DataFrame) -> list[dict[str, str]]:
    """A short row per trial: network ('1×32'), the other dimensions that tell trials apart, the objectives."""
    of_network = record.description.names_of("network")
    of_tasks = set(record.differing).difference(record.distinguishing)
    dimensions = [name for name in record.dimensions if name not in (*of_network, *of_tasks)]
    return [
        {"network": record.network_of(trial)}
        | {name: as_text(trial[name]) for name in dimensions}
        | _values(record, trial, list(record.objectives))
        for trial in trials.to_dict("records")
    ]


def trial_rows(record: StudyRecord, trials: pd.DataFrame, with_all: bool = False) -> list[dict[str, str]]:
    """A row per trial: the dimensions that differ between trials and the objectives; `with_all` gives everything."""
    objectives = list(record.objectives)
    others = [name for name in record.measures if name not in objectives and record.trials[name].notna().any()]
    dimensions = record.dimensions
    return [
        {name: as_text(trial[name]) for name in dimensions}
        | ({"status": str(trial[STATUS])} if with_all else {})
        | _values(record, trial, [*objectives, *others] if with_all else objectives)
        for trial in trials.to_dict("records")
    ]


def with_interval(value: float, half_width: float) -> str:
    """'0.261 ± 0.004': the value, rounded to the precision of its interval."""
    if math.isnan(value):
        return "–"
    # The interval of equal values is 0 or rounding error.
    if not math.isfinite(half_width) or half_width <= 1e-9 * abs(value):
        return f"{value:.4g}"
    mantissa, exponent = f"{half_width:e}".split("e")
    # One digit of the interval, or two if the first digit is a 1.
    digits = max(0, min(6, (1 if float(mantissa) < 2 else 0) - int(exponent)))
    return f"{value:.{digits}f} ± {half_width:.{digits}f}"


def with_limits(value: float, low: float, high: float) -> str:
    """'0.79 (0.43 to 1.00)'."""
    return f"{value:.2f}" if math.isnan(low) else f"{value:.2f} ({low:.2f} to {high:.2f})"


def _values(record: StudyRecord, trial: dict[Any, Any], measures: Sequence[str]) -> dict[str, str]:
    """Measures with their 95 % intervals; the verdict follows the last measure that needs a usable verdict."""
    cells: dict[str, str] = {}
    needing = [name for name in measures if record.needs_verdict(name)]
    for name in measures:
        cells[name] = with_interval(trial[name], trial[f"{name}_ci95"])
        if needing and name == needing[-1]:
            cells[VERDICT] = str(trial[VERDICT])
    return cells
