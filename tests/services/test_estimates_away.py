"""Estimates whose MLflow server goes away: for some seconds, or for good."""

from pathlib import Path

import pytest

from study.engine.estimation import Job, jobs_to_do, run_jobs
from study.engine.plan import make_plan
from study.engine.resources import Resources
from study.engine.runners import make_runner
from study.errors import StudyError
from study.record.outbox import EstimateEntry
from study.record.outcome import EstimateOutcome
from study.record.recorder import Patience
from study.record.stores import Stores
from study.record.writer import RecordWriter
from tests.services.mlflow_server import RestartableMLflow
from tests.study.synthetic import runs_of
from tests.study.trained import trained_spec, write_trained_study
from trainables.tasks import TaskData

pytestmark = pytest.mark.services

TRIALS = 6  # more than run at the same time


class Watching:
    """A watcher that takes a server away when the first estimate is recorded, and counts estimates."""

    def __init__(self, server: RestartableMLflow, start_at: int | None = None):
        self._server, self._start_at = server, start_at
        self.made: list[tuple[str, str]] = []  # keys of trial and settings

    def started(self, job: Job) -> None: ...

    def advanced(self, job: Job, stage: str) -> None: ...

    def finished(self, job: Job, outcome: EstimateOutcome) -> None:
        self.made.append((job.trial_key, job.settings.key()))
        if len(self.made) == 1:
            self._server.kill()
        if len(self.made) == self._start_at:
            self._server.start(wait=False)

    def failed(self, job: Job, reason: str) -> None:
        pytest.fail(reason)


@pytest.fixture
def stores(server: RestartableMLflow, digits: TaskData, tmp_path: Path) -> Stores:
    """A study of trained networks, on the server."""
    stores = Stores.under(tmp_path / "store", tracking_uri=server.uri)
    write_trained_study(stores, trained_spec("small", tuple(map(float, range(TRIALS)))), digits, tmp_path / "files")
    return stores


def estimate(stores: Stores, digits: TaskData, watching: Watching, said: list[str], at_end: float = 120) -> int:
    """Estimate the rlct of all trials with another seed; how many were to do."""
    record = RecordWriter(stores, "small")
    spec = record.spec()
    trials = record.finished()
    settings = {key: [trial.config.rlct.model_copy(update={"seed": 7})] for key, trial in trials.items()}
    with record.held(said.append):
        jobs = jobs_to_do(record, trials, settings)
        data = make_plan(spec, [digits], record).data
        runner = make_runner("ray", Resources(concurrent=2), stores, "small", tell=said.append)
        patience = Patience(between_tries=0.3, at_end=at_end)
        assert run_jobs(jobs, record, data, runner, watching, said.append, patience) == 0
    return len(jobs)


def assert_complete(stores: Stores) -> None:
    """Each trial has one estimate."""
    runs = runs_of(stores, "small", "tags.level = 'estimate'")
    assert len({run.data.tags["trial_key"] for run in runs}) == len(runs) == TRIALS
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not (stores.root / "outbox").exists()


def test_estimates_go_on_while_the_server_is_away_and_none_is_made_twice(
    server: RestartableMLflow, stores: Stores, digits: TaskData
) -> None:
    said: list[str] = []
    watching = Watching(server, start_at=2)
    assert estimate(stores, digits, watching, said) == TRIALS
    assert len(set(watching.made)) == len(watching.made) == TRIALS
    assert sum("is away" in text for text in said) == 1
    assert any("none was computed again" in text for text in said)
    assert said[-1] == "The MLflow record is back."
    assert_complete(stores)


def test_estimates_of_a_server_that_is_gone_for_good_wait_on_the_disk_and_the_same_command_records_them(
    server: RestartableMLflow, stores: Stores, digits: TaskData
) -> None:
    watching = Watching(server)
    with pytest.raises(StudyError, match=r"connection is refused.* \d result\(s\) wait in .*/outbox/small;"):
        estimate(stores, digits, watching, [], at_end=1)
    entries, damaged = RecordWriter(Stores.under(stores.root), "small").outbox.entries()
    assert damaged == []
    assert [type(entry) for entry in entries] == [EstimateEntry] * (len(watching.made) - 1)
    assert entries, "those that ran when the server went away"

    server.start()
    said: list[str] = []
    rest = Watching(server, start_at=1)
    assert estimate(stores, digits, rest, said) == TRIALS - len(watching.made)
    assert f"{len(entries)} result(s) that had waited for the record are in it now; none was computed again." in said
    assert rest.made, "those that had not begun"
    assert not set(rest.made) & set(watching.made)
    assert_complete(stores)
