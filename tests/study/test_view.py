"""Optuna's study is a view of the record: lost, changed or cut short, it is built again from there."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from study.commands.main import main
from study.commands.run import main as run_study
from study.record.outcome import Outcome
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.search.parameters import parameters_of, quieten_optuna
from study.search.search import Search
from study.search.store import check_stored_study, opened_storage, rebuild, reconcile
from study.search.view import lacking, view_of
from study.spec import StudySpec, build_spec
from tests.study.memory import MemoryRecord
from tests.study.searching import RUN, ask_for_one, take_up
from tests.study.synthetic import DIGEST, falling, make_outcome
from trainables.trial import TrialConfig

SPACE = {
    "hidden_layers": {"low": 1, "high": 3},
    "width": [8, 16],
    "target_depth": "any",
    "aux_weight": {"low": 0.1, "high": 0.9},
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quieten_optuna()


def make_spec(**changes: Any) -> StudySpec:
    raw: dict[str, Any] = {"name": "seen", "task": "digits", "trials": 14, "replicates": 2, "space": SPACE}
    return build_spec(raw | {"sampler": "tpe"} | changes, "seen")


def outcome_of(config: TrialConfig, number: int) -> Outcome:
    """Some trials collapse, some have an rlct that does not count, and one has no value."""

    def values(config: TrialConfig, index: int) -> dict[str, float]:
        return falling(config, index) | ({"rlct": float("nan")} if number == 5 else {})

    status = "collapsed" if number % 4 == 3 else "ok"
    return make_outcome(config, values, status, "not_a_minimum" if number % 5 == 2 else "sound")


def comparable(trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """What Optuna has of the trials that did not turn out to be known already, without numbers and times."""
    return [
        {
            "state": trial.state,
            "values": trial.values,
            "params": trial.params,
            "distributions": trial.distributions,
            "user_attrs": trial.user_attrs,
            "constraints": trial.constraints,
        }
        for trial in trials
        if "trial_key" in trial.user_attrs
    ]


def best(study: optuna.Study) -> list[str]:
    return [trial.user_attrs["trial_key"] for trial in study.best_trials]


def load(storage: BaseStorage) -> optuna.Study:
    return optuna.load_study(study_name="seen", storage=storage)


def search_on(
    spec: StudySpec, storage: BaseStorage, record: MemoryRecord, trials: int, fails: Sequence[int] = ()
) -> list[str]:
    """Go on with a search until the record has so many trials; return the keys of all in their order."""
    search = take_up(spec, storage, record)
    while len(record.runs) < trials:
        suggestion = ask_for_one(search)
        assert suggestion is not None
        search.start(suggestion, record.start_trial(suggestion.key, suggestion.config, suggestion.place))
        if len(record.runs) in fails:
            record.fail_trial(suggestion.key)
            search.fail(suggestion)
            continue
        outcome = outcome_of(suggestion.config, len(record.runs))
        record.finish_trial(suggestion.key, outcome)
        search.tell(suggestion, outcome)
    return [run.key for run in record.runs]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_built_again_is_the_live_one_trial_by_trial(sampler: str) -> None:
    spec, storage, record = make_spec(sampler=sampler), InMemoryStorage(), MemoryRecord()
    search_on(spec, storage, record, 14, fails=(4, 9))
    live, live_best = comparable(load(storage).trials), best(load(storage))
    assert {trial["state"] for trial in live} == {TrialState.COMPLETE, TrialState.FAIL}
    optuna.delete_study(study_name="seen", storage=storage)
    assert reconcile(spec, storage, view_of(spec, record.finished(), record.trials()), RUN)
    again = load(storage)
    assert comparable(again.trials) == live
    assert best(again) == live_best
    assert again.metric_names == list(spec.objectives)
    assert [direction.name.lower() for direction in again.directions] == list(spec.objectives.values())
    assert again.user_attrs == {"question": spec.question, "record": RUN}
    assert all(trial.datetime_start and trial.datetime_complete for trial in again.trials)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("lost_after", [1, 7, 11, 13])
def test_a_search_whose_optuna_study_was_lost_suggests_what_it_would_have_suggested(
    sampler: str, lost_after: int
) -> None:
    spec = make_spec(sampler=sampler, trials=20)
    undisturbed = search_on(spec, InMemoryStorage(), MemoryRecord(), 20)
    record = MemoryRecord()
    search_on(spec, InMemoryStorage(), record, lost_after)
    assert search_on(spec, InMemoryStorage(), record, 20) == undisturbed


def test_a_target_with_two_names_has_one_of_them_in_every_study() -> None:
    # The last of two layers is both 2 and 'last'.
    space = {"hidden_layers": 2, "width": 8, "aux_weight": {"low": 0.1, "high": 0.9}, "target_depth": [2, "last", 1]}
    spec, storage, record = make_spec(space=space, sampler="random"), InMemoryStorage(), MemoryRecord()
    search_on(spec, storage, record, 8)
    live = comparable(load(storage).trials)
    (name,) = {name for trial in live for name in trial["params"] if name.startswith("target_depth")}
    assert {trial["params"].get(name, 2) for trial in live} == {1, 2}
    rebuild(spec, storage, view_of(spec, record.finished(), record.trials()), RUN)
    assert comparable(load(storage).trials) == live


@st.composite
def studies(draw: st.DrawFn) -> StudySpec:
    """A search whose dimensions are values, lists or ranges; targets may have two names."""
    space = {
        "hidden_layers": draw(st.sampled_from([2, [1, 2], {"low": 1, "high": 3}])),
        "width": draw(st.sampled_from([8, [8, 16], {"low": 8, "high": 64, "log": True}])),
        "control": draw(st.sampled_from(["none", ["none", "dropout"], ["dropout", "activation_penalty"]])),
        "aux_weight": draw(st.sampled_from([0.5, [0, 0.1, 0.5], {"low": 0.1, "high": 0.9}])),
        "target_depth": draw(st.sampled_from(["any", "last", [1, "last", "all"]])),
        "head": draw(st.sampled_from(["widened", ["widened", "separate"]])),
    }
    return make_spec(space=space, sampler=draw(st.sampled_from(["random", "tpe"])), trials=1)


@settings(max_examples=25, deadline=None)
@given(spec=studies(), other=studies(), number=st.integers(1, 8))
def test_the_view_of_a_stored_view_is_the_same_and_the_live_study_is_one_too(
    spec: StudySpec, other: StudySpec, number: int
) -> None:
    storage, record = InMemoryStorage(), MemoryRecord()
    reconcile(spec, storage, [], RUN)
    search = Search(spec, DIGEST, storage, [], (), RUN)
    for count in range(number):
        if (suggestion := ask_for_one(search)) is None:
            break
        search.start(suggestion, record.start_trial(suggestion.key, suggestion.config, suggestion.place))
        outcome = outcome_of(suggestion.config, count)
        record.finish_trial(suggestion.key, outcome)
        search.tell(suggestion, outcome)
    finished, trials = record.finished(), record.trials()
    if not finished:
        return
    numbers = [trial._trial_id for trial in load(storage).trials]
    assert not reconcile(spec, storage, view_of(spec, finished, trials), RUN), "the live study shows its record"
    assert [trial._trial_id for trial in load(storage).trials] == numbers
    # In any other space too.
    for each in (other, spec):
        view = view_of(each, finished, trials)
        rebuild(each, storage, view, RUN)
        stored = load(storage).trials
        assert lacking(stored, view) == []
        assert [trial.user_attrs["trial_key"] for trial in stored] == list(finished)
        for trial, run in zip(stored, trials, strict=True):
            found = parameters_of(each, run.config, baseline_is_taken="self_modeling" not in trial.params)
            assert trial.distributions == {name: distribution for name, (_, distribution) in found.items()}
        assert not reconcile(each, storage, view, RUN)


@pytest.mark.parametrize(
    "change",
    ["a value", "replicates", "a standard error", "a status", "another run", "a trial more", "a trial less"],
)
def test_a_record_that_changed_is_seen_in_the_study(change: str) -> None:
    spec, storage, record = make_spec(), InMemoryStorage(), MemoryRecord()
    search_on(spec, storage, record, 6)
    changed = record.finished()
    trials = record.trials()
    key = trials[3].key
    done = changed[key]
    parts: dict[str, dict[str, Any]] = {
        "a value": {"metrics": {**done.metrics, "rlct": 3.0}},
        "a standard error": {"metrics": {**done.metrics, "rlct_se": 0.125}},
        "replicates": {"params": {**done.params, "replicates": "5", "seeds": "[0, 1, 2, 3, 4]"}},
        "a status": {"status": "diverged"},
        "another run": {"run_id": "another"},
    }
    if change in parts:
        changed[key] = type(done)(**vars(done) | parts[change])
        trials[3] = type(trials[3])(**vars(trials[3]) | {"run_id": changed[key].run_id, **parts[change]})
    elif change == "a trial more":
        config = trials[3].config.model_copy(update={"split_seed": 3})
        record.start_trial("of another driver", config)
        record.finish_trial("of another driver", outcome_of(config, 0))
        changed, trials = record.finished(), record.trials()
    else:
        del changed[key], trials[3]
    view = view_of(spec, changed, trials)
    assert reconcile(spec, storage, view, RUN)
    stored = load(storage).trials
    assert comparable(stored) == comparable(view)
    assert not reconcile(spec, storage, view, RUN)


def test_a_study_of_an_earlier_version_is_built_again_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    spec, storage, record = make_spec(), InMemoryStorage(), MemoryRecord()
    search_on(spec, storage, record, 6)
    complete = comparable(load(storage).trials)
    # It had neither runs nor replicates among the attributes, and did not name its record.
    old = load(storage).trials
    for trial in old:
        trial.user_attrs = {
            name: value for name, value in trial.user_attrs.items() if name not in ("run_id", "replicates")
        }
    optuna.delete_study(study_name="seen", storage=storage)
    optuna.create_study(study_name="seen", storage=storage, directions=list(spec.objectives.values())).add_trials(old)
    check_stored_study(spec, storage, RUN)
    assert reconcile(spec, storage, view_of(spec, record.finished(), record.trials()), RUN)
    assert comparable(load(storage).trials) == complete
    assert capfd.readouterr() == ("", "")


class CutShortError(Exception):
    """A driver died."""


@pytest.mark.parametrize("trials_written", [0, 3, 6])
def test_a_study_whose_building_was_cut_short_is_built_by_the_next_driver(
    trials_written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, record = make_spec(sampler="random"), MemoryRecord()
    with opened_storage(f"sqlite:///{tmp_path}/optuna.db") as storage:
        search_on(spec, storage, record, 6)
        live = comparable(load(storage).trials)
        view = view_of(spec, record.finished(), record.trials())
        add_trial = optuna.Study.add_trial
        added: list[FrozenTrial] = []

        def adding(study: optuna.Study, trial: FrozenTrial) -> None:
            if len(added) == trials_written:
                raise CutShortError
            added.append(trial)
            add_trial(study, trial)

        def naming(study: optuna.Study, name: str, value: Any) -> None:
            if name == "record":
                raise CutShortError

        with monkeypatch.context() as patch:
            patch.setattr(optuna.Study, "add_trial", adding)
            patch.setattr(optuna.Study, "set_user_attr", naming)
            with pytest.raises(CutShortError):
                rebuild(spec, storage, view, RUN)
    with opened_storage(f"sqlite:///{tmp_path}/optuna.db") as storage:
        assert len(load(storage).trials) == trials_written
        check_stored_study(spec, storage, RUN)
        assert reconcile(spec, storage, view, RUN)
        assert comparable(load(storage).trials) == live
        assert not reconcile(spec, storage, view, RUN)


@pytest.fixture(scope="module")
def finished_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a search of eight trials in MLflow and Optuna, of which one failed and one is left open."""
    folder = tmp_path_factory.mktemp("store")
    stores = Stores.under(folder)
    spec, record = make_spec(sampler="random", trials=8), RecordWriter(stores, "seen")
    files = folder / "files"
    files.mkdir()
    (files / "history.parquet").write_bytes(b"made up")
    stores.prepare()
    record.begin()
    with record.held(), opened_storage(stores.optuna_url) as storage:
        record.open_study(spec, DIGEST, 8)
        search = Search(spec, DIGEST, storage, [], (), record.run_id)
        for number in range(8):
            suggestion = ask_for_one(search)
            assert suggestion is not None
            key, config = suggestion.key, suggestion.config
            search.start(suggestion, record.start_trial(key, config))
            if number == 3:
                record.fail_trial(key, "no memory left")
                search.fail(suggestion)
            elif number < 7:
                outcome = outcome_of(config, number)
                if number == 6:
                    # Its weights are no longer finite after the last epoch.
                    outcome.measurements["weight_std"][:] = [float("nan")] * 2
                ended = {"rlct", "rlct_chain_se", "observer_r2", "observer_agreement"}
                epoch = {name: values for name, values in outcome.measurements.items() if name not in ended}
                record.log_epochs(key, 1, [epoch | {"weight_std": [0.5, 0.6]}, epoch])
                record.finish_trial(key, config, outcome, files)
                search.tell(suggestion, outcome)
        record.close_study("KILLED")
    return folder


def stored_trials(folder: Path) -> list[dict[str, Any]]:
    with opened_storage(f"sqlite:///{folder}/optuna.db") as storage:
        return comparable(load(storage).get_trials(states=(TrialState.COMPLETE, TrialState.FAIL)))


def test_the_command_makes_a_deleted_optuna_study_anew_from_the_record_alone(
    finished_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = shutil.copytree(finished_store, tmp_path / "store")
    live = stored_trials(store)
    (store / "optuna.db").unlink()
    assert main(["optuna", "rebuild", "seen", "--store", str(store)]) == 0
    assert "rebuilt: 6 finished trials, 2 failed or interrupted" in capfd.readouterr().out
    again = stored_trials(store)
    # Values that were not finite at the end are not those of an earlier epoch.
    assert (again[6]["values"], again[6]["user_attrs"].get("weight_std")) == (None, None)
    # The one left open was still running in Optuna.
    assert again[:-1] == live
    assert len(live) == 7
    assert again[-1]["state"] == TrialState.FAIL
    assert again[-1]["user_attrs"]["status_detail"] == "interrupted"
    # A study that is there is replaced, wherever it is.
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    for _ in range(2):
        command = ["optuna", "rebuild", "seen", "--store", str(store), "--optuna-storage", elsewhere, "--json"]
        assert main(command) == 0
        assert json.loads(capfd.readouterr().out) == {"study": "seen", "finished": 6, "failed": 2}
        with opened_storage(elsewhere) as storage:
            assert comparable(load(storage).trials) == again


def test_a_study_whose_optuna_database_was_deleted_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text("""
        name: seen
        task: digits
        replicates: 1
        sampler: random
        trials: 2
        space: {hidden_layers: 1, width: [8, 16], target_depth: 1, aux_weight: {low: 0.1, high: 10}}
        training: {epochs: 1}
        rlct: {draws: 8, chains: 2, batch_size: 32}
        observer: {epochs: 0}
    """)
    command = [str(tmp_path / "small.yaml"), "--store", str(tmp_path / "runs"), "--runner", "local"]
    assert run_study(command) == 0
    live = stored_trials(tmp_path / "runs")
    (tmp_path / "runs" / "optuna.db").unlink()
    assert run_study([*command, "--trials", "3"]) == 0
    assert stored_trials(tmp_path / "runs")[:2] == live
    assert len(stored_trials(tmp_path / "runs")) == 3


def test_the_command_says_what_is_wrong_in_one_message(finished_store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = stored_trials(finished_store)
    record = RecordWriter(Stores.under(finished_store), "seen")
    with record.held():
        assert main(["optuna", "rebuild", "seen", "--store", str(finished_store)]) == 2
    assert "error: the study 'seen' is held by" in capfd.readouterr().err
    assert main(["optuna", "rebuild", "unseen", "--store", str(finished_store)]) == 2
    assert "has no study 'unseen'" in capfd.readouterr().err
    assert stored_trials(finished_store) == before
    with pytest.raises(SystemExit):
        main(["optuna", "rebuild", "--help"])
    assert "example: python -m study optuna rebuild" in capfd.readouterr().out


def test_the_command_refuses_to_replace_an_optuna_study_that_is_not_of_this_record(
    finished_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/foreign.db"
    optuna.create_study(study_name="seen", storage=url).enqueue_trial({"x": 1})
    assert main(["optuna", "rebuild", "seen", "--store", str(finished_store), "--optuna-storage", url]) == 2
    assert "that are not of this record" in capfd.readouterr().err
    assert len(optuna.load_study(study_name="seen", storage=url).trials) == 1


def test_a_record_whose_trials_have_unknown_fields_still_has_their_values() -> None:
    spec, storage, record = make_spec(sampler="random"), InMemoryStorage(), MemoryRecord()
    search_on(spec, storage, record, 3)
    trials = record.trials()
    trials[1] = type(trials[1])(**vars(trials[1]) | {"params": {**trials[1].params, "width": "wide"}})
    view = view_of(spec, record.finished(), trials)
    assert reconcile(spec, storage, view, RUN)
    stored = load(storage).trials
    assert [trial.state for trial in stored] == [TrialState.COMPLETE] * 3
    assert stored[1].params == {}
    assert stored[1].values == [record.finished()[trials[1].key].metrics[name] for name in spec.objectives]
