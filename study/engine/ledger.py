"""The ledgers of a running study: they hand out trials, record how they end, and inform the watcher."""

import math
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

from analysis.layout import Tag
from study.engine.growth import Growth, MergeError, fetch_earlier, merge
from study.engine.runner import RunTrial, Watcher
from study.errors import disk_errors, without_secrets
from study.interrupts import deferred
from study.record.outcome import Outcome, Progress
from study.record.writer import RecordWriter
from study.search.search import WAIT, Search, Suggestion, Wait

_Trial = TypeVar("_Trial", bound=RunTrial)
# Seconds between two notes of a running trial's stage in the record.
STAGE_INTERVAL = 10.0


class Ledger(ABC, Generic[_Trial]):
    """Hands out trials, and keeps record, search and watcher consistent."""

    def __init__(self, record: RecordWriter, watcher: Watcher[RunTrial, Outcome], limit: int):
        self._record = record
        self._watcher = watcher
        self._epochs: dict[str, int] = {}  # of the trials that have begun, the epochs done
        self._stages: dict[str, tuple[float, str]] = {}  # when a trial's stage was last recorded, and its host
        self.limit = limit  # most trials to hand out
        self.handed_out = self.finished = self.failed = 0
        self.stopped = False  # on request, before all trials were handed out

    @deferred()
    def next(self) -> _Trial | Wait | None:
        """The next trial to run; WAIT if none is known before another ends.

        None when nothing is left, or somebody asked the driver to stop.
        """
        if self.handed_out >= self.limit:
            return None
        if self._record.stop_request is not None:
            self.stopped = True
            return None
        trial = self._take()
        self.handed_out += trial is not None and trial is not WAIT
        return trial

    @deferred()
    def start(self, trial: _Trial) -> None:
        """A trial begins, or begins again after an interruption."""
        self._begin(trial)
        if trial.key in self._epochs:
            self._watcher.advanced(trial, "starting again")
        else:
            self._watcher.started(trial)
        self._epochs[trial.key] = 0

    @deferred()
    def interrupt(self, trial: _Trial) -> None:
        """A trial's worker has died; the trial starts again later."""
        self._record.interrupt_trial(trial.key)
        self._stages.pop(trial.key, None)
        self._watcher.advanced(trial, "waiting: its worker has died")

    @deferred()
    def advance(self, trial: _Trial, progress: Progress) -> None:
        """A trial has made progress."""
        first, stage = self._epochs[trial.key] + 1, self._stage_if_due(trial.key, progress)
        self._record.log_epochs(trial.key, first, self._epochs_to_log(progress), stage)
        self._epochs[trial.key] += len(progress.epochs)
        self._watcher.advanced(trial, progress.stage)

    @deferred()
    def finish(self, trial: _Trial, outcome: Outcome, artifacts: Path) -> None:
        """A trial has ended with a result; `artifacts` are its files, laid out as the record has them."""
        ended, result = self._end(trial, outcome, artifacts)
        self.finished += 1
        self._watcher.finished(ended, result)

    @deferred()
    def fail(self, trial: _Trial, reason: str, host: str | None = None) -> None:
        """A trial has ended without a result; `reason` is its traceback, `host` where it ran, if the runner knows."""
        reason = without_secrets(reason)
        _, last_host = self._stages.get(trial.key, (0.0, None))
        self._record.fail_trial(trial.key, reason, host or last_host)
        self._end_without_result(trial)
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
    def _end_without_result(self, trial: _Trial) -> None:
        """A trial has been recorded as failed."""

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

    At a trial's end it writes first the record, then Optuna: every trial complete in Optuna is in the record.
    """

    def __init__(self, record: RecordWriter, search: Search, watcher: Watcher[RunTrial, Outcome], limit: int):
        super().__init__(record, watcher, limit)
        self._search = search

    def _take(self) -> Suggestion | Wait | None:
        return self._search.ask()

    def _begin(self, trial: Suggestion) -> None:
        self._search.start(trial, self._record.start_trial(trial.key, trial.config, trial.place))

    def _epochs_to_log(self, progress: Progress) -> list[dict[str, list[float]]]:
        return progress.epochs

    def _end(self, trial: Suggestion, outcome: Outcome, artifacts: Path) -> tuple[Suggestion, Outcome]:
        self._record.finish_trial(trial.key, trial.config, outcome, artifacts)
        self._search.tell(trial, outcome)
        return trial, outcome

    def _end_without_result(self, trial: Suggestion) -> None:
        self._search.fail(trial)


class GrowthLedger(Ledger[Growth]):
    """Hands out finished trials that get more replicates, each with the seeds that are missing.

    At a trial's end it merges the result with the earlier one into a new run, which supersedes the earlier run. A trial
    whose earlier result cannot be merged fails before it runs. Files of trials are kept in `folder` meanwhile.
    """

    def __init__(
        self, record: RecordWriter, growing: Sequence[Growth], watcher: Watcher[RunTrial, Outcome], folder: Path
    ):
        super().__init__(record, watcher, len(growing))
        self._growing = list(growing)
        self._folder = folder

    def _take(self) -> Growth | None:
        while self._growing:
            growth = self._growing.pop(0)
            try:
                with disk_errors():
                    earlier = self._earlier(growth)
                    earlier.mkdir()
                    fetch_earlier(growth, self._record, earlier)
            except MergeError as error:
                self.start(growth)
                self.fail(growth, str(error))
            else:
                return growth
        return None

    def _begin(self, trial: Growth) -> None:
        self._record.start_trial(trial.key, trial.whole, trial.earlier.place, supersedes=trial.earlier)

    def _epochs_to_log(self, progress: Progress) -> list[dict[str, list[float]]]:
        return []  # Means are over all replicates, and are recorded at the end.

    def _end(self, trial: Growth, outcome: Outcome, artifacts: Path) -> tuple[Growth, Outcome]:
        whole = trial._replace(config=trial.whole)
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            merged, epochs = merge(trial, self._earlier(trial), artifacts, Path(name))
            self._record.log_epochs(trial.key, 1, epochs)
            self._record.finish_trial(trial.key, whole.config, merged, Path(name), supersedes=trial.earlier)
        self._forget(trial)
        # With all its replicates, as its values and its time are.
        return whole, merged

    def _end_without_result(self, trial: Growth) -> None:
        self._forget(trial)

    def _earlier(self, trial: Growth) -> Path:
        return self._folder / trial.key

    def _forget(self, trial: Growth) -> None:
        shutil.rmtree(self._earlier(trial), ignore_errors=True)
