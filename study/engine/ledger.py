"""The ledger of a running study: hands out trials, records how they end, and informs the watcher."""

import math
import time
from pathlib import Path

from analysis.layout import Tag
from study.engine.runner import Watcher
from study.errors import without_secrets
from study.interrupts import deferred
from study.record.outcome import Outcome, Progress
from study.record.writer import RecordWriter
from study.search.search import Search, Suggestion

# Seconds between two notes of a running trial's stage in the record.
STAGE_INTERVAL = 10.0


class Ledger:
    """Hands out trials, and keeps record, search and watcher consistent.

    At a trial's end it writes first the record, then Optuna: every trial complete in Optuna is in the record.
    """

    def __init__(self, record: RecordWriter, search: Search, watcher: Watcher[Suggestion, Outcome], limit: int):
        self._record = record
        self._search = search
        self._watcher = watcher
        self._epochs_logged: dict[str, int] = {}
        self._stages: dict[str, tuple[float, str]] = {}  # when a trial's stage was last recorded, and its host
        self.limit = limit  # most trials to hand out
        self.handed_out = self.finished = self.failed = 0
        self.stopped = False  # on request, before all trials were handed out

    @deferred()
    def next(self) -> Suggestion | None:
        """The next trial to run; None when nothing is left, or somebody asked the driver to stop."""
        if self.handed_out >= self.limit:
            return None
        if self._record.stop_request is not None:
            self.stopped = True
            return None
        trial = self._search.ask()
        self.handed_out += trial is not None
        return trial

    @deferred()
    def start(self, trial: Suggestion) -> None:
        """A trial begins, or begins again after an interruption."""
        self._record.start_trial(trial.key, trial.config)
        if trial.key in self._epochs_logged:
            self._watcher.advanced(trial, "starting again")
        else:
            self._watcher.started(trial)
        self._epochs_logged[trial.key] = 0

    @deferred()
    def interrupt(self, trial: Suggestion) -> None:
        """A trial's worker has died; the trial starts again later."""
        self._record.interrupt_trial(trial.key)
        self._stages.pop(trial.key, None)
        self._watcher.advanced(trial, "waiting: its worker has died")

    @deferred()
    def advance(self, trial: Suggestion, progress: Progress) -> None:
        """A trial has made progress."""
        self._record.log_epochs(
            trial.key, self._epochs_logged[trial.key] + 1, progress.epochs, self._stage_if_due(trial.key, progress)
        )
        self._epochs_logged[trial.key] += len(progress.epochs)
        self._watcher.advanced(trial, progress.stage)

    @deferred()
    def finish(self, trial: Suggestion, outcome: Outcome, artifacts: Path) -> None:
        """A trial has ended with a result; `artifacts` are its files, laid out as the record has them."""
        self._record.finish_trial(trial.key, trial.config, outcome, artifacts)
        self._search.tell(trial, outcome)
        self.finished += 1
        self._watcher.finished(trial, outcome)

    @deferred()
    def fail(self, trial: Suggestion, reason: str, host: str | None = None) -> None:
        """A trial has ended without a result; `reason` is its traceback, `host` where it ran, if the runner knows."""
        reason = without_secrets(reason)
        _, last_host = self._stages.get(trial.key, (0.0, None))
        self._record.fail_trial(trial.key, reason, host or last_host)
        self._search.fail(trial)
        self.failed += 1
        self._watcher.failed(trial, reason)

    def _stage_if_due(self, key: str, progress: Progress) -> dict[str, str]:
        """The tags on a trial's stage, for those who look at the record; few, because each is a request."""
        recorded, _ = self._stages.get(key, (-math.inf, ""))
        now = time.monotonic()
        if not progress.host or now - recorded < STAGE_INTERVAL:
            return {}
        self._stages[key] = now, progress.host
        return {Tag.STAGE: progress.stage, Tag.HOST: progress.host}
