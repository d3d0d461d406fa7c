"""Recording the trials and the estimates of a running study, whether the tracking store answers or not.

While it answers, they are written to it directly, and nothing else is written. When it does not, the study goes on: a
trial that ends goes to the outbox, and everything is tried again from time to time. A trial of whose run something is
missing is put into the record whole at its end, from its files, which have every epoch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.servers import wait_a_bounded_time, wait_briefly
from study.errors import StudyError, without_secrets
from study.record.outbox import EndedEstimate, EndedTrial
from study.record.outcome import EstimateOutcome, Outcome
from study.record.reader import FinishedTrial
from study.record.stores import StoreError
from study.record.usage import Allotment
from study.record.writer import RecordWriter
from trainables.trial import TrialConfig


@dataclass(frozen=True)
class Patience:
    """How long a study goes on without its tracking store, in seconds."""

    between_tries: float = 10.0
    while_running: float = 1800.0  # then no other trial begins
    at_end: float = 120.0  # after the last trial has ended


@dataclass
class _Running:
    """A trial that runs, and whether its run has all that there is of it so far."""

    begun: EndedTrial
    in_record: bool = False
    is_whole: bool = False


class Recorder:
    """Records trials and estimates; none of its methods fails because the store is away, except those that wait for it.

    Args:
        record: of a study that this driver holds.
        tell: is given sentences for the user.
        patience: how long to go on without the store.

    Raises (all methods):
        LeaseLostError: another driver has taken the study over.
        StudyError: a result can be written neither to the store nor to a disk.
    """

    def __init__(
        self, record: RecordWriter, tell: Callable[[str], None] = lambda text: None, patience: Patience | None = None
    ):
        self.record = record
        self._tell = tell
        self._patience = patience or Patience()
        self._running: dict[str, _Running] = {}
        self._interrupted: dict[str, int] = {}  # when trials were whose runs in the record are open, in milliseconds
        self._away_since: float | None = None
        self._next_try = 0.0
        self._error: StoreError | None = None  # the last one

    @property
    def is_up_to_date(self) -> bool:
        """Whether the store answered when it was last asked, and no result waits for it."""
        return self._away_since is None and not len(self.record.outbox)

    @property
    def gives_up(self) -> bool:
        """Whether the store has been away for so long that no other trial should begin."""
        return self._away_since is not None and time.monotonic() - self._away_since > self._patience.while_running

    def start(
        self,
        key: str,
        config: TrialConfig,
        place: int | None = None,
        supersedes: FinishedTrial | None = None,
        allotment: Allotment | None = None,
    ) -> str | None:
        """A trial begins, as in `RecordWriter.start_trial`; the id of its run, None if it has none yet."""
        trial = _Running(self.record.ended_trial(key, config, place, supersedes, allotment))
        self._running[key] = trial
        trial.is_whole = self._written(lambda: self._begin(trial))
        return self.record.run_of(key) if trial.is_whole else None

    def place(self, key: str, allotment: Allotment) -> None:
        """A trial runs on a machine of which it has this, as in `RecordWriter.place_trial`."""
        trial = self._running[key]
        trial.begun = replace(trial.begun, allotment=allotment)
        written = self._written(lambda: self.record.place_trial(key, allotment), needs=trial)
        trial.is_whole = trial.is_whole and written

    def log_epochs(
        self, key: str, first_epoch: int, epochs: list[dict[str, list[float]]], stage: dict[str, str] | None = None
    ) -> None:
        """Epochs have been trained, as in `RecordWriter.log_epochs`."""
        trial = self._running[key]
        written = self._written(lambda: self.record.log_epochs(key, first_epoch, epochs, stage), needs=trial)
        trial.is_whole = trial.is_whole and (written or not epochs)

    def interrupt(self, key: str) -> None:
        """A trial's worker has died, as in `RecordWriter.interrupt_trial`."""
        trial = self._running.pop(key)
        if trial.in_record and not self._written(lambda: self.record.interrupt_trial(key)):
            self._interrupted[key] = _now()

    def finish(self, key: str, outcome: Outcome, artifacts: Path) -> bool:
        """A trial has ended with a result, as in `RecordWriter.finish_trial`.

        Returns whether it is in the record, in the run that its `start` has returned.
        """
        trial = self._running[key]
        begun = trial.begun

        def write() -> None:
            self.record.finish_trial(key, begun.config, outcome, artifacts, begun.supersedes)

        try:
            done = trial.is_whole and self._written(write)
        except StudyError:
            # The study was lost to another driver. The result is kept all the same.
            self._put(trial, outcome=outcome, files=artifacts)
            raise
        if not done:
            self._put(trial, outcome=outcome, files=artifacts)
        del self._running[key]
        return done

    def fail(self, key: str, reason: str, host: str | None = None) -> bool:
        """A trial has ended without a result, as in `RecordWriter.fail_trial`; returns the same as `finish`."""
        trial = self._running.pop(key)
        done = trial.is_whole and self._written(lambda: self.record.fail_trial(key, reason, host))
        if not done:
            self._put(trial, reason=reason, host=host)
        return done

    def estimate(self, estimate: EndedEstimate, outcome: EstimateOutcome, artifacts: Path) -> None:
        """An estimate has been made, as in `RecordWriter.write_estimate`."""
        done = False
        try:
            done = self._written(lambda: self.record.write_estimate(estimate, outcome, artifacts))
        finally:
            # Also if the study was lost to another driver.
            if not done:
                self.record.outbox.put(estimate, outcome, artifacts)

    def is_back(self) -> bool:
        """Whether the store answers, as far as is known; it is asked if that is due.

        All that waits for the record is in it then.
        """
        if self.is_up_to_date:
            return True
        if time.monotonic() < self._next_try:
            return False
        return self._try_again()

    def is_there(self, something_runs: bool) -> bool:
        """Whether the store can be read. If not, and nothing runs that is to end meanwhile, it is waited for.

        Raises:
            StudyError: nothing runs, and the store stays away.
        """
        if self.is_back():
            return True
        if something_runs:
            return False
        self.wait()
        return True

    def answers(self) -> bool:
        """Ask the store now, after an error, whether it answers."""
        try:
            self.record.touch()
        except StoreError as error:
            self.lose(error)
            return False
        wait_briefly()
        return True

    def wait(self) -> None:
        """Wait until the store is back, and all that waited is in the record.

        Raises:
            StudyError: it is not back in time; the message says where results are.
        """
        end = time.monotonic() + self._patience.at_end
        while not self.is_back():
            if time.monotonic() > end:
                raise self._gone() from self._error
            time.sleep(min(0.2, self._patience.between_tries))

    def catch_up(self) -> None:
        """The last trial or estimate has ended: as `wait`, but say that something waits."""
        if not self.is_up_to_date and not self._try_again():
            self._tell(
                f"Nothing is left to run. Waiting up to {self._patience.at_end:.0f} s for the record: {self._why()}"
            )
        self.wait()
        wait_a_bounded_time()

    def begin_running(self) -> None:
        """Trials or estimates begin now: a store that does not answer is given up after seconds."""
        wait_briefly()

    def _begin(self, trial: _Running) -> None:
        self.record.begin_trial(trial.begun)
        trial.in_record = True

    def _written(self, write: Callable[[], None], needs: _Running | None = None) -> bool:
        """Write to the record if it is there, and has the run that this needs; whether that was done."""
        if not self.is_back() or (needs is not None and not needs.in_record):
            return False
        try:
            write()
        except StoreError as error:
            self.lose(error)
            return False
        return True

    def lose(self, error: StoreError) -> None:
        """The store could not be reached: it is tried again after a while."""
        self._error = error
        self._next_try = time.monotonic() + self._patience.between_tries
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._tell(
                f"The MLflow record at {without_secrets(self.record.stores.tracking_uri)} is away: {error.why} The "
                f"work goes on; its results wait in {self.record.outbox.folder} until it is back."
            )

    def _try_again(self) -> bool:
        try:
            self.record.touch()
            if self._away_since is not None:
                for key in list(self._interrupted):
                    self.record.interrupt_trial(key, self._interrupted[key])
                    del self._interrupted[key]
                for trial in self._running.values():
                    if not trial.in_record:
                        # Shown as running; what it lacks is put there at its end.
                        self._begin(trial)
            self.record.empty_outbox(self._tell)
        except StoreError as error:
            self.lose(error)
            return False
        if self._away_since is not None:
            self._tell("The MLflow record is back.")
            wait_briefly()
        self._away_since = self._error = None
        return True

    def _put(
        self,
        trial: _Running,
        outcome: Outcome | None = None,
        files: Path | None = None,
        reason: str | None = None,
        host: str | None = None,
    ) -> None:
        """Put a trial that ends now into the outbox, and from there into the record if that is back."""
        self.record.outbox.put(replace(trial.begun, ended=_now(), reason=reason, host=host), outcome, files)
        if self._away_since is None:
            self._try_again()

    def _why(self) -> str:
        return self._error.why if self._error is not None else "results wait."

    def _gone(self) -> StudyError:
        outbox = self.record.outbox
        waiting = f"{len(outbox)} result(s) wait in {outbox.place()}; " if len(outbox) else ""
        move = "" if outbox.place() == str(outbox.folder) else f" (move them to {outbox.folder} first)"
        return StudyError(
            f"the MLflow record at {without_secrets(self.record.stores.tracking_uri)} is away: {self._why()} {waiting}"
            f"when it is back, the same command puts them into the record{move} and computes none of them again: "
            "what is finished is kept."
        )


def _now() -> int:
    return int(time.time() * 1000)
