"""The report: one self-contained HTML page, with every table and figure as a file beside it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.comparison import compare_with_baseline
from analysis.curves import CURVES
from analysis.description import Caveat, Outcome
from analysis.errors import AnalysisError
from analysis.figures import draw_against_weight, draw_tradeoff, measures_against_weight
from analysis.fits import CurveFits, FittedParameter, fit_curve, fit_table
from analysis.freshness import PAGE, Summary, begin_report, end_report
from analysis.layout import ENVIRONMENT_TAGS, ESTIMATED, Tag
from analysis.pages import file_name, render, save_csv, save_figure
from analysis.pareto import as_optuna_study, draw_pareto_front, front_table, pareto_optimal
from analysis.record import CAVEATS, STATUS, VERDICT, StudyRecord
from analysis.sweeps import Sweep, find_sweeps
from analysis.text import summary_rows, trial_rows, with_interval
from analysis.values import for_parquet

if TYPE_CHECKING:
    import optuna

# Half the width of a fitted parameter's 95 % interval, in standard errors.
INTERVAL = 1.96


@dataclass(frozen=True)
class Report:
    """The report that was written, and its tables."""

    folder: Path
    page: Path
    front: pd.DataFrame  # the Pareto-optimal trials of each task
    fits: list[CurveFits]  # one per sweep and measure to which curves could be fitted
    comparisons: pd.DataFrame  # each trial against its baseline
    summary: Summary


@dataclass(frozen=True)
class _TaskResults:
    """What is computed from the trials of one task. Trials of two tasks are in no curve and on no front together."""

    task: str
    record: StudyRecord
    sweeps: list[Sweep]
    fits: list[CurveFits]
    comparisons: pd.DataFrame
    optuna_study: "optuna.Study"
    optimal: set[str]

    @classmethod
    def of(cls, task: str, record: StudyRecord) -> "_TaskResults":
        sweeps = find_sweeps(record)
        fits = [fit for sweep in sweeps for measure in record.complexities if (fit := fit_curve(sweep, measure))]
        optuna_study = as_optuna_study(record)
        return cls(
            task, record, sweeps, fits, compare_with_baseline(record), optuna_study, pareto_optimal(optuna_study)
        )

    @property
    def front(self) -> pd.DataFrame:
        """The Pareto-optimal trials."""
        return front_table(self.record, self.optimal)

    def figures(self) -> dict[str, Figure]:
        """The figures by name."""
        return {
            "complexity": draw_against_weight(self.record, self.sweeps, self.fits),
            "tradeoff": draw_tradeoff(self.record, self.optimal),
        }

    def section(self, images: Mapping[str, str], pareto: str) -> dict[str, Any]:
        """The parts of the page on this task."""
        return {
            "task": self.task,
            "images": images,
            "panels": measures_against_weight(self.record),
            "pareto": pareto,
            "fits": _fit_rows(self.fits),
            "formulas": _formulas(self.fits),
            "comparisons": _comparison_rows(self.record, self.comparisons),
            "front": trial_rows(self.record, self.front),
        }


def write_report(record: StudyRecord, folder: Path, command: str) -> Report:
    """Write tables (CSV and Parquet), figures (PNG and PDF), the Pareto front and report.html into `folder`.

    Each task has figures, fits, comparisons and a front of its own. `command` makes the report again; the page names
    it. The report's source is noted in report.json.

    Raises:
        AnalysisError: the folder cannot be written.
    """
    results = [_TaskResults.of(task, of_task) for task, of_task in record.by_task().items()]
    front = pd.concat([each.front for each in results], ignore_index=True)
    comparisons = _of_tasks(results, [each.comparisons for each in results])
    pareto = _pareto_pictures(results)
    summary = Summary(len(record.trials), len(record.replicates), summary_rows(record, front))
    tables = {
        "replicates": record.replicates,
        "trials": record.trials,
        "comparisons": comparisons,
        "fits": _of_tasks(results, [fit_table(each.fits) for each in results]),
    }
    page = folder / PAGE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        begin_report(folder)
        for name, table in tables.items():
            save_csv(table, folder / f"{name}.csv")
            for_parquet(table).to_parquet(folder / f"{name}.parquet", index=False)
        sections = []
        for number, each in enumerate(results):
            of_task = f"-{file_name([each.task])}" if len(results) > 1 else ""
            images = {name: save_figure(figure, folder, f"{name}{of_task}") for name, figure in each.figures().items()}
            sections.append(each.section(images, pareto[number]))
        context = _facts(record) | {"sections": sections, "command": command}
        page.write_text(render("report.html.j2", context), encoding="utf-8")
        if any(pareto):
            pictures = [(each.task, picture) for each, picture in zip(results, pareto, strict=True) if picture]
            front_page = render("pareto.html.j2", {"study": record.study, "pictures": pictures})
            (folder / "pareto.html").write_text(front_page, encoding="utf-8")
        end_report(folder, record.source, summary)
    except OSError as error:
        raise AnalysisError(
            f"the report cannot be written to {folder}: {error.strerror}. Name another --out."
        ) from error
    fits = [fit for each in results for fit in each.fits]
    return Report(folder, page, front, fits, comparisons, summary)


def _of_tasks(results: Sequence[_TaskResults], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables of all tasks as one, with the task in its first column if there are several."""
    if len(tables) == 1:
        return tables[0]
    filled = [(each.task, table) for each, table in zip(results, tables, strict=True) if len(table)]
    if not filled:
        return tables[0].assign(task=[])[["task", *tables[0].columns]]
    joined = pd.concat([table.assign(task=task) for task, table in filled], ignore_index=True)
    return joined[["task", *tables[0].columns]]


def _pareto_pictures(results: Sequence[_TaskResults]) -> list[str]:
    """Optuna's pictures of each task's front as HTML, '' if there is none. The first one brings the script."""
    pictures: list[str] = []
    for each in results:
        figures = draw_pareto_front(each.optuna_study)
        drawn = any(pictures)
        pictures.append(
            "\n".join(
                figure.to_html(full_html=False, include_plotlyjs=not drawn and number == 0)
                for number, figure in enumerate(figures)
            )
        )
    return pictures


def _caveats(record: StudyRecord) -> list[tuple[int, Caveat]]:
    """The caveats of the estimates, each with the number of trials that have it."""
    if CAVEATS not in record.trials:
        return []
    named = [name for names in record.trials[CAVEATS].dropna() for name in names.split(", ")]
    return [(named.count(caveat.name), caveat) for caveat in record.description.caveats if caveat.name in named]


def _facts(record: StudyRecord) -> dict[str, Any]:
    """The parts of the page that need only the record."""
    tags, trials, description = record.tags, record.trials, record.description
    counts = _counts(trials[STATUS], description.statuses)
    unusable = _unusable(trials[STATUS], description.statuses)
    return {
        "study": record.study,
        "question": tags.get(Tag.QUESTION, ""),
        "task": ", ".join(record.by_task()),
        "validation_split": tags.get(Tag.VALIDATION_SPLIT, ""),
        "trials": len(trials),
        "networks": len(record.replicates),
        "statuses": counts,
        "verdicts": _counts(trials[VERDICT], description.verdicts),
        "unusable_statuses": unusable,
        "left_out": [f"{counts[status.name]} {status.name.replace('_', ' ')}" for status in unusable],
        "unusable_verdicts": _unusable(trials[VERDICT], description.verdicts),
        "needing_verdict": [name for name in record.measures if record.needs_verdict(name)],
        "rlct_settings": ", ".join(f"{name} {value}" for name, value in record.rlct_settings.items()),
        "caveats": _caveats(record),
        "rlct_meaning": meant.meaning if (meant := description.measure(ESTIMATED)) else "",
        "objectives": record.objectives,
        "weight": record.weight,
        "titles": {name: _title(record, name) for name in (*record.dimensions, *record.measures)},
        "all_trials": trial_rows(record, trials, with_all=True),
        "measures": [(name, record.label_of(name), description.measure(name)) for name in record.measures],
        "dimensions": [each for each in description.dimensions if each.name in trials],
        "protocol": json.loads(tags[Tag.PROTOCOL]),
        "environment": {
            name: value
            for name, value in sorted(tags.items())
            if name.startswith(ENVIRONMENT_TAGS) or name in (Tag.GIT_COMMIT, Tag.DATA_DIGEST)
        },
    }


def _counts(column: pd.Series, outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many trials have each status or verdict, in the order of the description."""
    names = column.tolist()
    known = [outcome.name for outcome in outcomes if outcome.name in names]
    return {name: names.count(name) for name in dict.fromkeys([*known, *names])}


def _unusable(column: pd.Series, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The statuses or verdicts, among those of the trials, with which values do not count."""
    present = set(column)
    return [outcome for outcome in outcomes if outcome.name in present and not outcome.usable]


def _title(record: StudyRecord, name: str) -> str:
    """The meaning of a column, in one sentence."""
    measure = record.description.measure(name)
    if measure is not None:
        return f"{record.label_of(name)}: {measure.meaning}"
    return {each.name: each.meaning for each in record.description.dimensions}[name]


def _fit_rows(all_fits: Sequence[CurveFits]) -> list[dict[str, Any]]:
    """The rows of the table of fits, the best of each sweep and measure first."""
    return [
        {
            "sweep": of_measure.sweep,
            "measure": of_measure.measure,
            "points": of_measure.points,
            "family": fit.family,
            "best": fit is of_measure.best,
            "parameters": ", ".join(_parameter_text(name, each) for name, each in fit.parameters.items()),
            "reduced_chi_square": _number(fit.reduced_chi_square, ".2f"),
            "aicc_gain": _number(of_measure.gain(fit), "+.1f"),
        }
        for of_measure in all_fits
        for fit in of_measure.fits
    ]


def _parameter_text(name: str, parameter: FittedParameter) -> str:
    value = with_interval(parameter.value, INTERVAL * parameter.se)
    return f"{name} = {value}" + (" (at its bound)" if parameter.at_bound else "")


def _formulas(all_fits: Sequence[CurveFits]) -> dict[str, str]:
    """The formula of each family that was fitted."""
    families = dict.fromkeys(fit.family for of_measure in all_fits for fit in of_measure.fits)
    return {family: CURVES[family].formula for family in families}


def _comparison_rows(record: StudyRecord, comparisons: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of the table of comparisons, as text."""
    return [
        {
            "trial": row["trial"],
            record.weight: f"{row[record.weight]:g}",
            "measure": row["measure"],
            "baseline": f"{row['baseline']:.4g}",
            "difference": f"{row['difference']:+.3g}",
            "95 % interval": f"{row['low']:+.3g} … {row['high']:+.3g}",
            "p": f"{row['p_value']:.2g}",
            "pairs": str(row["pairs"]),
            "status": row[STATUS] + (f", {row[VERDICT]}" if record.needs_verdict(row["measure"]) else ""),
        }
        for row in comparisons.to_dict("records")
    ]


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"
