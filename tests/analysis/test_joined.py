"""Several studies of one store as one record."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from analysis import AnalysisError, read_record, read_records, write_report
from analysis.__main__ import main
from analysis.comparison import compare_with_baseline
from analysis.description import Caveat, Measure
from analysis.layout import Tag
from analysis.pages import LONGEST_NAME
from analysis.sweeps import find_sweeps
from study.record.stores import Stores
from tests.analysis.described import describe, description_with
from tests.analysis.open_space import every_field, sweep_of, write_trials
from tests.kept import CONTROLS, SEARCH, unpack_kept_record
from tests.study.stores import fresh_stores
from tests.study.synthetic import runs_of

WEIGHTS = (0.0, 1.0, 2.0, 5.0, 10.0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Studies of one store; `shared` has the first weights of `wide`."""
    stores = fresh_stores(tmp_path_factory.mktemp("store"))
    files = tmp_path_factory.mktemp("files")

    def level(config: Any, index: int) -> dict[str, float]:
        return {"rlct": 10 * config.training.learning_rate - config.self_model.aux_weight + 0.01 * index}

    write_trials(stores, "wide", sweep_of(WEIGHTS), files)
    write_trials(stores, "shared", sweep_of((*WEIGHTS[:2], 20.0)), files)
    write_trials(stores, "fast", sweep_of(WEIGHTS[:3], training={"learning_rate": 0.5}), files, level)
    write_trials(stores, "slow", sweep_of(WEIGHTS[:3], training={"learning_rate": 0.1}), files, level)
    write_trials(stores, "reseeded", sweep_of(WEIGHTS, seeds=(7, 8, 9)), files)
    client = MlflowClient(stores.tracking_uri)
    for run in runs_of(stores, "reseeded", "tags.level != 'study'"):
        # Seeds were once part of the keys.
        client.set_tag(run.info.run_id, Tag.TRIAL_KEY, f"older-{run.data.tags[Tag.TRIAL_KEY]}")
    write_trials(stores, "mnist", sweep_of(WEIGHTS, task="mnist"), files)
    write_trials(stores, "old-mnist", sweep_of(WEIGHTS, task="mnist"), files, described=False)
    write_trials(stores, "old", sweep_of(WEIGHTS[:3], training={"epochs": 7}), files, described=False)
    write_trials(stores, "other-data", sweep_of(WEIGHTS), files, digest="1" * 64)
    objectives = {"val_accuracy": "maximize", "weight_std": "maximize"}
    write_trials(stores, "other-way", sweep_of(WEIGHTS), files, objectives=objectives)
    write_trials(stores, "other-aim", sweep_of(WEIGHTS), files, objectives={"train_loss": "minimize"})
    return stores


def test_a_trial_of_two_studies_with_the_same_seeds_counts_once(stores: Stores) -> None:
    record = read_records(stores.tracking_uri, ["wide", "shared"])
    assert sorted(record.trials["aux_weight"]) == [*WEIGHTS, 20.0]
    assert set(record.trials["replicates"]) == {3}
    assert record.study == "wide+shared"
    assert "study" not in record.dimensions
    alone = read_record(stores.tracking_uri, "wide").trials.set_index("trial_key")
    both = record.trials.set_index("trial_key").loc[alone.index]
    pd.testing.assert_series_equal(both["rlct_se"], alone["rlct_se"])
    assert both["run_id"].tolist() == alone["run_id"].tolist()
    assert both["seconds"].tolist() == alone["seconds"].tolist()
    # The trial that only one study has is compared with the baseline that both have.
    assert 20.0 in compare_with_baseline(record)["aux_weight"].tolist()
    (sweep,) = find_sweeps(record)
    assert len(sweep.trials) == len(WEIGHTS) + 1


def test_a_trial_of_two_studies_with_different_seeds_has_the_replicates_of_both(stores: Stores, tmp_path: Path) -> None:
    client = MlflowClient(stores.tracking_uri)
    for name, seeds in (("few", (0, 1)), ("more", (1, 2, 3))):
        write_trials(stores, name, sweep_of((0.0,), seeds=seeds), tmp_path)
        for run in runs_of(stores, name, "tags.level != 'study'"):
            client.set_tag(run.info.run_id, Tag.TRIAL_KEY, "one-key")
            if name == "more" and run.data.tags[Tag.LEVEL] == "trial":
                client.set_tag(run.info.run_id, Tag.STATUS, "collapsed")
    record = read_records(stores.tracking_uri, ["few", "more"])
    assert sorted(record.replicates["seed"]) == [0, 1, 2, 3]
    (trial,) = record.trials.to_dict("records")
    assert trial["replicates"] == 4
    assert trial["rlct"] == pytest.approx(record.replicates["rlct"].mean())
    # The worse of both, and the seconds of both.
    assert (trial["status_detail"], trial["seconds"]) == ("collapsed", 6.0)
    assert len(record.source.trials) == 2


def test_settings_in_which_the_studies_differ_are_columns_and_part_the_baselines(stores: Stores) -> None:
    record = read_records(stores.tracking_uri, ["fast", "slow"])
    assert "learning_rate" in record.dimensions
    assert "study" not in record.dimensions
    table = compare_with_baseline(record).query("measure == 'rlct'")
    assert table["difference"].tolist() == pytest.approx((-table["aux_weight"]).tolist())
    labels = {"1×16, target 1, learning_rate 0.1", "1×16, target 1, learning_rate 0.5"}
    assert {sweep.label for sweep in find_sweeps(record)} == labels == set(table["trial"])


def test_the_study_is_a_column_if_trials_differ_in_nothing_else(stores: Stores) -> None:
    record = read_records(stores.tracking_uri, ["wide", "reseeded"])
    assert record.dimensions[-1] == "study"
    assert len(record.trials) == 2 * len(WEIGHTS)
    table = compare_with_baseline(record)
    assert set(table["pairs"]) == {3}
    assert set(table["trial"]) == {"1×16, target 1, study wide", "1×16, target 1, study reseeded"}
    for sweep in find_sweeps(record):
        assert sweep.trials["study"].nunique() == 1


@pytest.mark.parametrize("studies", [["wide", "mnist"], ["old", "old-mnist"]])
def test_each_task_has_baselines_and_sweeps_of_its_own(stores: Stores, studies: list[str]) -> None:
    record = read_records(stores.tracking_uri, studies)
    assert list(record.by_task()) == ["digits", "mnist"]
    for sweep in find_sweeps(record):
        assert sweep.trials["task"].nunique() == 1
    compared = compare_with_baseline(record)
    assert {name.split(",")[0] for name in compared["trial"]} == {"digits", "mnist"}


def test_older_and_newer_records_are_one(stores: Stores) -> None:
    for studies in (["old", "wide"], ["wide", "old"]):
        record = read_records(stores.tracking_uri, studies)
        assert record.description.lists_all_fields
        assert "epochs" in record.dimensions
        assert len(record.trials) == len(WEIGHTS) + 3
        assert len(find_sweeps(record)) == 2


def test_other_versions_of_the_code_are_told_apart(stores: Stores, tmp_path: Path) -> None:
    write_trials(stores, "later", sweep_of((0.0, 3.0)), tmp_path)
    (run,) = runs_of(stores, "later", "tags.level = 'study'")
    protocol = json.loads(run.data.tags[Tag.PROTOCOL]) | {"protocol_version": 99}
    client = MlflowClient(stores.tracking_uri)
    client.set_tag(run.info.run_id, Tag.PROTOCOL, json.dumps(protocol))
    for each in runs_of(stores, "later", "tags.level != 'study'"):
        client.set_tag(each.info.run_id, Tag.TRIAL_KEY, f"later-{each.data.tags[Tag.TRIAL_KEY]}")
    record = read_records(stores.tracking_uri, ["wide", "later"])
    assert "protocol_version" in record.dimensions
    # A baseline by other code is no baseline.
    (sweep,) = find_sweeps(record)
    assert sweep.trials["aux_weight"].tolist() == list(WEIGHTS)
    assert "protocol_version" not in read_records(stores.tracking_uri, ["wide", "fast"]).replicates


def test_objectives_are_those_that_all_share_with_their_direction(stores: Stores) -> None:
    record = read_records(stores.tracking_uri, ["wide", "other-way"])
    assert record.objectives == {"val_accuracy": "maximize"}
    with pytest.raises(AnalysisError, match=r"share no objective.*\n  other-way: .*\n  other-aim: minimize train_loss"):
        read_records(stores.tracking_uri, ["other-way", "other-aim"])


def test_measures_are_those_that_all_studies_have(stores: Stores, tmp_path: Path) -> None:
    write_trials(stores, "newer", sweep_of((3.0,)), tmp_path)
    added = Measure(name="late", label="late", unit="s", meaning="Late.")
    words = every_field()
    describe(stores, "newer", words.model_copy(update={"measures": description_with(added).measures}))
    for run in runs_of(stores, "newer", "tags.level = 'replicate'"):
        MlflowClient(stores.tracking_uri).log_metric(run.info.run_id, "late", 1.0)
    assert "late" in read_record(stores.tracking_uri, "newer").measures
    record = read_records(stores.tracking_uri, ["newer", "wide"])
    assert "late" not in record.measures
    assert "late" not in record.replicates
    assert "rlct" in record.measures


def test_studies_with_other_data_for_one_task_are_refused(stores: Stores) -> None:
    with pytest.raises(AnalysisError, match=r"different data for the task 'digits' \(wide: .*; other-data: "):
        read_records(stores.tracking_uri, ["wide", "other-data"])


def test_one_study_given_twice_is_that_study(stores: Stores) -> None:
    record = read_records(stores.tracking_uri, ["wide", "wide"])
    assert record.study == "wide"
    assert len(record.trials) == len(WEIGHTS)


def test_a_kept_record_is_joined_with_itself(tmp_path: Path) -> None:
    kept = unpack_kept_record(tmp_path)
    record = read_records(kept.tracking_uri, [SEARCH, CONTROLS])
    every = {key for name in (SEARCH, CONTROLS) for key in read_record(kept.tracking_uri, name).trials["trial_key"]}
    assert set(record.trials["trial_key"]) == every
    assert main([SEARCH, CONTROLS, "--store", str(tmp_path)]) == 0
    assert (tmp_path / "reports" / f"{SEARCH}+{CONTROLS}" / "report.html").exists()


def test_the_command_writes_one_report_on_all_studies(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wide", "mnist", "--store", str(stores.root)]) == 0
    folder = stores.root / "reports" / "wide+mnist"
    page = (folder / "report.html").read_text()
    assert "<h1>wide+mnist</h1>" in page
    assert "<h2>mnist: Pareto front</h2>" in page
    assert f"{2 * len(WEIGHTS)} trials" in capsys.readouterr().out


def test_a_folder_for_many_studies_has_a_bounded_name(stores: Stores, tmp_path: Path) -> None:
    names = [f"{'long' * 15}-{number}" for number in range(3)]
    for number, name in enumerate(names):
        write_trials(stores, name, sweep_of((float(number),)), tmp_path)
    assert main([*names, "--store", str(stores.root)]) == 0
    (folder,) = (stores.root / "reports").glob("long*")
    assert len(folder.name.encode()) <= LONGEST_NAME
    assert (folder / "report.html").exists()


@pytest.mark.parametrize("more", [[], ["--tracking-uri", "sqlite:////nowhere/mlflow.db"]])
def test_a_store_of_no_user_is_one_clear_error(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["made-up", "--store", "~nouser/x", *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: --store ~nouser/x: there is no such user's folder. Name another folder.\n"


def test_a_store_in_the_home_folder_has_its_reports_there(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(stores.root.parent))
    monkeypatch.chdir(tmp_path)
    assert main(["fast", "--store", f"~/{stores.root.name}"]) == 0
    assert (stores.root / "reports" / "fast" / "report.html").exists()
    assert list(tmp_path.iterdir()) == []


def test_the_caveats_of_all_studies_are_in_their_report(stores: Stores, tmp_path: Path) -> None:
    client = MlflowClient(stores.tracking_uri)
    for name, caveats in (("near", None), ("far", "not_local")):
        write_trials(stores, name, sweep_of((0.0, 1.0) if name == "near" else (1.0, 2.0)), tmp_path)
        if caveats is not None:
            caveat = Caveat(name=caveats, meaning="The chains went far.", advice="Read it so.")
            describe(stores, name, every_field().model_copy(update={"caveats": (caveat,)}))
        for run in runs_of(stores, name, "tags.level = 'trial'"):
            if caveats is not None:
                client.set_tag(run.info.run_id, Tag.CAVEATS, caveats)
    record = read_records(stores.tracking_uri, ["near", "far"])
    found = record.trials.set_index("aux_weight")[Tag.CAVEATS.value]
    assert found.isna().to_dict() == {0.0: True, 1.0: True, 2.0: False}
    report = write_report(record, tmp_path / "report", "python -m analysis near far").page.read_text()
    assert "not_local (1 of 3 trials): The chains went far. Read it so." in report
    assert Tag.CAVEATS.value not in read_records(stores.tracking_uri, ["wide", "shared"]).trials
