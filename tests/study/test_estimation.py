"""Estimates of finished trials while the record, or the store of its files, is away; in this process."""

from pathlib import Path
from typing import Any

import pytest

from study.engine.estimation import Job, jobs_to_do, run_jobs
from study.engine.plan import make_plan
from study.engine.resources import Resources
from study.engine.runners import make_runner
from study.errors import StudyError
from study.record.outcome import EstimateOutcome
from study.record.reader import FinishedTrial
from study.record.recorder import Patience
from study.record.stores import StoreError, Stores
from study.record.writer import RecordWriter
from tests.study.stores import fresh_stores
from tests.study.test_outbox import away
from tests.study.trained import trained_spec, write_trained_study
from trainables.tasks import TaskData

SEEDS = (7, 8)  # of two estimates for each trial


class Watching:
    """A watcher that takes the record away after the first estimate, and notes how each one ends."""

    def __init__(self, record: RecordWriter | None = None):
        self._record = record
        self.made: list[tuple[str, int]] = []
        self.failed_with: dict[tuple[str, int], str] = {}

    def started(self, job: Job) -> None: ...

    def advanced(self, job: Job, stage: str) -> None: ...

    def finished(self, job: Job, outcome: EstimateOutcome) -> None:
        self.made.append((job.trial_key, job.settings.seed))
        if self._record is not None:
            self.back, self._record = away(self._record), None

    def failed(self, job: Job, reason: str) -> None:
        self.failed_with[job.trial_key, job.settings.seed] = reason


@pytest.fixture
def stores(digits: TaskData, tmp_path: Path) -> Stores:
    """A study of two trained networks."""
    stores = fresh_stores(tmp_path / "store")
    write_trained_study(stores, trained_spec("small", (0.0, 5.0)), digits, tmp_path / "files")
    return stores


def estimate(record: RecordWriter, digits: TaskData, watching: Watching, said: list[str]) -> int:
    """Make the two estimates of both trials, as far as the record lacks them; how many failed."""
    trials: dict[str, FinishedTrial] = record.finished()
    settings = {
        key: [trial.config.rlct.model_copy(update={"seed": seed}) for seed in SEEDS] for key, trial in trials.items()
    }
    data = make_plan(record.spec(), [digits], record).data
    runner = make_runner("local", Resources(), record.stores, "small")
    patience = Patience(between_tries=0.05, at_end=0.3)
    with record.held(said.append):
        jobs = jobs_to_do(record, trials, settings)
        return run_jobs(jobs, record, data, runner, watching, said.append, patience)


def test_without_the_record_estimates_go_on_with_the_checkpoint_that_is_here_and_are_recorded_later(
    stores: Stores, digits: TaskData
) -> None:
    record = RecordWriter(stores, "small")
    keys = list(record.finished())
    watching = Watching(record)
    with pytest.raises(StudyError, match=r"was deleted or exchanged.* 1 result\(s\) wait in .*/outbox/small;"):
        estimate(record, digits, watching, [])
    assert watching.made == [(keys[0], 7), (keys[0], 8)]
    watching.back()

    said: list[str] = []
    record, rest = RecordWriter(stores, "small"), Watching()
    assert estimate(record, digits, rest, said) == 0
    assert "1 result(s) that had waited for the record are in it now; none was computed again." in said
    assert rest.made == [(keys[1], 7), (keys[1], 8)]
    assert len(record.estimated()) == 4
    assert not (stores.root / "outbox").exists()


def test_a_checkpoint_that_a_record_which_answers_does_not_give_fails_its_own_estimates_and_no_others(
    stores: Stores, digits: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = RecordWriter(stores, "small")
    (first, lost), (second, _) = record.finished().items()
    real, touch = record.has_artifact, record.touch
    asked: list[str] = []

    def away_once() -> None:
        if len(asked) == 5:
            record.touch = touch  # type: ignore[method-assign]
            raise StoreError("the record is away", "connection refused")
        touch()

    record.touch = away_once  # type: ignore[method-assign]

    def refusing(run_id: str, *path: Any) -> bool:
        asked.append(run_id)
        if run_id == lost.run_id or len(asked) in (5, 6):
            raise StoreError("the bucket cannot be used", "403 Forbidden")
        return real(run_id, *path)

    monkeypatch.setattr(record, "has_artifact", refusing)
    watching = Watching()
    assert estimate(record, digits, watching, []) == 2
    assert watching.made == [(second, 7), (second, 8)], "neither an outage nor an error that comes once is one"
    assert set(watching.failed_with) == {(first, 7), (first, 8)}
    assert all("checkpoint cannot be read: the bucket" in reason for reason in watching.failed_with.values())
