"""Trials that end while the record cannot be written: on the disk, and later in the record; databases that are gone."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from study.engine.budget import Account
from study.engine.growth import Growth, MergeError, growth_of
from study.engine.ledger import GrowthLedger, SearchLedger
from study.errors import StudyError
from study.record.lease import LeaseLostError
from study.record.outbox import EndedEstimate, EndedTrial, EstimateEntry, Former, Outbox, TrialEntry
from study.record.outcome import EstimateOutcome, Progress, RlctOutcome
from study.record.recorder import Patience, Recorder
from study.record.usage import Allotment, Machine, Usage
from study.record.writer import RecordWriter
from study.search.search import WAIT, Search, Suggestion
from study.search.store import opened_storage
from study.search.view import lacking, view_of
from study.spec.budget import BudgetConfig
from tests.study.memory import MemoryRecord
from tests.study.searching import ask_for_one
from tests.study.stores import fresh_stores
from tests.study.synthetic import DIGEST, falling, make_outcome, runs_of, sweep_spec, write_study, write_trials
from tests.study.test_runners import Heard
from trainables.trial import TrialConfig

SPEC = sweep_spec(weights=(0, 1), replicates=2)
CONFIG, OTHER = SPEC.listed()
KEY = CONFIG.key(DIGEST)
SETTINGS = CONFIG.rlct
ESTIMATED = EstimateOutcome(
    RlctOutcome([[1.0, 2.0], [3.0, 4.0]], [0.1, 1 / 3], 8.0, ["sound", "sound"], ["", ""], {"gradient": [0.1, 0.2]}),
    seconds=1.5,
    device="cpu",
    host="here",
)
ALLOTMENT = Allotment(2, 0)
ACCOUNT = Account(BudgetConfig(), ALLOTMENT)
NODE = ALLOTMENT.on(Machine(8, 0, "small"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The files of a trial of two epochs with two replicates."""
    folder = tmp_path / "files"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "weights.safetensors").write_bytes(bytes(range(256)))
    columns = {"epoch": [1, 1, 2, 2], "replicate": [0, 1, 0, 1], "seed": [0, 1, 0, 1]}
    measures = {"train_loss": [0.1, 0.3, 1 / 3, 0.2], "epochs_trained": [1.0, 1.0, 2.0, 2.0]}
    pd.DataFrame(columns | measures).to_parquet(folder / "history.parquet", index=False)
    return folder


@pytest.fixture
def record(tmp_path: Path) -> RecordWriter:
    record = RecordWriter(fresh_stores(tmp_path / "store"), SPEC.name)
    record.begin()
    record.open_study(SPEC, DIGEST)
    return record


def away(record: RecordWriter) -> Callable[[], None]:
    """Take the record's database away; calling the result brings it back."""
    file = record.stores.tracking_file
    assert file is not None
    record._file = record._identity()
    file.rename(file.with_name("hidden"))

    def back() -> None:
        if not file.exists():
            file.with_name("hidden").rename(file)

    return back


def fail_at(at: int, record: RecordWriter, monkeypatch: pytest.MonkeyPatch, arrives: bool = False) -> list[str]:
    """Make the nth call that writes to the record fail; the names of those that were made follow in the list.

    If it `arrives`, it has written, and its answer is lost.
    """
    calls: list[str] = []

    def failing(name: str) -> Callable[..., Any]:
        write = getattr(record._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == at and arrives:
                write(*arguments, **options)
            if len(calls) == at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*arguments, **options)

        return call

    for name in ("create_run", "log_batch", "log_artifacts", "set_terminated"):
        monkeypatch.setattr(record._client, name, failing(name))
    return calls


def recorder_of(record: RecordWriter, said: list[str] | None = None, **patience: float) -> Recorder:
    tell = (lambda text: None) if said is None else said.append
    return Recorder(record, tell, Patience(**{"between_tries": 0.0, "at_end": 0.3} | patience))


def ledger_of(recorder: Recorder) -> SearchLedger:
    search = Search(SPEC, DIGEST, InMemoryStorage(), SPEC.listed(), record=recorder.record.run_id)
    return SearchLedger(recorder, search, Heard(), ACCOUNT, limit=2)


def run_of(record: RecordWriter, config: TrialConfig = CONFIG) -> Any:
    (run,) = runs_of(record.stores, SPEC.name, f"tags.level = 'trial' and tags.trial_key = '{config.key(DIGEST)}'")
    return run


def test_an_entry_is_read_as_it_was_put(tmp_path: Path, files: Path) -> None:
    outbox = Outbox(tmp_path / "outbox" / "study")
    former = Former("run", 4, Usage(2, 1 / 3, 0.0, {"": 0.1}))
    allotment = Allotment(2, 0.5, "small", 1 / 3)
    trial = EndedTrial("key", "a name", CONFIG, "abc", 1, 2, place=3, supersedes=former, allotment=allotment)
    outcome = make_outcome(CONFIG, lambda *_: {"rlct": float("nan"), "train_loss": 1 / 3})
    folder = outbox.put(trial, outcome, files)
    (entry,), damaged = Outbox(outbox.folder).entries()
    assert damaged == []
    assert isinstance(entry, TrialEntry)
    assert (entry.folder, entry.trial) == (folder, trial)
    assert entry.outcome().to_json() == outcome.to_json()
    assert [epoch["train_loss"] for epoch in entry.epochs()] == [[0.1, 0.3], [1 / 3, 0.2]]
    assert (entry.files / "checkpoint" / "weights.safetensors").read_bytes() == bytes(range(256))
    outbox.remove(entry)
    assert not outbox.folder.parent.exists(), "an empty outbox leaves no folder"


def test_an_estimate_is_read_as_it_was_put(tmp_path: Path, files: Path) -> None:
    outbox = Outbox(tmp_path / "outbox" / "study")
    estimate = EndedEstimate("key", "run", SETTINGS, {"git_commit": "abc"}, ended=3)
    folder = outbox.put(estimate, ESTIMATED, files)
    (entry,), damaged = Outbox(outbox.folder).entries()
    assert damaged == []
    assert isinstance(entry, EstimateEntry)
    assert (entry.folder, entry.estimate, entry.outcome()) == (folder, estimate, ESTIMATED)
    assert (entry.files / "history.parquet").read_bytes() == (files / "history.parquet").read_bytes()


@pytest.mark.parametrize("arrives", [False, True])
@pytest.mark.parametrize("at", range(1, 6))
def test_an_estimate_whose_writing_is_cut_short_anywhere_is_in_the_record_once_in_the_end(
    at: int, arrives: bool, record: RecordWriter, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.start_trial(KEY, CONFIG)
    record.finish_trial(KEY, CONFIG, make_outcome(CONFIG, falling), files)
    estimate = record.ended_estimate(KEY, record.finished()[KEY], SETTINGS)
    recorder = recorder_of(record)
    calls = fail_at(at, record, monkeypatch, arrives)
    recorder.estimate(estimate, ESTIMATED, files)
    assert len(record.outbox) == (at <= 4), "four calls write it"
    recorder.catch_up()
    assert len(calls) >= 4
    assert not record.outbox.folder.exists()
    (run,) = runs_of(record.stores, SPEC.name, "tags.level = 'estimate'")
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", estimate.ended, estimate.ended)
    assert run.data.metrics["rlct"] == 2.5
    assert run.data.tags["trial_key"] == KEY
    assert record.estimated() == {(KEY, SETTINGS.key())}


def test_an_estimate_whose_trial_the_record_no_longer_has_is_set_aside_and_the_others_are_recorded(
    record: RecordWriter, files: Path
) -> None:
    keys = [config.key(DIGEST) for config in (CONFIG, OTHER)]
    for key, config in zip(keys, (CONFIG, OTHER), strict=True):
        record.start_trial(key, config)
        record.finish_trial(key, config, make_outcome(config, falling), files)
    finished = record.finished()
    gone = record.ended_estimate("gone", finished[KEY], SETTINGS)
    for estimate in (
        replace(gone, run_id="0" * 32),  # as in a record that was made anew
        replace(gone, run_id=finished[KEY].run_id),
        record.ended_estimate(keys[1], finished[keys[1]], SETTINGS),
    ):
        record.outbox.put(estimate, ESTIMATED, files)
    record._delete_trial(finished[KEY].run_id)
    said: list[str] = []
    record.empty_outbox(said.append)
    assert ["set aside" in text for text in said] == [True, True, False]
    assert said[-1].startswith("1 result(s) that had waited")
    assert len(list(record.outbox.folder.glob("gone-*.damaged"))) == 2
    assert record.estimated() == {(keys[1], SETTINGS.key())}
    said.clear()
    record.empty_outbox(said.append)
    assert said == []


@pytest.mark.parametrize("file", ["manifest.json", "outcome.json", "files/history.parquet"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_entry_is_set_aside_and_named_and_the_others_are_recorded(
    file: str, damage: str, record: RecordWriter, files: Path
) -> None:
    recorder = recorder_of(record)
    back = away(record)
    for config in (CONFIG, OTHER):
        recorder.start(config.key(DIGEST), config)
        recorder.finish(config.key(DIGEST), make_outcome(config, falling), files)
    (entry, _), _ = record.outbox.entries()
    hurt = entry.folder / file
    content = hurt.read_bytes()
    if damage == "missing":
        hurt.unlink()
    else:
        hurt.write_bytes(content[:-1] if damage == "cut" else content[:40] + b"7" + content[41:])
    back()
    said: list[str] = []
    record.empty_outbox(said.append)
    assert str(entry.folder) + ".damaged" in said[0]
    assert Path(file).name in said[0]
    assert [trial.config for trial in record.finished().values()] == [OTHER]
    assert (entry.folder.parent / f"{entry.folder.name}.damaged").is_dir(), "it is kept"
    assert len(record.outbox) == 0


def test_a_trial_that_ended_without_the_record_has_the_run_that_it_would_have_had(
    record: RecordWriter, files: Path, tmp_path: Path
) -> None:
    undisturbed = RecordWriter(fresh_stores(tmp_path / "other"), SPEC.name)
    undisturbed.begin()
    undisturbed.open_study(SPEC, DIGEST)
    outcome = make_outcome(CONFIG, falling)
    epochs = [
        {"train_loss": [0.1, 0.3], "epochs_trained": [1.0] * 2},
        {"train_loss": [1 / 3, 0.2], "epochs_trained": [2.0] * 2},
    ]
    for each in (record, undisturbed):
        recorder = recorder_of(each)
        recorder.start(KEY, CONFIG, place=4, allotment=ALLOTMENT)
        recorder.place(KEY, NODE)
        recorder.log_epochs(KEY, 1, epochs[:1])
        back = away(each) if each is record else lambda: None
        recorder.log_epochs(KEY, 2, epochs[1:])
        assert recorder.finish(KEY, outcome, files) is (each is undisturbed)
        back()
        recorder.catch_up()
    found, expected = run_of(record), run_of(undisturbed)
    assert found.info.status == "FINISHED"
    assert (found.data.metrics, found.data.params) == (expected.data.metrics, expected.data.params)
    tags = {name: value for name, value in found.data.tags.items() if name != "mlflow.parentRunId"}
    assert tags == {name: value for name, value in expected.data.tags.items() if name != "mlflow.parentRunId"}
    steps = [
        (metric.step, metric.value)
        for metric in MlflowClient(record.stores.tracking_uri).get_metric_history(found.info.run_id, "train_loss")
    ]
    assert steps[:2] == [(1, 0.2), (2, (1 / 3 + 0.2) / 2)]
    replicates = runs_of(record.stores, SPEC.name, "tags.level = 'replicate'")
    assert len(replicates) == 2


@pytest.mark.parametrize("since", ["before it began", "before it was placed", "its end"])
def test_a_trial_that_ended_without_the_record_has_used_what_it_had_and_what_the_runs_had_that_it_replaces(
    since: str, record: RecordWriter, files: Path
) -> None:
    recorder, fewer = recorder_of(record), CONFIG.model_copy(update={"seeds": CONFIG.seeds[:1]})
    recorder.start(KEY, fewer, allotment=ALLOTMENT)
    recorder.finish(KEY, make_outcome(fewer, falling), files)
    earlier = record.finished()[KEY]
    assert earlier.used.trials == 1
    back = away(record) if since == "before it began" else lambda: None
    recorder.start(KEY, CONFIG, supersedes=earlier, allotment=ALLOTMENT)
    back = away(record) if since == "before it was placed" else back
    recorder.place(KEY, NODE)
    back = away(record) if since == "its end" else back
    recorder.finish(KEY, make_outcome(CONFIG, falling), files)
    assert len(record.outbox) == 1
    back()
    recorder.catch_up()
    (trial,) = record.trials()
    assert trial.allotment == NODE
    info = run_of(record).info
    assert trial.used == NODE.used((info.end_time - info.start_time) / 1000) + earlier.used


def test_what_an_earlier_try_has_used_stays_in_the_record_though_its_worker_died_without_it(
    record: RecordWriter, files: Path
) -> None:
    recorder = recorder_of(record)
    recorder.start(KEY, CONFIG, allotment=ALLOTMENT)
    time.sleep(0.05)
    back = away(record)
    recorder.interrupt(KEY)
    recorder.start(KEY, CONFIG, allotment=ALLOTMENT)
    recorder.finish(KEY, make_outcome(CONFIG, falling), files)
    back()
    recorder.catch_up()
    (trial,) = record.trials()
    assert trial.state == "FINISHED"
    assert trial.used.trials == 2
    info = run_of(record).info
    assert trial.used.cpu_hours > ALLOTMENT.used((info.end_time - info.start_time) / 1000).cpu_hours


def test_a_run_whose_worker_died_without_the_record_is_closed_when_that_is_back(
    record: RecordWriter, files: Path
) -> None:
    recorder = recorder_of(record)
    recorder.start(KEY, CONFIG)
    back = away(record)
    recorder.interrupt(KEY)
    back()
    assert recorder.is_back()
    recorder.start(KEY, CONFIG)
    assert sorted(trial.state for trial in record.trials()) == ["KILLED", "RUNNING"]
    recorder.finish(KEY, make_outcome(CONFIG, falling), files)
    (trial,) = record.trials()
    assert (trial.state, trial.used.trials) == ("FINISHED", 2)


def test_a_grown_trial_whose_record_was_lost_is_put_into_a_new_one(record: RecordWriter, files: Path) -> None:
    lost = Former("0" * 32, 4, Usage(1, 0.5))
    record.outbox.put(record.ended_trial(KEY, CONFIG, supersedes=lost), make_outcome(CONFIG, falling), files)
    record.empty_outbox()
    (trial,) = record.finished().values()
    assert trial.seeds == CONFIG.seeds
    assert trial.used.cpu_hours >= 0.5, "with what its earlier run had used"
    assert len(record.outbox) == 0


def test_a_failed_trial_is_recorded_as_failed_later(record: RecordWriter) -> None:
    recorder = recorder_of(record)
    back = away(record)
    assert recorder.start(KEY, CONFIG) is None
    assert recorder.fail(KEY, "Traceback\nno memory left", "there") is False
    back()
    recorder.catch_up()
    run = run_of(record)
    assert (run.info.status, run.data.tags["reason"], run.data.tags["host"]) == ("FAILED", "no memory left", "there")


def test_a_trial_that_the_record_has_is_not_recorded_twice(record: RecordWriter, files: Path) -> None:
    recorder = recorder_of(record)
    recorder.start(KEY, CONFIG)
    recorder.finish(KEY, make_outcome(CONFIG, falling), files)
    before = run_of(record).info
    record.outbox.put(record.ended_trial(KEY, CONFIG), make_outcome(CONFIG, falling), files)
    record.empty_outbox()
    assert run_of(record).info.run_id == before.run_id
    assert len(record.outbox) == 0


@pytest.mark.parametrize("at", range(1, 9))
def test_a_delivery_that_is_cut_short_anywhere_leaves_one_run_in_the_end(
    at: int, record: RecordWriter, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recorder_of(record)
    back = away(record)
    recorder.start(KEY, CONFIG)
    recorder.finish(KEY, make_outcome(CONFIG, falling), files)
    back()
    calls = fail_at(at, record, monkeypatch)
    if at % 2:
        recorder.catch_up()
    else:
        with pytest.raises(StudyError, match="No space left"):
            record.empty_outbox()
        # The next driver.
        record = RecordWriter(record.stores, SPEC.name)
        record.empty_outbox()
    assert len(calls) >= at
    run = run_of(record)
    assert run.info.status == "FINISHED"
    assert len(runs_of(record.stores, SPEC.name, "tags.level = 'replicate'")) == 2
    assert record.finished()[KEY].metrics["rlct"] == run.data.metrics["rlct"]


def test_the_user_is_told_once_that_the_record_is_away_and_once_that_it_is_back(
    record: RecordWriter, files: Path
) -> None:
    said: list[str] = []
    recorder = recorder_of(record, said)
    back = away(record)
    recorder.start(KEY, CONFIG)
    for epoch in (1, 2):
        recorder.log_epochs(KEY, epoch, [{"train_loss": [0.1, 0.2]}])
    recorder.finish(KEY, make_outcome(CONFIG, falling), files)
    assert len(said) == 1
    assert "is away" in said[0]
    assert str(record.outbox.folder) in said[0]
    back()
    recorder.catch_up()
    assert said[1:] == [
        "1 result(s) that had waited for the record are in it now; none was computed again.",
        "The MLflow record is back.",
    ]


def test_a_record_that_stays_away_ends_the_study_with_where_the_results_are(record: RecordWriter, files: Path) -> None:
    recorder = recorder_of(record, while_running=0.0)
    away(record)
    recorder.start(KEY, CONFIG)
    assert recorder.gives_up, "no other trial begins"
    recorder.finish(KEY, make_outcome(CONFIG, falling), files)
    with pytest.raises(
        StudyError,
        match=r"was deleted or exchanged.* 1 result\(s\) wait in .*/outbox/made-up;.* same command",
    ):
        recorder.catch_up()
    assert len(record.outbox) == 1


def test_a_study_whose_record_was_away_for_too_long_says_so_when_it_is_back(record: RecordWriter, files: Path) -> None:
    recorder = recorder_of(record, while_running=0.0)
    ledger = ledger_of(recorder)
    trial = ledger.next()
    assert isinstance(trial, Suggestion)
    back = away(record)
    ledger.start(trial)
    ledger.finish(trial, make_outcome(trial.config, falling), files)
    assert ledger.next() is None, "another one is left"
    back()
    with pytest.raises(StudyError, match=r"away for so long .* the same command does the rest"):
        ledger.close()
    assert list(record.finished()) == [trial.key]


def test_while_the_record_is_away_no_trial_grows_before_those_that_run_have_ended(
    record: RecordWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_trials(record, sweep_spec(weights=(0, 1, 2), replicates=1), falling, tmp_path / "earlier")
    growing = [growth for key, trial in record.finished().items() if (growth := growth_of(key, trial, (0, 1)))]

    def fetch(growth: Growth, *rest: Any) -> None:
        if growth is growing[0]:
            raise MergeError("its files are gone")

    monkeypatch.setattr("study.engine.ledger.fetch_earlier", fetch)
    (tmp_path / "growing").mkdir()
    ledger = GrowthLedger(recorder_of(record, at_end=60), growing, Heard(), ACCOUNT, tmp_path / "growing")
    assert ledger.next() is growing[1], "the first one has failed"
    ledger.start(growing[1])
    away(record)
    ledger.advance(growing[1], Progress("rlct 1/10", [], "here"))
    assert ledger.next() is WAIT, "it must not wait for the record itself: a trial runs"


def test_a_result_is_kept_on_another_disk_where_that_of_the_store_is_full(
    record: RecordWriter, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree
    full = [record.outbox.folder]

    def copytree(source: Path, target: Path, *rest: Any, **options: Any) -> Path:
        if any(Path(target).is_relative_to(folder) for folder in full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return copy(source, target, *rest, **options)

    monkeypatch.setattr(shutil, "copytree", copytree)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    recorder = recorder_of(record)
    back = away(record)
    recorder.start(KEY, CONFIG)
    recorder.finish(KEY, make_outcome(CONFIG, falling), files)
    with pytest.raises(StudyError, match=rf"wait in {elsewhere}/.*\(move them to {record.outbox.folder} first\)"):
        recorder.catch_up()
    back()
    recorder.catch_up()
    assert run_of(record).info.status == "FINISHED"
    full.append(elsewhere)
    away(record)
    recorder.start(OTHER.key(DIGEST), OTHER)
    with pytest.raises(StudyError, match=r"can be written neither to the record nor to .*No space left.*Make room"):
        recorder.finish(OTHER.key(DIGEST), make_outcome(OTHER, falling), files)


def test_a_driver_that_was_taken_over_keeps_its_result_and_stops(
    record: RecordWriter, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recorder_of(record)
    with record.held() as lease:
        recorder.start(KEY, CONFIG)
        monkeypatch.setattr(lease, "_lost", "taken over")
        with pytest.raises(LeaseLostError, match="taken over"):
            recorder.finish(KEY, make_outcome(CONFIG, falling), files)
    assert len(record.outbox) == 1


def test_who_holds_a_study_next_puts_what_waits_into_the_record(record: RecordWriter, files: Path) -> None:
    record.outbox.put(record.ended_trial(KEY, CONFIG), make_outcome(CONFIG, falling), files)
    again = RecordWriter(record.stores, SPEC.name)
    with again.held():
        assert list(again.finished()) == [KEY]


@pytest.mark.parametrize("size", [0, 50, 5000])
def test_a_record_that_is_cut_off_is_one_error_and_is_not_replaced(size: int, tmp_path: Path) -> None:
    stores = fresh_stores(tmp_path / "store")
    write_study(stores, SPEC, falling, tmp_path / "files")
    file = stores.root / "mlflow.db"
    os.truncate(file, size)
    before = file.read_bytes()
    with pytest.raises(
        StudyError, match=rf"the record {file} is (damaged|missing or empty).*backup.*Nothing was changed"
    ):
        RecordWriter(stores, SPEC.name)
    assert file.read_bytes() == before


def test_a_record_that_was_deleted_or_exchanged_beside_files_of_the_study_is_one_error(tmp_path: Path) -> None:
    stores = fresh_stores(tmp_path / "store")
    write_study(stores, SPEC, falling, tmp_path / "files")
    file = stores.root / "mlflow.db"
    file.unlink()
    with pytest.raises(
        StudyError, match=r"is missing or empty, but there are files of .* in .*mlflow-artifacts/made-up"
    ):
        RecordWriter(stores, SPEC.name)
    assert not file.exists(), "no empty record takes its place"
    other = sweep_spec(name="another", weights=(0,), replicates=1)
    write_study(fresh_stores(tmp_path / "new"), other, falling, tmp_path / "files")
    (tmp_path / "new" / "mlflow.db").rename(file)
    with pytest.raises(StudyError, match=r"has no such study, but there are files of"):
        RecordWriter(stores, SPEC.name)


@pytest.mark.parametrize("away", ["optuna", "record"])
def test_a_search_goes_on_while_optuna_or_the_record_is_away_and_the_stored_study_is_brought_in_line(
    away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise StorageInternalError("the server closed the connection")

    storage, record = InMemoryStorage(), MemoryRecord()
    search = Search(SPEC, DIGEST, storage, SPEC.listed(), record="run")
    for number in range(2):
        suggestion = ask_for_one(search)
        assert suggestion is not None
        is_away = number == 0
        with monkeypatch.context() as patch:
            if is_away and away == "optuna":
                patch.setattr(storage, "create_new_trial", refuse)
            run = record.start_trial(suggestion.key, suggestion.config, suggestion.place)
            search.start(suggestion, None if is_away and away == "record" else run)
            outcome = make_outcome(suggestion.config, falling)
            record.finish_trial(suggestion.key, outcome)
            search.tell(suggestion, outcome, recorded=not is_away or away == "optuna")
            assert search.is_behind
    assert (search.trouble is not None) == (away == "optuna")
    search.catch_up(record.finished(), record.trials())
    assert not search.is_behind
    stored = optuna.load_study(study_name=SPEC.name, storage=storage).trials
    assert lacking(stored, view_of(SPEC, record.finished(), record.trials())) == []
    assert [trial.state for trial in stored] == [TrialState.COMPLETE] * 2


def test_an_optuna_file_that_is_cut_off_says_that_it_can_be_made_anew(tmp_path: Path) -> None:
    stores = fresh_stores(tmp_path)
    with opened_storage(stores.optuna_url):
        pass
    os.truncate(tmp_path / "optuna.db", 5000)
    with (
        pytest.raises(StudyError, match=r"optuna.db is damaged: it ends after 5,000 bytes, too soon.* delete it"),
        opened_storage(stores.optuna_url),
    ):
        pass
