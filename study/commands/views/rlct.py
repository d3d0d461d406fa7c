"""The output of `python -m study rlct …`: progress and results."""

from collections.abc import Mapping
from typing import Any

import rich.box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from analysis import read_record
from analysis.statistics import kendall_tau
from analysis.text import with_interval, with_limits
from study.engine.estimation import Job
from study.record.outcome import EstimateOutcome


class EstimateProgress:
    """The progress of estimates: a bar on a terminal, a line per estimate elsewhere."""

    def __init__(self, jobs: int, console: Console):
        self._console, self._jobs, self._ended = console, jobs, 0
        self._progress = Progress(
            TextColumn("estimates"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("estimates", total=jobs)

    def __enter__(self) -> "EstimateProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, job: Job) -> None:
        """Not shown: an estimate takes seconds."""

    def advanced(self, job: Job, stage: str) -> None:
        """Not shown: an estimate takes seconds."""

    def finished(self, job: Job, outcome: EstimateOutcome) -> None:
        rlct = sum(outcome.rlct.estimates) / len(outcome.rlct.estimates)
        self._say(job, f"rlct {rlct:.4g}, {outcome.rlct.verdict} ({outcome.seconds:.1f} s)")

    def failed(self, job: Job, reason: str) -> None:
        self._say(job, f"failed: {reason}", failed=True)

    def _say(self, job: Job, text: str, failed: bool = False) -> None:
        self._ended += 1
        self._progress.advance(self._task)
        if failed or not self._console.is_terminal:
            settings = f"step {job.settings.step_size:g} γ {job.settings.localization:g} nβ {job.settings.nbeta}"
            self._console.print(
                f"[{self._ended}/{self._jobs}] {job.trial.name}, {settings}: {text}",
                markup=False,
                highlight=False,
                soft_wrap=True,
                style="red" if failed else None,
            )


def compare_estimates(tracking_uri: str, study: str, key: str, names: Mapping[str, str]) -> Table:
    """The estimates with the settings of this key beside the trials' own, and whether they order the trials alike.

    `names` are the trials' names by trial key.

    Raises:
        AnalysisError: the record cannot be read, or has no such estimates.
    """
    before, after = read_record(tracking_uri, study).trials, read_record(tracking_uri, study, key).trials
    order = kendall_tau(before.set_index("trial_key")["rlct"], after.set_index("trial_key")["rlct"])
    table = Table(
        title=f"rlct, mean ± 95 % interval over replicates. Order of the trials: Kendall's τ "
        f"{with_limits(order.tau, order.low, order.high)}",
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    for column in ("trial", "in the study", "verdict", "now", "verdict"):
        table.add_column(column, justify="right" if column in ("in the study", "now") else "left", no_wrap=True)
    before_by_key = {row["trial_key"]: row for row in before.to_dict("records")}
    for now in after.to_dict("records"):
        then = before_by_key[now["trial_key"]]
        table.add_row(
            names[now["trial_key"]],
            with_interval(then["rlct"], then["rlct_ci95"]),
            then["rlct_verdict"],
            with_interval(now["rlct"], now["rlct_ci95"]),
            now["rlct_verdict"],
        )
    return table


def settings_table(settings: list[dict[Any, Any]], proposed: str | None) -> Table:
    """The settings of a calibration, one per row."""
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("step_size", "localization", "nbeta", "rlct", "se", "sound", "change", "stable", "τ"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in settings:
        table.add_row(
            f"{each['step_size']:g}",
            f"{each['localization']:g}",
            str(each["nbeta"]),
            f"{each['rlct']:.4g}",
            f"{each['relative_se']:.0%}",
            f"{each['sound_share']:.0%}",
            "–" if each["change"] != each["change"] else f"{each['change']:.0%}",
            "proposed" if each["settings_key"] == proposed else "yes" if each["stable"] else each["trouble"] or "no",
            f"{each['tau']:.2f}",
        )
    return table
