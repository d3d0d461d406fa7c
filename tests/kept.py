"""A record that an earlier version of the code wrote, with the tables made by the analysis of that version."""

import sqlite3
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

ARCHIVE = Path(__file__).parent / "study" / "fixtures" / "record_of_protocol_4.tar.xz"
# The record's folder when it was packed, which its artifact addresses contain.
FORMER_ADDRESS = "file:///store"
# Two studies of seven trials: a search; and one with controls, a separate head and repeated estimates.
SEARCH, CONTROLS = "kept-search", "kept-controls"
REESTIMATED = "532c92ad"


@dataclass(frozen=True)
class KeptRecord:
    """The record in a folder."""

    folder: Path

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def table(self, study: str, name: str) -> pd.DataFrame:
        """A table made by the analysis of that version: trials, replicates, comparisons or fits."""
        # "none" is a value here, not a missing one.
        file = self.folder / "analysed" / study / f"{name}.csv"
        return pd.read_csv(file, keep_default_na=False, na_values=[""])


def unpack_kept_record(folder: Path) -> KeptRecord:
    """Unpack the record into a folder: mlflow.db, optuna.db, mlflow-artifacts/ and analysed/."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    address = folder.resolve().as_uri()
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (FORMER_ADDRESS, address))
    database.close()
    return KeptRecord(folder)
