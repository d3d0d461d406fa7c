"""A study whose MLflow server goes away: for some seconds, or for good."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.entities import Metric, Run
from mlflow.tracking import MlflowClient

from study.engine.execute import Execution, execute
from study.engine.plan import make_plan
from study.engine.resources import Resources
from study.engine.runner import RunTrial
from study.engine.runners import make_runner
from study.errors import StudyError
from study.record.outbox import TrialEntry
from study.record.outcome import Outcome
from study.record.recorder import Patience
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.spec import StudySpec, build_spec
from tests.services.mlflow_server import RestartableMLflow
from tests.study.synthetic import runs_of
from trainables.tasks import TaskData

pytestmark = pytest.mark.services

STUDY: dict[str, Any] = {
    "name": "small",
    "question": "Does it go on?",
    "task": "digits",
    "replicates": 2,
    "trials": 5,
    "sampler": "tpe",
    "space": {"hidden_layers": 1, "width": 8, "aux_weight": {"low": 0.1, "high": 10}, "target_depth": 1},
    "training": {"epochs": 3},
    "rlct": {"draws": 10, "chains": 2, "batch_size": 32},
    "observer": {"epochs": 0},
}
FINISHED = Execution(finished=5, failed=0, interrupted=False)


class Watching:
    """A watcher that kills or starts a server when so many trials have begun or ended, and counts trials."""

    def __init__(self, server: RestartableMLflow, kill_at: str = "", start_at: str = ""):
        self._server, self._kill_at, self._start_at = server, kill_at, start_at
        self.begun = self.ended = 0

    def started(self, trial: RunTrial) -> None:
        self.begun += 1
        self._look(f"begun {self.begun}")

    def advanced(self, trial: RunTrial, stage: str) -> None:
        self._look(f"advanced {self.begun}")

    def finished(self, trial: RunTrial, outcome: Outcome) -> None:
        self.ended += 1
        self._look(f"ended {self.ended}")

    def failed(self, trial: RunTrial, reason: str) -> None:
        pytest.fail(reason)

    def _look(self, event: str) -> None:
        if event == self._kill_at:
            self._server.kill()
        if event == self._start_at:
            # It answers some seconds later, while trials go on.
            self._server.start(wait=False)


@pytest.fixture(scope="module")
def spec() -> StudySpec:
    return build_spec(STUDY, "small")


@pytest.fixture(scope="module")
def undisturbed(spec: StudySpec, digits: TaskData, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """The stores of the same study that nothing disturbs."""
    stores = Stores.under(tmp_path_factory.mktemp("undisturbed"))
    watching = Watching(RestartableMLflow(stores.root / "unused"))
    runner = make_runner("local", Resources(), stores, spec.name)
    assert execute(make_plan(spec, [digits], None), RecordWriter(stores, spec.name), runner, watching) == FINISHED
    return stores


def run(
    spec: StudySpec, digits: TaskData, stores: Stores, watching: Watching, said: list[str], at_end: float = 120
) -> Execution:
    record = RecordWriter(stores, spec.name)
    return execute(
        make_plan(spec, [digits], record),
        record,
        make_runner("local", Resources(), stores, spec.name),
        watching,
        tell=said.append,
        patience=Patience(between_tries=0.3, at_end=at_end),
    )


def by_key(stores: Stores, level: str) -> dict[tuple[str, str], Run]:
    runs = runs_of(stores, "small", f"tags.level = '{level}'")
    found = {(run.data.tags["trial_key"], run.data.tags.get("replicate", "")): run for run in runs}
    assert len(found) == len(runs), "a key has one run"
    return found


def history(stores: Stores, run: Run, name: str) -> list[tuple[int, float]]:
    every: list[Metric] = MlflowClient(stores.tracking_uri).get_metric_history(run.info.run_id, name)
    return [(metric.step, metric.value) for metric in every]


def assert_same_record(stores: Stores, reference: Stores) -> None:
    """Same keys, one run each; same parameters, values of every epoch, tags and artifacts."""
    own = {"git_commit", "host", "mlflow.parentRunId", "stage"}
    for level in ("trial", "replicate"):
        expected, found = by_key(reference, level), by_key(stores, level)
        assert expected.keys() == found.keys()
        for key, run in expected.items():
            assert found[key].info.status == "FINISHED"
            assert found[key].info.run_name == run.info.run_name
            assert found[key].data.params == run.data.params
            assert found[key].data.metrics.keys() == run.data.metrics.keys()
            for tag, value in run.data.tags.items():
                assert tag in own or found[key].data.tags[tag] == value, tag
            for name in run.data.metrics:
                if not name.startswith("seconds"):
                    assert history(stores, found[key], name) == history(reference, run, name), name
            files, others = (
                {each.path for each in MlflowClient(where.tracking_uri).list_artifacts(of.info.run_id)}
                for where, of in ((stores, found[key]), (reference, run))
            )
            assert files == others


def optuna_values(stores: Stores) -> dict[str, tuple[Any, ...]]:
    study = optuna.load_study(study_name="small", storage=stores.optuna_url)
    return {
        trial.user_attrs["trial_key"]: (trial.state, trial.values, trial.params, trial.user_attrs["place"])
        for trial in study.trials
        if trial.values
    }


@pytest.mark.parametrize("kill_at", ["begun 2", "ended 1"])
def test_a_study_whose_server_is_away_for_a_while_ends_with_the_record_that_it_would_have_had(
    kill_at: str, server: RestartableMLflow, spec: StudySpec, digits: TaskData, undisturbed: Stores, tmp_path: Path
) -> None:
    stores = Stores.under(tmp_path / "store", tracking_uri=server.uri)
    said: list[str] = []
    watching = Watching(server, kill_at, start_at="ended 3")
    assert run(spec, digits, stores, watching, said) == FINISHED
    assert (watching.begun, watching.ended) == (5, 5)
    assert sum("is away" in text for text in said) == 1
    assert said.count("The MLflow record is back.") == 1
    assert any("none was computed again" in text for text in said)
    assert not (stores.root / "outbox").exists()
    assert_same_record(stores, undisturbed)
    assert optuna_values(stores) == optuna_values(undisturbed)
    (study,) = runs_of(stores, "small", "tags.level = 'study'")
    assert study.info.status == "FINISHED"


def test_results_of_a_server_that_is_gone_for_good_wait_on_the_disk_and_the_same_command_records_them(
    server: RestartableMLflow, spec: StudySpec, digits: TaskData, undisturbed: Stores, tmp_path: Path
) -> None:
    stores = Stores.under(tmp_path / "store", tracking_uri=server.uri)
    watching = Watching(server, kill_at="begun 3")
    with pytest.raises(StudyError, match=r"connection is refused.* 3 result\(s\) wait in .*/outbox/small;"):
        run(spec, digits, stores, watching, [], at_end=1)
    assert watching.ended == 5
    waiting = RecordWriter(Stores.under(tmp_path / "store"), "small").outbox
    ended, damaged = waiting.entries()
    assert (len(ended), damaged) == (3, [])

    server.start()
    said: list[str] = []
    again = Watching(server)
    assert run(spec, digits, stores, again, said) == Execution(0, 0, interrupted=False)
    assert again.begun == 0
    # The lock in the store tells at once that the first driver, which could not give its lease back, is dead.
    assert [text.partition(" from ")[0] for text in said] == [
        "Taken over",
        "3 result(s) that had waited for the record are in it now; none was computed again.",
    ]
    assert_same_record(stores, undisturbed)
    assert optuna_values(stores) == optuna_values(undisturbed)
    runs = by_key(stores, "trial")
    for entry in ended:
        assert isinstance(entry, TrialEntry)
        recorded = runs[entry.trial.key, ""]
        assert (recorded.info.start_time, recorded.info.end_time) == (entry.trial.started, entry.trial.ended)
    assert not (stores.root / "outbox").exists()
