"""One self-contained HTML page, and beside it every table and figure as a file."""

import base64
import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from analysis.errors import AnalysisError
from analysis.figures import draw_complexity, draw_tradeoff
from analysis.pareto import as_optuna_study, draw_pareto_front, front_table, pareto_optimal
from analysis.scaling import COMPLEXITIES, Fit, compare_with_baseline, find_sweeps, fit_curve
from analysis.table import UNUSABLE_RLCT, StudyRecord


@dataclass(frozen=True)
class Report:
    """What was written, and the tables in it."""

    folder: Path
    page: Path
    front: pd.DataFrame  # the Pareto-optimal trials
    fits: list[Fit]
    comparisons: pd.DataFrame  # each trial against the baseline of its network


def write_report(record: StudyRecord, folder: Path, command: str) -> Report:
    """Write tables (CSV and Parquet), figures (PNG and PDF), the Pareto front and report.html into `folder`.

    `command` is what makes the report again; the page names it.

    Raises:
        AnalysisError: the folder cannot be written.
    """
    sweeps = find_sweeps(record)
    fits = [fit for sweep in sweeps for measure in COMPLEXITIES if (fit := fit_curve(sweep, measure)) is not None]
    comparisons = compare_with_baseline(record)
    optuna_study = as_optuna_study(record)
    optimal = pareto_optimal(optuna_study)
    front = front_table(record, optimal)
    pareto = draw_pareto_front(optuna_study)
    figures = {"complexity": draw_complexity(record, sweeps, fits), "tradeoff": draw_tradeoff(record, optimal)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_tables(record, fits, comparisons, folder)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png")
            figure.savefig(folder / f"{name}.pdf")
        if pareto is not None:
            pareto.write_html(folder / "pareto.html", include_plotlyjs=True)
        page = folder / "report.html"
        context = _context(record, figures, fits, comparisons, front, command)
        pareto_html = pareto.to_html(full_html=False, include_plotlyjs=True) if pareto is not None else None
        page.write_text(render("report.html.j2", context | {"pareto": pareto_html}), encoding="utf-8")
    except OSError as error:
        raise AnalysisError(
            f"the report cannot be written to {folder}: {error.strerror}. Name another --out."
        ) from error
    return Report(folder, page, front, fits, comparisons)


def _write_tables(record: StudyRecord, fits: list[Fit], comparisons: pd.DataFrame, folder: Path) -> None:
    for name, table in (("replicates", record.replicates), ("trials", record.trials), ("comparisons", comparisons)):
        table.to_csv(folder / f"{name}.csv", index=False)
        table.to_parquet(folder / f"{name}.parquet", index=False)
    _fit_table(fits).to_csv(folder / "fits.csv", index=False)


def _context(
    record: StudyRecord,
    figures: dict[str, Figure],
    fits: list[Fit],
    comparisons: pd.DataFrame,
    front: pd.DataFrame,
    command: str,
) -> dict[str, Any]:
    tags, trials = record.tags, record.trials
    return {
        "study": record.study,
        "question": tags.get("question", ""),
        "task": tags.get("task", ""),
        "validation_split": tags.get("validation_split", ""),
        "trials": len(trials),
        "networks": len(record.replicates),
        "statuses": trials["status_detail"].value_counts().to_dict(),
        "verdicts": trials["rlct_verdict"].value_counts().to_dict(),
        "unusable": int(trials["rlct_verdict"].isin(UNUSABLE_RLCT).sum()),
        "rlct_settings": ", ".join(f"{name} {value}" for name, value in record.rlct_settings.items()),
        "objectives": record.objectives,
        "images": {name: as_data_uri(figure) for name, figure in figures.items()},
        "fits": [asdict(fit) for fit in fits],
        "comparisons": comparisons.to_dict("records"),
        "front": trial_cells(record, front),
        "all_trials": trial_cells(record, trials, with_status=True),
        "measured": _measured_cells(record),
        "protocol": json.loads(tags["protocol"]),
        "environment": {
            name: value
            for name, value in sorted(tags.items())
            if name.startswith(("version.", "driver.")) or name in ("platform", "git_commit", "data_digest")
        },
        "command": command,
    }


def trial_cells(record: StudyRecord, trials: pd.DataFrame, with_status: bool = False) -> list[dict[str, str]]:
    """The rows of a trial table as text: place, measures with 95 % intervals, verdict, and status if asked for."""
    measures = (record.accuracy, *COMPLEXITIES)
    return [
        {name: f"{trial[name]:.4g}" if name == "aux_weight" else str(trial[name]) for name in record.place}
        | {name: with_interval(trial[name], trial[f"{name}_ci95"]) for name in measures}
        | {"rlct_verdict": trial["rlct_verdict"]}
        | ({"status": trial["status_detail"]} if with_status else {})
        for trial in trials.to_dict("records")
    ]


def _measured_cells(record: StudyRecord) -> list[dict[str, str]]:
    """The rows of the table of everything that was measured, as text."""
    measures = [name for name in record.measures if record.trials[name].notna().any()]
    return [
        {name: f"{trial[name]:.4g}" if name == "aux_weight" else str(trial[name]) for name in record.place}
        | {name: with_interval(trial[name], trial[f"{name}_ci95"]) for name in measures}
        for trial in record.trials.to_dict("records")
    ]


def with_interval(value: float, half_width: float) -> str:
    """'0.261 ± 0.004': the value to the digits that its interval warrants."""
    if math.isnan(value):
        return "–"
    # Values that are all equal differ by rounding at most.
    if not math.isfinite(half_width) or half_width <= 1e-9 * abs(value):
        return f"{value:.4g}"
    mantissa, exponent = f"{half_width:e}".split("e")
    # One digit of the interval, two where the first is a 1.
    digits = max(0, min(6, (1 if float(mantissa) < 2 else 0) - int(exponent)))
    return f"{value:.{digits}f} ± {half_width:.{digits}f}"


def _fit_table(fits: list[Fit]) -> pd.DataFrame:
    return pd.DataFrame([{name: value for name, value in vars(fit).items() if name != "curve"} for fit in fits])


def as_data_uri(figure: Figure) -> str:
    """A figure as it can stand in a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def render(template: str, context: dict[str, Any]) -> str:
    """A page of this package, filled in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["interval"] = with_interval
    return environment.get_template(template).render(**context)
