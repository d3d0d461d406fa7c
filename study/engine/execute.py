"""Carry out a plan: run the missing replicates and trials, and return how many ended and how."""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.engine.budget import Account, Reached
from study.engine.ledger import GrowthLedger, Ledger, SearchLedger
from study.engine.plan import Plan
from study.engine.rivals import Rivals
from study.engine.runner import Runner, RunTrial, StudyData, Watcher
from study.engine.snapshots import SnapshotPlace
from study.errors import StudyError
from study.interrupts import deferred, received
from study.record.outcome import Outcome
from study.record.reader import RecordedTrial, ended_in
from study.record.recorder import Patience, Recorder
from study.record.usage import Allotment, total
from study.record.writer import RecordWriter
from study.search.choices import lag_of
from study.search.parameters import offers
from study.search.samplers import looks_at_results
from study.search.search import Search, check_search
from study.search.store import check_stored_study, opened_storage, reconcile
from study.search.view import view_of
from study.spec import StudySpec
from trainables.trial import TrialConfig


@dataclass(frozen=True)
class Execution:
    """How many trials ended, and how."""

    finished: int  # trials with a new result, or one over more replicates
    failed: int  # trials without one
    interrupted: bool  # the user stopped the study
    stopped_by: str | None = None  # who did so from elsewhere, if it was from elsewhere
    reached: Reached | None = None  # the limit of the budget that stopped it

    @property
    def ended(self) -> int:
        """Trials that ended."""
        return self.finished + self.failed


def execute(
    plan: Plan,
    record: RecordWriter,
    runner: Runner,
    watcher: Watcher[RunTrial, Outcome],
    only: Collection[str] | None = None,
    tell: Callable[[str], None] = lambda text: None,
    patience: Patience | None = None,
) -> Execution:
    """Run the plan's missing trials; return when all have ended, or the user or the budget has stopped the study.

    Finished trials that lack replicates come first, so that a search goes on from values over all of them.

    The plan is renewed once this driver holds the study. `only` are keys of trials, to run no others of those that the
    study has begun or lists. `tell` is given sentences for the user. While the record cannot be reached, trials go on
    for as long as `patience` says, and their results wait on the disk.

    Raises:
        HeldError: another driver holds the study.
        StudyError: a store or the runner cannot be used. Finished trials are kept, in the record or in the outbox.
    """
    check_search(plan.spec)
    record.stores.prepare()
    with contextlib.ExitStack() as stack:
        if record.exists:
            # Before the runner connects, which may take a while.
            stack.enter_context(record.held(tell))
        stack.enter_context(runner.connected())
        # Once: a cluster may grow.
        workers = runner.workers
        storage = stack.enter_context(opened_storage(record.stores.optuna_url))
        check_stored_study(plan.spec, storage, record.run_id)
        with deferred():
            if not record.exists:
                record.begin()
        stack.enter_context(record.held(tell))
        if record.run_id is None and len(record.outbox):
            # Results for a record that was lost: a new one takes them too.
            record.open_study(plan.spec, plan.data_digest, plan.trials, workers)
            record.empty_outbox(tell)
        plan = plan.renewed(record)
        forget_what_finished(plan, record)
        if (note := note_on_workers(plan.spec, workers, record.workers())) is not None:
            tell(note)
        recorder = Recorder(record, tell, patience)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        resources = runner.resources
        account = Account(plan.spec.budget, Allotment(resources.cpus_per_trial, resources.gpus_per_trial))

        growing = [growth for growth in plan.growing if only is None or growth.key in only]
        begun: list[RecordedTrial] = []

        def open_growth() -> GrowthLedger:
            record.open_study(plan.spec, plan.data_digest, plan.trials, workers)
            begun.extend(record.trials())
            account.carry_over(total(trial.used for trial in begun))
            return GrowthLedger(recorder, growing, watcher, account, folder)

        def open_search() -> SearchLedger:
            # A record of many trials takes long to read. If none has grown, it is as it was when the study was opened,
            # and the plan has its finished trials, except those that another rule has stopped early.
            again = any(trial.state == "FINISHED" and trial.key not in plan.finished for trial in begun)
            finished = record.finished() if growing or again else plan.finished
            known = record.trials() if growing else begun
            view = view_of(plan.spec, finished, known)
            reconcile(plan.spec, storage, view, record.run_id)
            trials = _trials_to_run(plan, _unfinished(plan, known), only)
            search = Search(
                plan.spec,
                plan.data_digest,
                storage,
                trials,
                view,
                record.run_id,
                workers=workers,
                chooses=only is None,
            )
            limit = max(plan.remaining, len(trials)) if only is None else len(trials)
            ended = ended_in(plan.spec, finished)
            # Trials that another rule has stopped early run again; their new runs replace those.
            former = {key: trial for key, trial in finished.items() if key not in ended}
            rivals = None if plan.spec.stopping is None else Rivals(plan.spec, record, ended)
            return SearchLedger(recorder, search, watcher, account, limit, tell, former, rivals)

        return _run((open_growth, open_search), plan.data, recorder, runner)


def forget_what_finished(plan: Plan, record: RecordWriter) -> None:
    """Remove the snapshots of finished trials: a driver that was killed had not come to it. It holds the study.

    Raises:
        HeldError: another driver does, whose trials may need them.
    """
    snapshots = SnapshotPlace(record.stores.snapshots(record.study), 0.0)
    left = snapshots.kept_of(plan.finished.keys() - {growth.key for growth in plan.growing})
    if not left:
        return
    with record.held():
        for key in left:
            snapshots.forget(key)


def note_on_workers(spec: StudySpec, workers: int, before: int | None) -> str | None:
    """What the user should know of the number of trials side by side, on which a search depends."""
    looks = looks_at_results(spec.sampler)
    if spec.trials is None or not (looks or spec.stopping):
        return None
    if before not in (None, workers):
        changes = [f"{spec.sampler.name} will choose other trials"] if looks else []
        changes += ["other trials will be stopped early"] if spec.stopping else []
        return (
            f"The study was last run with {before} trials side by side, and now with {workers}: "
            f"{' and '.join(changes)} than before (--concurrent {before} keeps to them)."
        )
    if looks and 2 * lag_of(workers) > spec.trials:
        return (
            f"With {workers} trials side by side, {spec.sampler.name} chooses {min(lag_of(workers), spec.trials)} of "
            f"{spec.trials} trials before it looks at a result. A lower --concurrent lets it learn more."
        )
    return None


def _run(
    openers: Iterable[Callable[[], Ledger[Any]]], data: Mapping[str, StudyData], recorder: Recorder, runner: Runner
) -> Execution:
    """Run the trials of one ledger after the other, and close the study's run whatever happens."""
    ledgers: list[Ledger[Any]] = []
    interrupted = False
    record = recorder.record
    try:
        for open_ledger in openers:
            with deferred():
                ledgers.append(open_ledger())
            if ledgers[-1].limit:
                recorder.begin_running()
                runner.run_trials(ledgers[-1], data)
                ledgers[-1].close()
            if ledgers[-1].stopped or ledgers[-1].reached or received() is not None:
                break
    except KeyboardInterrupt:
        interrupted = True
    except BaseException:
        if ledgers:
            _close_what_can_be_closed(record, "FAILED")
        raise
    finished, failed = sum(ledger.finished for ledger in ledgers), sum(ledger.failed for ledger in ledgers)
    if interrupted or any(ledger.stopped for ledger in ledgers) or received() is not None:
        request, signal = record.stop_request, received()
        reason = f"{request.by} asked for it" if request else signal.name if signal else ""
        _close_what_can_be_closed(record, "KILLED", reason)
        return Execution(finished, failed, True, stopped_by=request.by if request else None)
    if (reached := ledgers[-1].reached) is not None:
        with deferred():
            record.close_study("KILLED", str(reached))
        return Execution(finished, failed, interrupted=False, reached=reached)
    with deferred():
        record.close_study("FAILED" if failed else "FINISHED")
    return Execution(finished, failed, interrupted=False)


def _close_what_can_be_closed(record: RecordWriter, status: str, reason: str = "") -> None:
    """Close the study's run. If the record itself has failed, its runs are closed when the study goes on."""
    try:
        record.close_study(status, reason)
    except StudyError:
        return


def _unfinished(plan: Plan, begun: list[RecordedTrial]) -> list[TrialConfig]:
    """The trials that were begun, have no result, and are still trials of the study."""
    trials = []
    for trial in {trial.key: trial for trial in begun if trial.key not in plan.finished}.values():
        # Of another version of the project, or of a space that has changed.
        with contextlib.suppress(ValueError):
            if offers(plan.spec, trial.config):
                trials.append(trial.config.model_copy(update={"seeds": plan.spec.seeds}))
    return trials


def _trials_to_run(plan: Plan, interrupted: list[TrialConfig], only: Collection[str] | None) -> list[TrialConfig]:
    """The missing trials, first those that an earlier run had begun; `only` those with these keys."""
    if plan.spec.is_enumerated:
        # The study may have changed and no longer list such a trial.
        listed = {trial.config for trial in plan.listed}
        interrupted = [config for config in interrupted if config in listed]
    trials: dict[str, TrialConfig] = {}
    for config in (*interrupted, *(trial.config for trial in plan.missing)):
        key = plan.key(config)
        if key not in plan.finished and (only is None or key in only):
            trials.setdefault(key, config)
    return list(trials.values())
