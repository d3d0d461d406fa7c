"""Carry out a plan: run the missing trials, and return how many ended and how."""

from dataclasses import dataclass

from study.engine.ledger import Ledger
from study.engine.plan import Plan
from study.engine.runner import Runner, StudyData, Watcher
from study.errors import StudyError
from study.record.outcome import Outcome
from study.record.writer import RecordWriter
from study.search.search import Search, Suggestion
from study.search.store import opened_storage, reconcile
from study.spec import Point


@dataclass(frozen=True)
class Execution:
    """How many trials ended, and how."""

    finished: int  # trials with a result
    failed: int  # trials without one
    interrupted: bool  # the user stopped the study

    @property
    def ended(self) -> int:
        """Trials that ended."""
        return self.finished + self.failed


def execute(plan: Plan, record: RecordWriter, runner: Runner, watcher: Watcher[Suggestion, Outcome]) -> Execution:
    """Run the plan's missing trials; return when all have ended or the user has stopped the study.

    Raises:
        StudyError: a store or the runner cannot be used. Finished trials are kept.
    """
    record.stores.prepare()
    with runner.connected(), opened_storage(record.stores.optuna_url) as storage:
        points = _points_to_run(plan, reconcile(plan.spec, storage, plan.finished))
        record.open_study(plan.spec, plan.data_digest)
        search = Search(plan.spec, plan.data_digest, storage, points, plan.finished)
        ledger = Ledger(record, search, watcher, limit=max(plan.remaining, len(points)))
        return _run(ledger, StudyData(plan.data, plan.data_digest), record, runner)


def _run(ledger: Ledger, data: StudyData, record: RecordWriter, runner: Runner) -> Execution:
    """Run the ledger's trials with the runner, and close the study's run whatever happens."""
    try:
        runner.run_trials(ledger, data)
    except KeyboardInterrupt:
        _close_what_can_be_closed(record, "KILLED")
        return Execution(ledger.finished, ledger.failed, interrupted=True)
    except BaseException:
        _close_what_can_be_closed(record, "FAILED")
        raise
    record.close_study("FAILED" if ledger.failed else "FINISHED")
    return Execution(ledger.finished, ledger.failed, interrupted=False)


def _close_what_can_be_closed(record: RecordWriter, status: str) -> None:
    """Close the study's run. If the record itself has failed, its runs are closed when the study goes on."""
    try:
        record.close_study(status)
    except StudyError:
        return


def _points_to_run(plan: Plan, interrupted: list[Point]) -> list[Point]:
    """The missing points, first those that an earlier run had begun."""
    if plan.spec.is_enumerated:
        # The study may have changed and no longer list such a point.
        listed = {trial.point for trial in plan.listed}
        interrupted = [point for point in interrupted if point in listed]
    points: dict[str, Point] = {}
    for point in (*interrupted, *(trial.point for trial in plan.missing)):
        config = plan.spec.trial_config(point)
        if config is not None and (key := config.key(plan.data_digest)) not in plan.finished:
            points.setdefault(key, point)
    return list(points.values())
