"""The ledger of a running study: hands out trials, records how they end, and informs the watcher."""

from pathlib import Path

from study.engine.runner import Watcher
from study.record.outcome import Outcome, Progress
from study.record.writer import RecordWriter
from study.search.search import Search, Suggestion


class Ledger:
    """Hands out trials, and keeps record, search and watcher consistent.

    At a trial's end it writes first the record, then Optuna: every trial complete in Optuna is in the record.
    """

    def __init__(self, record: RecordWriter, search: Search, watcher: Watcher[Suggestion, Outcome], limit: int):
        self._record = record
        self._search = search
        self._watcher = watcher
        self._epochs_logged: dict[str, int] = {}
        self.limit = limit  # most trials to hand out
        self.handed_out = self.finished = self.failed = 0

    def next(self) -> Suggestion | None:
        """The next trial to run; None when nothing is left."""
        if self.handed_out >= self.limit:
            return None
        trial = self._search.ask()
        self.handed_out += trial is not None
        return trial

    def start(self, trial: Suggestion) -> None:
        """A trial begins."""
        self._record.start_trial(trial.key, trial.config)
        self._epochs_logged[trial.key] = 0
        self._watcher.started(trial)

    def advance(self, trial: Suggestion, progress: Progress) -> None:
        """A trial has made progress."""
        self._record.log_epochs(trial.key, self._epochs_logged[trial.key] + 1, progress.epochs)
        self._epochs_logged[trial.key] += len(progress.epochs)
        self._watcher.advanced(trial, progress.stage)

    def finish(self, trial: Suggestion, outcome: Outcome, artifacts: Path) -> None:
        """A trial has ended with a result; `artifacts` are its files, laid out as the record has them."""
        self._record.finish_trial(trial.key, trial.config, outcome, artifacts)
        self._search.tell(trial, outcome)
        self.finished += 1
        self._watcher.finished(trial, outcome)

    def fail(self, trial: Suggestion, reason: str) -> None:
        """A trial has ended without a result; `reason` is its traceback."""
        self._record.fail_trial(trial.key, reason)
        self._search.fail(trial)
        self.failed += 1
        self._watcher.failed(trial, reason)
