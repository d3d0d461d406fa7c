"""From the record to knowledge: tables, intervals, fitted curves, the Pareto front, figures, the report.

Reads the MLflow record and nothing else; everything a person looks at can be made again from it::

    from analysis import read_record, write_report

    record = read_record("sqlite:///runs/mlflow.db", "quickstart")
    record.replicates  # a tidy table: one row per replicate

Reading order: table, estimates, statistics, scaling, pareto, figures, report; calibration beside them.
"""

from analysis.errors import AnalysisError
from analysis.report import Report, write_report
from analysis.table import StudyRecord, read_record

__all__ = ["AnalysisError", "Report", "StudyRecord", "read_record", "write_report"]
