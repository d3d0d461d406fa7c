"""The report of a study: made again only if the record or the analysis has changed."""

from collections.abc import Mapping
from pathlib import Path

from analysis.errors import AnalysisError
from analysis.freshness import NOTE, PAGE, ReportSource, Summary, read_summary, report_is_current
from analysis.layout import Artifact
from study.errors import StudyError
from study.record.reader import FinishedTrial
from study.record.writer import RecordWriter


def current_report(record: RecordWriter, finished: Mapping[str, FinishedTrial], command: str) -> tuple[Path, Summary]:
    """The page and the summary of a report on these finished trials.

    `command` makes the report again; the page names it.

    Raises:
        StudyError: the record cannot be read, or the report cannot be written.
    """
    folder = record.stores.report_folder(record.study)
    trials = {trial.run_id: trial.ended for trial in finished.values()}
    source = ReportSource(trials, record.objectives(), record.question())
    if report_is_current(folder, source) and (summary := read_summary(folder)) is not None:
        # It may have been made by the analysis alone, or a driver may have died before it was attached.
        if not record.has_copy(f"{Artifact.REPORT}/{NOTE}", folder / NOTE):
            record.attach(folder, Artifact.REPORT)
        return folder / PAGE, summary
    # pandas, matplotlib and Optuna take seconds to import.
    from analysis import read_record, write_report

    try:
        report = write_report(read_record(record.stores.tracking_uri, record.study), folder, command)
    except AnalysisError as error:
        raise StudyError(f"{error} The trials are safe in the record; analyse them again with: {command}") from error
    record.attach(report.folder, Artifact.REPORT)
    return report.page, report.summary
