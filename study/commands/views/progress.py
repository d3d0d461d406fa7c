"""The display of a running study."""

import math
import statistics
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from study.commands.views.durations import format_seconds
from study.engine.plan import Plan
from study.engine.runner import RunTrial
from study.errors import last_line
from study.record.outcome import Outcome, describe_trial, mean_and_error
from study.shown import plain
from trainables.measures import MEASURES
from trainables.outcomes import STATUSES, VERDICTS

# Seconds after which a file gets a line although no trial has ended.
LONGEST_SILENCE = 60.0


class StudyProgress:
    """A live display on a terminal; it only watches, and decides nothing.

    In a file it writes a line per finished trial, and a line a minute on the running trials while none ends.
    """

    def __init__(self, plan: Plan, console: Console, beginning: str = "starting …"):
        self._plan = plan
        self._console = console
        self._beginning = beginning
        self._running: dict[str, tuple[RunTrial, str]] = {}
        self._done = self._failed = 0
        self.stopped_early = 0  # of those that are done
        self._time_left = TimeLeft(plan)
        self._last_line = time.monotonic()
        self._best: dict[str, tuple[float, str]] = {}
        growing = {growth.key for growth in plan.growing}
        for key, recorded in plan.finished.items():
            if STATUSES[recorded.status].usable and key not in growing:
                self._keep_best(recorded.metrics, recorded.rlct_verdict, recorded.name)
        self._bar = Progress(
            TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._bar.add_task("trials", total=plan.to_do)
        # No redirects: the output of libraries belongs in the log, not above the display.
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print(self._beginning)
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def _name(self, trial: RunTrial) -> str:
        return describe_trial(trial.config, self._plan.spec.varied)

    def started(self, trial: RunTrial) -> None:
        self._running[trial.key] = (trial, "starting")
        self._time_left.started(trial)

    def advanced(self, trial: RunTrial, stage: str) -> None:
        if trial.key in self._running:
            self._running[trial.key] = (trial, stage)
        if time.monotonic() - self._last_line >= LONGEST_SILENCE:
            self._line("; ".join(f"{self._name(each)}: {stage}" for each, stage in self._running.values()))

    def finished(self, trial: RunTrial, outcome: Outcome) -> None:
        self._end(trial)
        self._done += 1
        if outcome.stop is not None:
            self.stopped_early += 1
            self._line(f"{self._name(trial)} stopped early: {outcome.stop.reason}")
            return
        self._time_left.finished(trial, sum(outcome.seconds.values()))
        means = mean_and_error(outcome.measurements)
        if STATUSES[outcome.status].usable:
            self._keep_best(means, outcome.rlct_verdict, self._name(trial))
        values = ", ".join(f"{name} {means[name]:.4g}" for name in self._plan.spec.objectives)
        note = "" if STATUSES[outcome.status].usable else f" [{outcome.status}]"
        best = ", ".join(f"{name} {value:.4g}" for name, (value, _) in self._best.items())
        self._line(f"{self._name(trial)}: {values}{note}" + (f"; best so far: {best}" if best else ""))

    def failed(self, trial: RunTrial, reason: str) -> None:
        self._end(trial)
        self._failed += 1
        text = f"{self._name(trial)} failed: {last_line(reason, otherwise='no reason given')}"
        if self._console.is_terminal:
            # The message stays on the screen, above the display.
            self._console.print(text, style="red", markup=False)
        else:
            self._line(text)

    def _end(self, trial: RunTrial) -> None:
        self._running.pop(trial.key, None)
        self._time_left.ended(trial)
        self._bar.advance(self._task)

    def _keep_best(self, means: Mapping[str, float], rlct_verdict: str, trial: str) -> None:
        for name, direction in self._plan.spec.objectives.items():
            value = means.get(name, math.nan)
            counts_with_verdict = name in MEASURES and MEASURES[name].needs_verdict
            if not math.isfinite(value) or (counts_with_verdict and not VERDICTS[rlct_verdict].usable):
                continue
            better = max if direction == "maximize" else min
            self._best[name] = better(self._best.get(name, (value, trial)), (value, trial))

    @property
    def _counts(self) -> str:
        stopped_early = f", {self.stopped_early} stopped early" if self.stopped_early else ""
        return f"{len(self._running)} running, {self._failed} failed{stopped_early}, {self._time_left}"

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if not self._console.is_terminal:
            counts = f"[{self._done + self._failed}/{self._plan.to_do}, {self._counts}]"
            self._console.print(f"{counts} {text}", markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        counts = Text(f"{self._done} done, {self._counts}", style="bold")
        running = Table.grid(padding=(0, 2))
        # Copies, because another thread draws the display.
        for trial, stage in list(self._running.values()):
            running.add_row("  " + self._name(trial), Text(stage, style="dim"))
        best = Table.grid(padding=(0, 2))
        for name, (value, trial_name) in list(self._best.items()):
            best.add_row("  best", name, f"{value:.4g}", Text(plain(trial_name), style="dim"))
        return Group(self._bar, counts, running, best)


class TimeLeft:
    """The time left for a study, from the work left and the seconds per work so far."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._known = {trial.key: plan.work(trial.config) for trial in plan.known}
        self._to_sample = plan.to_sample
        self._work_of_sampled = [plan.work_per_sampled_trial]
        self._running: dict[str, float] = {}
        self._seconds_per_work: list[float] = []
        self._most_side_by_side = 1

    def started(self, trial: RunTrial) -> None:
        """A trial has begun."""
        work = self._running[trial.key] = self._plan.work(trial.config)
        if self._known.pop(trial.key, None) is None:
            self._to_sample -= 1
            self._work_of_sampled.append(work)
        self._most_side_by_side = max(self._most_side_by_side, len(self._running))

    def finished(self, trial: RunTrial, seconds: float) -> None:
        """A trial finished after so many seconds."""
        self._seconds_per_work.append(seconds / self._plan.work(trial.config))

    def ended(self, trial: RunTrial) -> None:
        """A trial has ended, with or without a result."""
        self._running.pop(trial.key, None)

    def __str__(self) -> str:
        if not self._seconds_per_work:
            return "time left: not known yet"
        # Assume that the sampler goes on as so far, and that running trials are half done on average.
        to_sample = max(0, self._to_sample) * statistics.mean(self._work_of_sampled)
        left = sum(list(self._known.values())) + to_sample + sum(list(self._running.values())) / 2
        trials_left = len(self._known) + max(0, self._to_sample) + len(self._running)
        # The median ignores the first trials, whose time includes the workers' imports.
        seconds = left * statistics.median(self._seconds_per_work) / max(1, min(self._most_side_by_side, trials_left))
        return f"about {format_seconds(seconds)} left"
