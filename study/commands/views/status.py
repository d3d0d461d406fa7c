"""The output of `python -m study status` and `list`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import rich.box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from study.commands.views.durations import format_seconds
from study.record.overview import Overview

# Lines of a list that fit a screen beside the rest.
MOST_ROWS = 12
IN_WORDS = {
    "running": "running",
    "stopping": "stopping on request",
    "finished": "finished",
    "failed": "ended with failed trials or an error",
    "interrupted": "interrupted; the same command goes on",
    "died": "its driver died; the same command goes on",
    "begun": "nothing has run yet",
}
STYLES = {"running": "green", "stopping": "yellow", "failed": "red", "died": "red"}


def status_view(seen: Overview, results: int = 0, place: str = "") -> RenderableType:
    """A study as it is now; so many results wait for the record in a place."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("state", Text(_state(seen), style=STYLES.get(seen.state, "")))
    if seen.driver is not None:
        driver = seen.driver
        facts.add_row(
            "run by",
            Text(f"{driver.user} on {driver.host} (process {driver.pid}) since {moment(driver.since)}"),
        )
        facts.add_row("", Text(f"last heard of {moment(driver.last_heard)}: {driver.command}", style="dim"))
    elif seen.last_activity:
        facts.add_row("last activity", moment(seen.last_activity))
    counts = seen.trials
    of = "" if counts.total is None else f" of {counts.total}"
    to_run = "" if counts.to_run is None else f", {counts.to_run} to run"
    outside = f"; {counts.outside} more outside the study's space" if counts.outside else ""
    stopped = f" ({counts.stopped_early} stopped early)" if counts.stopped_early else ""
    facts.add_row(
        "trials",
        f"{counts.finished}{of} finished{stopped}, {counts.failed} failed, {counts.running} running{to_run}{outside}",
    )
    if seen.replicates is not None and seen.replicates[0] < seen.replicates[1]:
        fewest, most = seen.replicates
        lacking = f"; {counts.to_grow} trial(s) to get more" if counts.to_grow else ""
        facts.add_row("replicates", f"{fewest} to {most} per finished trial{lacking}")
    elif counts.to_grow:
        facts.add_row("replicates", f"{counts.to_grow} finished trial(s) to get more")
    if seen.trials_per_hour is not None and seen.seconds_left is not None:
        facts.add_row(
            "pace", f"{seen.trials_per_hour:.3g} trials per hour, about {format_seconds(seen.seconds_left)} left"
        )
    limits = [str(share) for share in seen.budget if share.limit is not None]
    if limits:
        facts.add_row("budget", f"{'; '.join(limits)} used")
    if results:
        facts.add_row("waiting", Text(waiting(results, place)))
    for best in seen.best:
        facts.add_row(f"best {best.objective}", Text(f"{best.value:.4g}  {best.trial}"))
    heading = Text(seen.study, style="bold")
    if seen.question:
        heading.append(f": {seen.question}", style="not bold")
    running = [(each.number, each.name, each.stage, each.host) for each in seen.running]
    failed = [(each.number, each.name, each.reason, each.host) for each in seen.failed]
    parts: list[RenderableType] = [heading, facts]
    if running:
        parts.append(_trials("running", "stage", running))
    if failed:
        parts += [_trials("failed", "reason", failed), Text(f"Why: python -m study why {seen.study} TRIAL")]
    return Group(*parts)


@contextmanager
def following(console: Console) -> Iterator[Callable[[Overview, int], None]]:
    """A display of a study that is drawn again at each look; in a file, a line per change."""
    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield lambda seen, results: live.update(status_view(seen, results), refresh=True)
        return
    last = ""

    def show(seen: Overview, results: int) -> None:
        nonlocal last
        counts = seen.trials
        line = f"{seen.state}: {counts.finished} finished, {counts.failed} failed, {counts.running} running"
        if results:
            line += f", {results} waiting for the record"
        if line != last:
            console.print(f"{moment(seen.last_activity)} {line}", highlight=False)
        last = line

    yield show


def waiting(results: int, place: str) -> str:
    """That results wait for the record, where, and what becomes of them."""
    return (
        f"{results} result(s) wait for the record in {place}: the driver, or the same command later, puts them into it "
        "and computes none of them again."
    )


def studies_table(studies: Sequence[Overview]) -> Table:
    """The studies of a store, the latest last."""
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("study", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("trials", "finished", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last activity", no_wrap=True)
    table.add_column("question")
    for seen in sorted(studies, key=lambda each: each.last_activity):
        table.add_row(
            Text(seen.study),
            Text(seen.state, style=STYLES.get(seen.state, "")),
            "–" if seen.trials.total is None else str(seen.trials.total),
            str(seen.trials.finished),
            str(seen.trials.failed),
            moment(seen.last_activity),
            Text(seen.question),
        )
    return table


def moment(seconds: float) -> str:
    """A time in seconds since 1970, in words, in the reader's time zone."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _state(seen: Overview) -> str:
    if seen.state != "interrupted" or not seen.stopped:
        return IN_WORDS[seen.state]
    goes_on = "" if any(share.spent for share in seen.budget) else "; the same command goes on"
    return f"interrupted: {seen.stopped}{goes_on}"


def _trials(title: str, what: str, rows: Sequence[tuple[int, str, str, str]]) -> Table:
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(title, justify="right", no_wrap=True)
    for name in ("trial", what, "host"):
        table.add_column(name)
    for number, name, stage, host in rows[-MOST_ROWS:]:
        table.add_row(str(number), Text(name), Text(stage), Text(host))
    if len(rows) > MOST_ROWS:
        table.caption = f"and {len(rows) - MOST_ROWS} before these"
    return table
