"""The analysis of a study's record: tables, intervals, fitted curves, the Pareto front, figures, the report.

It reads only the MLflow record, and can remake everything that a person looks at::

    from analysis import read_record, read_records, write_report

    record = read_record("sqlite:///runs/mlflow.db", "quickstart")
    record.replicates  # a tidy table: one row per replicate
    read_records("sqlite:///runs/mlflow.db", ["mnist", "digits"])  # two studies as one

Reading order: layout, description (how a record is built, and what it says of itself); values, dimensions; table,
record, joined; sweeps, curves, fits, comparison, statistics; pareto, figures, text, report; freshness. Also
reestimates, calibration, traces.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from analysis.errors import AnalysisError

if TYPE_CHECKING:
    from analysis.joined import read_records
    from analysis.record import StudyRecord
    from analysis.report import Report, write_report
    from analysis.table import read_record

__all__ = ["AnalysisError", "Report", "StudyRecord", "read_record", "read_records", "write_report"]

# Imported on first use: their imports take seconds, and the layout of a record does not need them.
_MODULES = {
    "Report": "analysis.report",
    "StudyRecord": "analysis.record",
    "read_record": "analysis.table",
    "read_records": "analysis.joined",
    "write_report": "analysis.report",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
