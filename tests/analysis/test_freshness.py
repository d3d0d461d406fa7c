"""A report names its source, so that whether it is current is known without making it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from analysis import AnalysisError, StudyRecord, read_record, write_report
from analysis.freshness import ReportSource, Summary, read_summary, report_is_current
from study.record.stores import Stores
from tests.study.stores import fresh_stores
from tests.study.synthetic import falling, runs_of, sweep_spec, write_study


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    stores = fresh_stores(tmp_path_factory.mktemp("store"))
    write_study(stores, sweep_spec(weights=(0, 1, 2), replicates=2), falling, tmp_path_factory.mktemp("files"))
    return stores


@pytest.fixture(scope="module")
def record(stores: Stores) -> StudyRecord:
    return read_record(stores.tracking_uri, "made-up")


@pytest.fixture(scope="module")
def folder(record: StudyRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(record, tmp_path_factory.mktemp("report"), "command").folder


def source_of(stores: Stores) -> ReportSource:
    """The source of a report, from a search for finished trials."""
    runs = runs_of(stores, "made-up", "tags.level = 'trial' and attributes.status = 'FINISHED'")
    ends = {run.info.run_id: run.info.end_time for run in runs}
    return ReportSource(ends, {str(name): way for name, way in sweep_spec().objectives.items()}, "Is it so?")


def test_a_report_is_current_until_something_that_it_was_made_from_changes(stores: Stores, folder: Path) -> None:
    source = source_of(stores)
    assert len(source.trials) == 3
    assert report_is_current(folder, source)
    run_id, end = next(iter(source.trials.items()))
    others = {key: value for key, value in source.trials.items() if key != run_id}
    objectives = dict(source.objectives)
    for changed in (
        replace(source, trials=others),
        replace(source, trials=others | {run_id: end + 1}),
        replace(source, trials=dict(source.trials) | {"another": end}),
        replace(source, objectives=objectives | {"rlct": "maximize"}),
        replace(source, objectives=dict(reversed(objectives.items()))),
        replace(source, question="Is it not so?"),
        replace(source, rlct="0123abcd"),
    ):
        assert not report_is_current(folder, changed)
    assert report_is_current(folder, replace(source, trials=dict(reversed(list(source.trials.items())))))


def test_a_report_by_other_code_is_not_current(stores: Stores, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.freshness.code_digest", lambda: "f" * 64)
    assert not report_is_current(folder, source_of(stores))


def test_the_summary_is_there_to_be_printed_again(record: StudyRecord, folder: Path, tmp_path: Path) -> None:
    summary = read_summary(folder)
    assert summary is not None
    assert summary == write_report(record, tmp_path, "command").summary
    assert (summary.trials, summary.networks) == (3, 6)
    assert list(summary.front[0]) == [
        "network",
        "aux_weight",
        "target",
        "val_accuracy",
        "weight_std",
        "rlct",
        "rlct_verdict",
    ]
    assert summary.front[0]["network"] == "1×16"


def test_a_folder_without_a_whole_report_is_not_current(
    stores: Stores, record: StudyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(stores)
    assert not report_is_current(tmp_path, source)
    assert read_summary(tmp_path) is None
    report = write_report(record, tmp_path, "command")
    assert report_is_current(tmp_path, source)

    def no_space(*arguments: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("analysis.report.save_figure", no_space)
        with pytest.raises(AnalysisError, match=r"cannot be written to .*: No space left on device"):
            write_report(record, tmp_path, "command")
    assert report.page.exists()
    assert not report_is_current(tmp_path, source)
    write_report(record, tmp_path, "command")
    report.page.unlink()
    assert not report_is_current(tmp_path, source)


@pytest.mark.parametrize("note", ["", "[]", '{"source": 3}', "no JSON"])
def test_a_damaged_note_is_no_report(stores: Stores, folder: Path, tmp_path: Path, note: str) -> None:
    (tmp_path / "report.html").write_text("a page")
    (tmp_path / "report.json").write_text(note)
    assert not report_is_current(tmp_path, source_of(stores))
    assert read_summary(tmp_path) is None


def test_a_trial_that_ended_since_makes_the_report_old(stores: Stores, folder: Path, tmp_path: Path) -> None:
    spec = sweep_spec(name="growing", weights=(0, 1), replicates=2)
    write_study(stores, spec, falling, tmp_path / "files")
    record = read_record(stores.tracking_uri, "growing")
    report = write_report(record, tmp_path / "report", "command")
    assert report_is_current(report.folder, record.source)
    client = MlflowClient(stores.tracking_uri)
    client.set_terminated(
        record.trials["run_id"][0], "FINISHED", end_time=record.source.trials[record.trials["run_id"][0]] + 5
    )
    assert not report_is_current(report.folder, read_record(stores.tracking_uri, "growing").source)


def test_checking_a_report_imports_no_slow_package(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from analysis.freshness import ReportSource, report_is_current;"
        "print(report_is_current(Path(sys.argv[1]), ReportSource({}, {}, '')));"
        "print(sorted({'pandas', 'numpy', 'mlflow', 'optuna', 'matplotlib', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False", "[]"]


def test_the_note_is_small(folder: Path) -> None:
    note = json.loads((folder / "report.json").read_text())
    assert set(note) == {"source", "summary", "sizes"}
    assert Summary(**note["summary"]) == read_summary(folder)
