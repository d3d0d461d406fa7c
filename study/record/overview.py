"""A study at a glance, from its record alone: who runs it, what has ended and how, what is left."""

import math
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal

from study.errors import StudyError
from study.record.lease import Holder, HowToStop
from study.record.reader import RecordedTrial, RecordReader, has_ended
from study.record.usage import Share, shares, total
from trainables.measures import MEASURES
from trainables.outcomes import STATUSES, STOPPED_EARLY, VERDICTS

# running: a driver holds the study. finished, failed, interrupted: how the last one left it (failed: a trial did, or
# the driver). died: the last one went without a word. begun: nothing has run yet.
State = Literal["running", "stopping", "finished", "failed", "interrupted", "died", "begun"]
STATES: dict[str, State] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}


@dataclass(frozen=True)
class Driver:
    """Who runs the study. Times are seconds since 1970, by the driver's clock."""

    user: str
    host: str
    pid: int
    command: str
    since: float
    last_heard: float
    stopping: HowToStop

    @classmethod
    def of(cls, holder: Holder) -> "Driver":
        return cls(
            user=holder.user,
            host=holder.host,
            pid=holder.pid,
            command=holder.command,
            since=holder.since,
            last_heard=holder.heartbeat,
            stopping=holder.stopping,
        )


@dataclass(frozen=True)
class Counts:
    """Trials of a study by how they stand; `total`, `to_run` and `to_grow` are None for records that do not say.

    Trials that a grid or design listed once and no longer lists are `outside`, and in no other count.

    A finished trial that is being given more replicates is also among those that run, or that failed at it. Trials that
    were stopped early are among the finished ones.
    """

    total: int | None
    finished: int
    failed: int
    running: int
    to_run: int | None
    to_grow: int | None  # finished trials with fewer replicates than the study was last run with
    outside: int  # finished or failed trials that are no longer in the study's space
    stopped_early: int = 0


@dataclass(frozen=True)
class RunningTrial:
    """A trial that runs; `stage` is at most some ten seconds old."""

    number: int
    key: str
    name: str
    stage: str
    host: str
    since: float


@dataclass(frozen=True)
class FailedTrial:
    """A trial that failed and has not finished since."""

    number: int
    key: str
    name: str
    host: str
    reason: str
    ended: float


@dataclass(frozen=True)
class Best:
    """The best value of an objective so far."""

    objective: str
    direction: str
    value: float
    key: str
    trial: str


@dataclass(frozen=True)
class Overview:
    """A study at a glance. Its fields are the keys of `--json`. Times are seconds since 1970."""

    study: str
    question: str
    state: State
    driver: Driver | None
    trials: Counts
    replicates: tuple[int, int] | None  # of the finished trials: the fewest and the most; None before the first
    running: tuple[RunningTrial, ...]
    failed: tuple[FailedTrial, ...]
    best: tuple[Best, ...]
    trials_per_hour: float | None  # while it runs
    seconds_left: float | None  # while it runs
    stopped: str | None  # why the last driver stopped before the end, if it did and could say so
    budget: tuple[Share, ...]  # what has been used, and of how much
    last_activity: float


def overview(record: RecordReader, patiently: bool = True) -> Overview:
    """The study as it is now. Patiently, a driver that seems dead is watched for a while before it is called so.

    Raises:
        StudyError: the record cannot be read, or has no such study.
    """
    record.refresh()
    if not record.exists:
        raise StudyError(record.no_such_study())
    holder = record.holder(patiently)
    # Read after the holder was seen: what it has ended meanwhile is then in.
    record.refresh()
    begun = record.trials()
    trials, outside = _apart(begun, record.listed_keys())
    latest = {trial.key: trial for trial in trials}
    rule = record.stopping()
    finished = list({t.key: t for t in trials if t.state == "FINISHED" and has_ended(t, rule)}.values())
    stopped_early = sum(trial.status == STOPPED_EARLY for trial in finished)
    failed = [trial for trial in latest.values() if trial.state == "FAILED"]
    running = [trial for trial in latest.values() if trial.state == "RUNNING"] if holder else []
    total = record.total_trials()
    busy = {trial.key for trial in (*failed, *running)}
    counted = busy | {trial.key for trial in finished}
    to_run = None if total is None else max(0, total - len(counted))
    wanted = record.replicates()
    lacking = [
        trial
        for trial in finished
        if trial.key not in busy and len(trial.seeds) < (wanted or 0) and trial.status != STOPPED_EARLY
    ]
    to_grow = None if wanted is None else len(lacking)
    to_do = (to_run or 0) + len(lacking) + len(running) / 2
    per_hour, left = _pace(record.opened(), finished, to_do) if holder else (None, None)
    return Overview(
        study=record.study,
        question=record.question() if record.run_id else "",
        state=_state(record, holder),
        driver=Driver.of(holder) if holder else None,
        trials=Counts(total, len(finished), len(failed), len(running), to_run, to_grow, len(outside), stopped_early),
        replicates=_fewest_and_most(finished),
        running=tuple(
            RunningTrial(each.number, each.key, each.name, each.stage, each.host, each.started) for each in running
        ),
        failed=tuple(
            FailedTrial(each.number, each.key, each.name, each.host, each.reason, each.ended) for each in failed
        ),
        best=_best(record.objectives() if record.run_id else {}, finished),
        trials_per_hour=per_hour,
        seconds_left=left,
        stopped=None if holder else record.stopped(),
        budget=_budget(record, begun, holder),
        last_activity=max(
            [
                holder.heartbeat if holder else 0.0,
                record.opened(),
                *(max(t.started, t.ended) for t in (*trials, *outside)),
            ]
        ),
    )


def _apart(
    trials: Sequence[RecordedTrial], listed: Set[str] | None
) -> tuple[Sequence[RecordedTrial], Sequence[RecordedTrial]]:
    """The runs of the study's trials, and the last ended run of each trial that the study no longer lists."""
    if listed is None:
        return trials, ()
    ended = {each.key: each for each in trials if each.key not in listed and each.state in ("FINISHED", "FAILED")}
    return [trial for trial in trials if trial.key in listed], tuple(ended.values())


def _state(record: RecordReader, holder: Holder | None) -> State:
    if holder is not None:
        return "stopping" if holder.stopping else "running"
    status = record.status()
    if status is None:
        return "begun"
    return "died" if status == "RUNNING" else STATES[status]


def _budget(record: RecordReader, begun: Sequence[RecordedTrial], holder: Holder | None) -> tuple[Share, ...]:
    """What has been used of the study's budget, by its running trials too, until their driver was last heard of."""
    used = total(trial.used for trial in begun)
    if holder is not None:
        running = (trial for trial in begun if trial.state == "RUNNING")
        used += total(replace(each.allotment.used(holder.heartbeat - each.started), trials=0) for each in running)
    return shares(record.budget(), used)


def _pace(opened: float, finished: Sequence[RecordedTrial], left: float) -> tuple[float | None, float | None]:
    """Trials per hour since the driver began, and seconds for so many more; None before the first."""
    since = [trial for trial in finished if trial.started >= opened]
    seconds = time.time() - opened
    if not since or seconds <= 0:
        return None, None
    return len(since) / seconds * 3600, left * seconds / len(since)


def _fewest_and_most(finished: Sequence[RecordedTrial]) -> tuple[int, int] | None:
    counts = [len(trial.seeds) for trial in finished]
    return (min(counts), max(counts)) if counts else None


def _best(objectives: Mapping[str, str], finished: Sequence[RecordedTrial]) -> tuple[Best, ...]:
    best = []
    for name, direction in objectives.items():
        usable = [trial for trial in finished if _counts(trial, name)]
        if usable:
            pick = max if direction == "maximize" else min
            trial = pick(usable, key=lambda each: each.metrics[name])
            best.append(Best(name, direction, trial.metrics[name], trial.key, trial.name))
    return tuple(best)


def _counts(trial: RecordedTrial, objective: str) -> bool:
    """Whether a trial's value means what the objective's name says."""
    if not STATUSES[trial.status].usable or not math.isfinite(trial.metrics.get(objective, math.nan)):
        return False
    needs_verdict = objective in MEASURES and MEASURES[objective].needs_verdict
    return not needs_verdict or VERDICTS[trial.rlct_verdict].usable
