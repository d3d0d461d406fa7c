"""A trial costs the same in a study of few trials and of many: statements of the databases are counted, not seconds."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.engine import Engine

from analysis.tracking import search_all_runs
from study.engine.execute import execute
from study.engine.plan import make_plan
from study.engine.resources import Resources
from study.engine.runners import make_runner
from study.record import reader
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.search.parameters import offers, parameters_of
from study.search.search import Search, Suggestion
from study.search.store import opened_storage, reconcile
from study.search.view import view_of
from study.spec import StudySpec, build_spec
from tests.study.memory import MemoryRecord
from tests.study.searching import RUN, ask_for_one
from tests.study.stores import fresh_stores
from tests.study.synthetic import DIGEST, falling, make_outcome, sweep_spec
from tests.study.test_runners import STUDY, Heard
from trainables.tasks import TaskData


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts statements and transactions of all databases, by the file's name."""
    count: Counter[str] = Counter()

    def on_statement(connection: Any, *others: Any) -> None:
        count[f"statements of {Path(connection.engine.url.database).name}"] += 1

    def on_commit(connection: Any) -> None:
        count[f"commits to {Path(connection.engine.url.database).name}"] += 1

    event.listen(Engine, "before_cursor_execute", on_statement)
    event.listen(Engine, "commit", on_commit)
    try:
        yield count
    finally:
        event.remove(Engine, "before_cursor_execute", on_statement)
        event.remove(Engine, "commit", on_commit)


def sweep(trials: int, replicates: int = 2) -> StudySpec:
    return sweep_spec("many", tuple(map(float, range(trials))), replicates)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "history.parquet").write_bytes(b"made up")
    return folder


def run_counted(spec: StudySpec, folder: Path, files: Path) -> list[Counter[str]]:
    """Run a study's trials; return what each took."""
    stores, counts = fresh_stores(folder), []
    stores.prepare()
    record = RecordWriter(stores, spec.name)
    record.begin()
    # Not held: a heartbeat would be among the statements.
    with opened_storage(stores.optuna_url) as storage:
        record.open_study(spec, DIGEST)
        search = Search(spec, DIGEST, storage, spec.listed(), (), record.run_id)
        while (trial := ask_for_one(search)) is not None:
            outcome = make_outcome(trial.config, falling)
            epoch = {"train_loss": [0.5] * spec.replicates}
            with counted() as count:
                search.start(trial, record.start_trial(trial.key, trial.config, trial.place))
                record.log_epochs(trial.key, 1, [epoch] * 20)
                record.finish_trial(trial.key, trial.config, outcome, files)
                search.tell(trial, outcome)
            counts.append(count)
        record.close_study("FINISHED")
    return counts


def test_the_last_of_many_trials_takes_as_many_statements_as_the_second(tmp_path: Path, files: Path) -> None:
    counts = run_counted(sweep(30), tmp_path / "many", files)
    assert counts[29] == counts[1]
    # What Optuna has of a trial is written at once.
    assert counts[29]["commits to optuna.db"] == 1


def test_a_replicate_more_takes_three_requests_more_of_the_record(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []
    for name in ("create_run", "log_batch", "update_run_info", "get_run", "set_tag", "log_param", "log_metric"):
        monkeypatch.setattr(
            "mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore." + name, _noting(name, requests), raising=True
        )
    by_replicates = {}
    for replicates in (2, 3):
        run_counted(sweep(1, replicates), tmp_path / str(replicates), files)
        by_replicates[replicates] = Counter(requests)
        requests.clear()
    assert by_replicates[3] - by_replicates[2] == {"create_run": 1, "log_batch": 1, "update_run_info": 1}
    # Of the trial: parameters, epochs, result; of each replicate all at once; of the study nothing but its run.
    assert by_replicates[2]["log_batch"] == 3 + 2


def _noting(name: str, requests: list[str]) -> Any:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    method = getattr(SqlAlchemyStore, name)

    def noting(*arguments: Any, **named: Any) -> Any:
        requests.append(name)
        return method(*arguments, **named)

    return noting


def begin(spec: StudySpec, storage: InMemoryStorage, record: MemoryRecord) -> tuple[Search, Suggestion]:
    """A search one of whose trials has begun."""
    search = Search(spec, DIGEST, storage, spec.listed(), (), RUN)
    trial = ask_for_one(search)
    assert trial is not None
    search.start(trial, record.start_trial(trial.key, trial.config, trial.place))
    return search, trial


def test_the_stored_study_has_a_trial_once_it_has_ended_with_the_time_at_which_it_began() -> None:
    spec, storage, record = sweep(3), InMemoryStorage(), MemoryRecord()
    search, trial = begin(spec, storage, record)
    study = optuna.load_study(study_name="many", storage=storage)
    assert study.trials == []
    search.tell(trial, make_outcome(trial.config, falling))
    (stored,) = study.trials
    assert (stored.state, stored.user_attrs["run_id"]) == (TrialState.COMPLETE, "run-1")
    assert stored.datetime_start is not None
    assert stored.datetime_complete is not None
    assert stored.datetime_start <= stored.datetime_complete


def test_trials_that_the_stored_study_lacks_are_added_and_the_others_stay() -> None:
    spec, storage, record = sweep(3), InMemoryStorage(), MemoryRecord()
    search, first = begin(spec, storage, record)
    outcome = make_outcome(first.config, falling)
    record.finish_trial(first.key, outcome)
    search.tell(first, outcome)
    second = ask_for_one(search)
    assert second is not None
    # Its driver dies before it tells Optuna.
    record.start_trial(second.key, second.config, second.place)
    record.finish_trial(second.key, make_outcome(second.config, falling))
    before = [trial._trial_id for trial in optuna.load_study(study_name="many", storage=storage).trials]
    view = view_of(spec, record.finished(), record.trials())
    assert reconcile(spec, storage, view, RUN)
    stored = optuna.load_study(study_name="many", storage=storage).trials
    assert [trial._trial_id for trial in stored[:1]] == before
    assert [trial.user_attrs["trial_key"] for trial in stored] == [first.key, second.key]
    assert not reconcile(spec, storage, view, RUN)


def test_trials_of_a_grid_have_the_range_of_its_numbers_and_only_those_of_the_grid_are_offered() -> None:
    spec = sweep(50)
    *_, last = spec.listed()
    assert {name: str(each) for name, (_, each) in parameters_of(spec, last).items() if name == "aux_weight"} == {
        "aux_weight": "FloatDistribution(high=49.0, log=False, low=0.0, step=None)"
    }
    assert offers(spec, last.model_copy(update={"seeds": (7,)}))
    model = last.self_model.model_copy(update={"aux_weight": 50.0})
    other = last.model_copy(update={"self_model": model})
    assert not offers(spec, other)
    # A trial that the grid no longer lists widens the range.
    assert "high=50.0" in str(parameters_of(spec, other)["aux_weight"])


def test_a_command_with_nothing_left_to_run_reads_the_trials_of_the_record_three_times(
    digits: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = build_spec(STUDY | {"design": [{"aux_weight": 0}]}, "small")
    stores = Stores.under(tmp_path)
    runner = make_runner("local", Resources(), stores, spec.name)
    record = RecordWriter(stores, spec.name)
    assert execute(make_plan(spec, [digits], None), record, runner, Heard()).finished == 1
    conditions: list[str] = []

    def noting(client: Any, experiment: str, condition: str = "", *others: Any) -> Any:
        conditions.append(condition)
        return search_all_runs(client, experiment, condition, *others)

    monkeypatch.setattr(reader, "search_all_runs", noting)
    assert execute(make_plan(spec, [digits], None), record, runner, Heard()).ended == 0
    # For the plan, for runs that others have replaced, and for all that were begun.
    assert sum("= 'trial'" in condition for condition in conditions) == 3
