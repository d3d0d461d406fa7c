"""The report of a study: made when it is missing or the record has changed, and on the study's run."""

from pathlib import Path

import pytest

from analysis.layout import Artifact
from study.engine.report import current_report
from study.errors import StudyError
from study.record.writer import RecordWriter
from tests.study.stores import fresh_stores
from tests.study.synthetic import falling, sweep_spec, write_study

COMMAND = "python -m analysis made-up"


@pytest.fixture
def record(tmp_path: Path) -> RecordWriter:
    return write_study(fresh_stores(tmp_path / "runs"), sweep_spec(), falling, tmp_path / "files")


def made(record: RecordWriter) -> float:
    """When the page was written last."""
    page, _ = current_report(record, record.finished(), COMMAND)
    return page.stat().st_mtime_ns


def attached(record: RecordWriter) -> bool:
    return record.has_copy(f"{Artifact.REPORT}/report.json", record.stores.report_folder("made-up") / "report.json")


def test_a_report_on_the_same_trials_is_not_made_again(record: RecordWriter) -> None:
    first = made(record)
    assert attached(record)
    assert made(record) == first


@pytest.mark.parametrize("lost", ["report.html", "trials.csv", "tradeoff.png"])
def test_a_report_that_has_lost_a_file_is_made_again(lost: str, record: RecordWriter) -> None:
    first = made(record)
    (record.stores.report_folder("made-up") / lost).unlink()
    assert made(record) > first
    assert (record.stores.report_folder("made-up") / lost).exists()


def test_a_report_that_something_else_has_written_over_is_made_again(record: RecordWriter) -> None:
    made(record)
    page = record.stores.report_folder("made-up") / "report.html"
    page.write_text("of another version")
    made(record)
    assert "of another version" not in page.read_text()


def test_a_report_that_could_not_be_attached_is_attached_the_next_time(
    record: RecordWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(folder: Path, name: str) -> None:
        raise StudyError("the server is gone")

    with monkeypatch.context() as patch:
        patch.setattr(record, "attach", gone)
        with pytest.raises(StudyError, match="the server is gone"):
            made(record)
    assert not attached(record)
    made(record)
    assert attached(record)
