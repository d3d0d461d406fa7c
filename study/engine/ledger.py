"""The ledgers of a running study: they hand out trials, record how they end, and inform the watcher."""

import math
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from analysis.layout import Tag
from study.engine.budget import Account, Reached
from study.engine.growth import Growth, MergeError, fetch_earlier, merge
from study.engine.rivals import Rivals
from study.engine.runner import RunTrial, Watcher
from study.errors import StudyError, disk_errors, without_secrets
from study.interrupts import deferred
from study.record.outcome import Outcome, Progress
from study.record.reader import FinishedTrial
from study.record.recorder import Recorder
from study.record.stores import StoreError
from study.record.usage import Machine
from study.search.search import WAIT, Search, Suggestion, Wait

_Trial = TypeVar("_Trial", bound=RunTrial)
# Seconds between two tries to bring Optuna's stored study in line with the record.
SEARCH_INTERVAL = 30.0
# Seconds between two notes of a running trial's stage in the record.
STAGE_INTERVAL = 10.0


class Ledger(ABC, Generic[_Trial]):
    """Hands out trials, and keeps record, search and watcher consistent."""

    def __init__(self, recorder: Recorder, watcher: Watcher[RunTrial, Outcome], account: Account, limit: int):
        self._recorder = recorder
        self._watcher = watcher
        self._account = account
        self._epochs: dict[str, int] = {}  # of the trials that have begun, the epochs done
        self._stages: dict[str, tuple[float, str]] = {}  # when a trial's stage was last recorded, and its host
        self.limit = limit  # most trials to hand out
        self.handed_out = self.finished = self.failed = 0
        self.stopped = False  # on request, before all trials were handed out
        self.reached: Reached | None = None  # the limit of the budget that stopped it, likewise
        self._gave_up = False  # because the record had been away for too long

    @deferred()
    def next(self) -> _Trial | Wait | None:
        """The next trial to run; WAIT if none is known before another ends.

        None when nothing is left, somebody asked the driver to stop, the record has been away for too long, or the
        budget allows no other trial.
        """
        if self.handed_out >= self.limit:
            return None
        if self.is_stopping():
            return None
        self.reached = self._account.reached()
        if self.reached is not None:
            return None
        trial = self._take()
        if trial is not None and trial is not WAIT:
            self.handed_out += 1
            self._account.hand_out(trial.key)
        return trial

    def is_stopping(self) -> bool:
        """Whether no other trial may begin: somebody asked the driver to stop, or the record has been away too long."""
        if self._recorder.record.stop_request is not None:
            self.stopped = True
        elif self._recorder.gives_up:
            self._gave_up = True
        return self.stopped or self._gave_up

    @deferred()
    def start(self, trial: _Trial) -> None:
        """A trial begins, or begins again after an interruption."""
        self._begin(trial)
        self._account.begin(trial.key)
        if trial.key in self._epochs:
            self._watcher.advanced(trial, "starting again")
        else:
            self._watcher.started(trial)
        self._epochs[trial.key] = 0

    @deferred()
    def interrupt(self, trial: _Trial) -> None:
        """A trial's worker has died; the trial starts again later."""
        self._recorder.interrupt(trial.key)
        self._account.end(trial.key)
        self._stages.pop(trial.key, None)
        self._watcher.advanced(trial, "waiting: its worker has died")

    @deferred()
    def place(self, trial: _Trial, machine: Callable[[], Machine]) -> None:
        """A trial runs on this machine, which is asked for once."""
        if not self._account.is_placed(trial.key):
            self._recorder.place(trial.key, self._account.place(trial.key, machine()))

    @deferred()
    def advance(self, trial: _Trial, progress: Progress) -> None:
        """A trial has made progress."""
        first, stage = self._epochs[trial.key] + 1, self._stage_if_due(trial.key, progress)
        self._recorder.log_epochs(trial.key, first, self._epochs_to_log(progress), stage)
        self._epochs[trial.key] += len(progress.epochs)
        self._watcher.advanced(trial, progress.stage)

    @deferred()
    def finish(self, trial: _Trial, outcome: Outcome, artifacts: Path) -> None:
        """A trial has ended with a result; `artifacts` are its files, laid out as the record has them."""
        ended, result = self._end(trial, outcome, artifacts)
        self._account.end(trial.key)
        self.finished += 1
        self._watcher.finished(ended, result)

    @deferred()
    def fail(self, trial: _Trial, reason: str, host: str | None = None) -> None:
        """A trial has ended without a result; `reason` is its traceback, `host` where it ran, if the runner knows."""
        reason = without_secrets(reason)
        _, last_host = self._stages.get(trial.key, (0.0, None))
        recorded = self._recorder.fail(trial.key, reason, host or last_host)
        self._account.end(trial.key, failed=True)
        self._end_without_result(trial, recorded)
        self.failed += 1
        self._watcher.failed(trial, reason)

    @abstractmethod
    def _take(self) -> _Trial | Wait | None:
        """The next trial to run; WAIT if none is known before another ends, None when nothing is left."""

    @abstractmethod
    def _begin(self, trial: _Trial) -> None:
        """Begin the trial in the record."""

    @abstractmethod
    def _epochs_to_log(self, progress: Progress) -> list[dict[str, list[float]]]:
        """The epochs of a trial's progress that are recorded while it runs."""

    @abstractmethod
    def _end(self, trial: _Trial, outcome: Outcome, artifacts: Path) -> tuple[_Trial, Outcome]:
        """Record the result of a trial; return the trial and the result as recorded."""

    @abstractmethod
    def _end_without_result(self, trial: _Trial, recorded: bool) -> None:
        """A trial has failed; `recorded` says whether the record has it, in the run that was begun."""

    def close(self) -> None:
        """All trials have ended: wait until the record has them.

        Raises:
            StudyError: the record stays away, and the message says where the results are; or it was away for so long
                that trials were left out.
        """
        self._recorder.catch_up()
        if self._gave_up:
            raise StudyError(
                "the MLflow record was away for so long that no other trial began. It is back and has every trial that "
                "ended; the same command does the rest."
            )

    def _record_is_there(self) -> bool:
        """Whether the record can be read, as `Recorder.is_there`."""
        return self._recorder.is_there(something_runs=self.handed_out > self.finished + self.failed)

    def _stage_if_due(self, key: str, progress: Progress) -> dict[str, str]:
        """The tags on a trial's stage, for those who look at the record; few, because each is a request."""
        recorded, _ = self._stages.get(key, (-math.inf, ""))
        now = time.monotonic()
        if not progress.host or now - recorded < STAGE_INTERVAL:
            return {}
        self._stages[key] = now, progress.host
        return {Tag.STAGE: progress.stage, Tag.HOST: progress.host}


class SearchLedger(Ledger[Suggestion]):
    """Hands out new trials, those that a search suggests.

    At a trial's end it writes first the record, then Optuna: every trial complete in Optuna is in the record. Where one
    of them could not be written, Optuna's stored study is brought in line with the record when both are there again.

    Args:
        recorder, watcher, account, limit: as of every ledger.
        search: suggests the trials.
        tell: is given sentences for the user.
        former: finished trials, by key, whose new runs replace those that the record has.
        rivals: the rule of early stopping, with the trials that others are compared with; None without a rule.
    """

    def __init__(
        self,
        recorder: Recorder,
        search: Search,
        watcher: Watcher[RunTrial, Outcome],
        account: Account,
        limit: int,
        tell: Callable[[str], None] = lambda text: None,
        former: Mapping[str, FinishedTrial] | None = None,
        rivals: Rivals | None = None,
    ):
        super().__init__(recorder, watcher, account, limit)
        self._search = search
        self._tell = tell
        self._former = former or {}
        self._rivals = rivals
        self._asked: Suggestion | None = None  # waits for the record, which has the values of its rivals
        self._next_try: float | None = None  # to bring Optuna's stored study in line

    def close(self) -> None:
        """As for every ledger. Then Optuna's stored study is brought in line, if it can be."""
        super().close()
        if (error := self._bring_in_line()) is not None:
            name = self._recorder.record.study
            self._tell(
                f"Optuna's stored study lacks trials: {error} The record has them all; the next run, or python -m "
                f"study optuna rebuild {name}, makes the stored study anew."
            )

    def _take(self) -> Suggestion | Wait | None:
        asked = self._asked or self._search.ask()
        if self._rivals is None or asked is None or asked is WAIT:
            return asked
        self._asked = asked
        while self._rivals.lacks(asked.rivals):
            if not self._record_is_there():
                return WAIT
            try:
                with disk_errors():
                    self._rivals.fetch(asked.rivals)
            except StoreError as error:
                self._recorder.lose(error)
        self._asked = None
        return asked._replace(stopping=self._rivals.rule(asked.rivals))

    def _begin(self, trial: Suggestion) -> None:
        allotment, former = self._account.allotment, self._former.get(trial.key)
        run_id = self._recorder.start(trial.key, trial.config, trial.place, former, allotment)
        self._search.start(trial, run_id)

    def _epochs_to_log(self, progress: Progress) -> list[dict[str, list[float]]]:
        return progress.epochs

    def _end(self, trial: Suggestion, outcome: Outcome, artifacts: Path) -> tuple[Suggestion, Outcome]:
        self._search.tell(trial, outcome, self._recorder.finish(trial.key, outcome, artifacts))
        if self._rivals is not None:
            self._rivals.keep(trial.key, trial.config.seeds, artifacts, self._search.possible_rivals)
        self._bring_in_line_if_due()
        return trial, outcome

    def _end_without_result(self, trial: Suggestion, recorded: bool) -> None:
        self._search.fail(trial, recorded)
        self._bring_in_line_if_due()

    def _bring_in_line_if_due(self) -> None:
        if self._search.is_behind and self._next_try is None and self._search.trouble is not None:
            self._tell(f"{self._search.trouble} The search goes on; the stored study is brought in line later.")
            self._next_try = time.monotonic() + SEARCH_INTERVAL
        if self._search.is_behind and time.monotonic() >= (self._next_try or 0) and self._recorder.is_up_to_date:
            self._bring_in_line()

    def _bring_in_line(self) -> StudyError | None:
        """Bring Optuna's stored study in line with the record if it is behind; the error that prevents it."""
        if not self._search.is_behind:
            return None
        self._next_try = time.monotonic() + SEARCH_INTERVAL
        record = self._recorder.record
        try:
            self._search.catch_up(record.finished(), [trial for trial in record.trials() if trial.state != "RUNNING"])
        except StudyError as error:
            return error
        self._next_try = None
        return None


class GrowthLedger(Ledger[Growth]):
    """Hands out finished trials that get more replicates, each with the seeds that are missing.

    At a trial's end it merges the result with the earlier one into a new run, which supersedes the earlier run. A trial
    whose earlier result cannot be merged fails before it runs. Files of trials are kept in `folder` meanwhile.
    """

    def __init__(
        self,
        recorder: Recorder,
        growing: Sequence[Growth],
        watcher: Watcher[RunTrial, Outcome],
        account: Account,
        folder: Path,
    ):
        super().__init__(recorder, watcher, account, len(growing))
        self._growing = list(growing)
        self._folder = folder

    def _take(self) -> Growth | Wait | None:
        while self._growing:
            # Its earlier result is in the record alone.
            if not self._record_is_there():
                return WAIT
            growth = self._growing[0]
            try:
                with disk_errors():
                    earlier = self._earlier(growth)
                    earlier.mkdir(exist_ok=True)
                    fetch_earlier(growth, self._recorder.record, earlier)
            except StoreError as error:
                self._recorder.lose(error)
                continue
            except MergeError as error:
                self._growing.pop(0)
                self.handed_out += 1
                self.start(growth)
                self.fail(growth, str(error))
            else:
                self._growing.pop(0)
                return growth
        return None

    def _begin(self, trial: Growth) -> None:
        self._recorder.start(
            trial.key,
            trial.whole,
            trial.earlier.place,
            supersedes=trial.earlier,
            allotment=self._account.allotment,
        )

    def _epochs_to_log(self, progress: Progress) -> list[dict[str, list[float]]]:
        return []  # Means are over all replicates, and are recorded at the end.

    def _end(self, trial: Growth, outcome: Outcome, artifacts: Path) -> tuple[Growth, Outcome]:
        whole = trial._replace(config=trial.whole)
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            merged, epochs = merge(trial, self._earlier(trial), artifacts, Path(name))
            self._recorder.log_epochs(trial.key, 1, epochs)
            self._recorder.finish(trial.key, merged, Path(name))
        self._forget(trial)
        # With all its replicates, as its values and its time are.
        return whole, merged

    def _end_without_result(self, trial: Growth, recorded: bool) -> None:
        self._forget(trial)

    def _earlier(self, trial: Growth) -> Path:
        return self._folder / trial.key

    def _forget(self, trial: Growth) -> None:
        shutil.rmtree(self._earlier(trial), ignore_errors=True)
