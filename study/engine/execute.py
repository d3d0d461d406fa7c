"""Carry out a plan: run the missing trials, and return how many ended and how."""

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

from study.engine.ledger import Ledger
from study.engine.plan import Plan
from study.engine.runner import Runner, StudyData, Watcher
from study.errors import StudyError
from study.interrupts import deferred, received
from study.record.outcome import Outcome
from study.record.writer import RecordWriter
from study.search.search import Search, Suggestion
from study.search.store import check_stored_study, opened_storage, reconcile
from study.spec import Point


@dataclass(frozen=True)
class Execution:
    """How many trials ended, and how."""

    finished: int  # trials with a result
    failed: int  # trials without one
    interrupted: bool  # the user stopped the study
    stopped_by: str | None = None  # who did so from elsewhere, if it was from elsewhere

    @property
    def ended(self) -> int:
        """Trials that ended."""
        return self.finished + self.failed


def execute(
    plan: Plan,
    record: RecordWriter,
    runner: Runner,
    watcher: Watcher[Suggestion, Outcome],
    only: Collection[str] | None = None,
) -> Execution:
    """Run the plan's missing trials; return when all have ended or the user has stopped the study.

    The plan is renewed once this driver holds the study. `only` are keys of trials, to run no others of those that the
    study has begun or lists.

    Raises:
        HeldError: another driver holds the study.
        StudyError: a store or the runner cannot be used. Finished trials are kept.
    """
    record.stores.prepare()
    with contextlib.ExitStack() as stack:
        if record.exists:
            # Before the runner connects, which may take a while.
            stack.enter_context(record.held())
        stack.enter_context(runner.connected())
        storage = stack.enter_context(opened_storage(record.stores.optuna_url))
        check_stored_study(plan.spec, storage, record.run_id)
        with deferred():
            if not record.exists:
                record.begin()
        stack.enter_context(record.held())
        plan = plan.renewed(record)

        def open_ledger() -> Ledger:
            points = _points_to_run(plan, reconcile(plan.spec, storage, plan.finished, record.outcome), only)
            record.open_study(plan.spec, plan.data_digest, plan.trials)
            search = Search(plan.spec, plan.data_digest, storage, points, plan.finished, record.run_id)
            limit = max(plan.remaining, len(points)) if only is None else len(points)
            return Ledger(record, search, watcher, limit)

        return _run(open_ledger, StudyData(plan.data, plan.data_digest), record, runner)


def _run(open_ledger: Callable[[], Ledger], data: StudyData, record: RecordWriter, runner: Runner) -> Execution:
    """Run the ledger's trials with the runner, and close the study's run whatever happens."""
    ledger = None
    interrupted = False
    try:
        with deferred():
            ledger = open_ledger()
        runner.run_trials(ledger, data)
    except KeyboardInterrupt:
        interrupted = True
    except BaseException:
        if ledger is not None:
            _close_what_can_be_closed(record, "FAILED")
        raise
    finished, failed, stopped = (ledger.finished, ledger.failed, ledger.stopped) if ledger else (0, 0, False)
    if interrupted or stopped or received() is not None:
        request = record.stop_request
        _close_what_can_be_closed(record, "KILLED")
        return Execution(finished, failed, True, stopped_by=request.by if request else None)
    with deferred():
        record.close_study("FAILED" if failed else "FINISHED")
    return Execution(finished, failed, interrupted=False)


def _close_what_can_be_closed(record: RecordWriter, status: str) -> None:
    """Close the study's run. If the record itself has failed, its runs are closed when the study goes on."""
    try:
        record.close_study(status)
    except StudyError:
        return


def _points_to_run(plan: Plan, interrupted: list[Point], only: Collection[str] | None) -> list[Point]:
    """The missing points, first those that an earlier run had begun; `only` those with these keys."""
    if plan.spec.is_enumerated:
        # The study may have changed and no longer list such a point.
        listed = {trial.point for trial in plan.listed}
        interrupted = [point for point in interrupted if point in listed]
    points: dict[str, Point] = {}
    for point in (*interrupted, *(trial.point for trial in plan.missing)):
        config = plan.spec.trial_config(point)
        if config is None or (key := config.key(plan.data_digest)) in plan.finished:
            continue
        if only is None or key in only:
            points.setdefault(key, point)
    return list(points.values())
