"""What a person sees while a study runs."""

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

from study.outcome import Outcome, describe_trial, mean_and_error
from study.plan import Plan
from trainables.cost import work
from trainables.rlct import UNUSABLE
from trainables.trial import TrialConfig

# Seconds after which a file gets a line though no trial has ended.
LONGEST_SILENCE = 60.0


class StudyProgress:
    """A live display on a terminal.

    Where output goes to a file, a line per finished trial, and while none ends one a minute that says how far they are.
    """

    def __init__(self, plan: Plan, console: Console):
        self._plan = plan
        self._console = console
        self._running: dict[str, tuple[TrialConfig, str]] = {}
        self._done = self._failed = 0
        self._points_left = {plan.key(point): work(plan.config(point), plan.data.shape) for point in plan.missing}
        self._to_sample = plan.to_sample
        self._work_of_sampled = [plan.work_per_sampled_trial]
        self._seconds_per_work: list[float] = []
        self._most_side_by_side = 1
        self._last_line = time.monotonic()
        self._best: dict[str, tuple[float, str]] = {}
        for trial in plan.finished.values():
            if trial.status == "ok":
                self._keep_best(trial.metrics, trial.rlct_verdict, trial.name)
        self._bar = Progress(
            TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._bar.add_task("trials", total=plan.remaining)
        # Without the redirects: what others print belongs into the log, not above the display.
        self._live = Live(
            get_renderable=self._render, console=console, refresh_per_second=4, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print("starting Ray …")
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def started(self, key: str, config: TrialConfig) -> None:
        self._running[key] = (config, "starting")
        if self._points_left.pop(key, None) is None:
            self._to_sample -= 1
            self._work_of_sampled.append(work(config, self._plan.data.shape))
        self._most_side_by_side = max(self._most_side_by_side, len(self._running))

    def advanced(self, key: str, stage: str) -> None:
        if key in self._running:
            self._running[key] = (self._running[key][0], stage)
        if time.monotonic() - self._last_line >= LONGEST_SILENCE:
            self._line("; ".join(f"{describe_trial(config)}: {stage}" for config, stage in self._running.values()))

    def finished(self, key: str, config: TrialConfig, outcome: Outcome) -> None:
        self._end(key)
        self._done += 1
        self._seconds_per_work.append(sum(outcome.seconds.values()) / work(config, self._plan.data.shape))
        means = mean_and_error(outcome.measurements)
        if outcome.status == "ok":
            self._keep_best(means, outcome.rlct.verdict, describe_trial(config))
        values = ", ".join(f"{name} {means[name]:.4g}" for name in self._plan.spec.objectives)
        note = "" if outcome.status == "ok" else f" [{outcome.status}]"
        best = ", ".join(f"{name} {value:.4g}" for name, (value, _) in self._best.items())
        self._line(f"{describe_trial(config)}: {values}{note}" + (f"; best so far: {best}" if best else ""))

    def failed(self, key: str, config: TrialConfig, reason: str) -> None:
        self._end(key)
        self._failed += 1
        last_line = (reason.strip().splitlines() or ["no reason given"])[-1]
        text = f"{describe_trial(config)} failed: {last_line}"
        if self._console.is_terminal:
            # It stays on the screen, above the display.
            self._console.print(text, style="red", markup=False)
        else:
            self._line(text)

    @property
    def failures(self) -> int:
        return self._failed

    @property
    def ended(self) -> int:
        return self._done + self._failed

    def _end(self, key: str) -> None:
        self._running.pop(key, None)
        self._bar.advance(self._task)

    def _keep_best(self, means: Mapping[str, float], rlct_verdict: str, trial: str) -> None:
        for name, direction in self._plan.spec.objectives.items():
            value = means.get(name, math.nan)
            if not math.isfinite(value) or (name == "rlct" and rlct_verdict in UNUSABLE):
                continue
            better = max if direction == "maximize" else min
            self._best[name] = better(self._best.get(name, (value, trial)), (value, trial))

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if not self._console.is_terminal:
            counts = (
                f"[{self.ended}/{self._plan.remaining}, {len(self._running)} running, "
                f"{self._failed} failed, {self._time_left()}]"
            )
            self._console.print(f"{counts} {text}", markup=False, highlight=False, soft_wrap=True)

    def _time_left(self) -> str:
        if not self._seconds_per_work:
            return "time left: not known yet"
        # What the sampler will choose is like what it chose so far. Trials in flight are half done on the average.
        to_sample = max(0, self._to_sample) * statistics.mean(self._work_of_sampled)
        in_flight = sum(work(config, self._plan.data.shape) for config, _ in list(self._running.values())) / 2
        left = sum(list(self._points_left.values())) + to_sample + in_flight
        trials_left = len(self._points_left) + max(0, self._to_sample) + len(self._running)
        # The median keeps out the first trials, which also paid for the workers' imports.
        seconds = left * statistics.median(self._seconds_per_work) / max(1, min(self._most_side_by_side, trials_left))
        return f"about {format_seconds(seconds)} left"

    def _render(self) -> RenderableType:
        counts = Text(
            f"{self._done} done, {len(self._running)} running, {self._failed} failed, {self._time_left()}", style="bold"
        )
        running = Table.grid(padding=(0, 2))
        # Copies: the display is drawn by a thread of its own.
        for config, stage in list(self._running.values()):
            running.add_row("  " + describe_trial(config), Text(stage, style="dim"))
        best = Table.grid(padding=(0, 2))
        for name, (value, trial) in list(self._best.items()):
            best.add_row("  best", name, f"{value:.4g}", Text(trial, style="dim"))
        return Group(self._bar, counts, running, best)


def format_seconds(seconds: float) -> str:
    """5 s, 3 min 20 s, 2 h 05 min, 1,700 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes < 10 else f"{minutes} min"
    if minutes >= 100 * 60:
        return f"{round(minutes / 60):,} h"
    return f"{minutes // 60} h {minutes % 60:02d} min"
