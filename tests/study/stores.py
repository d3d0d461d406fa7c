"""Stores of a test with MLflow's tables in them: to make these takes more than a second."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from mlflow.tracking import MlflowClient

from analysis.locations import sqlite_url
from study.record.stores import Stores


def fresh_stores(folder: Path) -> Stores:
    """Stores under a folder, with a record that has no study yet."""
    folder.mkdir(parents=True, exist_ok=True)
    stores = Stores.under(folder)
    assert stores.tracking_file is not None
    shutil.copy(_empty_record(), stores.tracking_file)
    return stores


@cache
def _empty_record() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="empty-record-"))
    MlflowClient(sqlite_url(folder / "mlflow.db")).search_experiments()
    return folder / "mlflow.db"
