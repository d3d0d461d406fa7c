"""Records that earlier versions of the code wrote, with the tables made by the analysis of each version."""

import sqlite3
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

FIXTURES = Path(__file__).parent / "study" / "fixtures"
# A record's folder when it was packed, which its artifact addresses contain.
FORMER_ADDRESS = "file:///store"
# The larger records have two studies of seven trials each: a search; and one with controls, a separate head and
# repeated estimates. One is of an earlier protocol version, to be read; the other one is of today's, and can go on.
SEARCH, CONTROLS = "kept-search", "kept-controls"
READ, GOING_ON = "studies_of_protocol_4.tar.xz", "studies_of_protocol_5.tar.xz"
REESTIMATED = "532c92ad"
# The study in the records of earlier protocol versions, and the commit that made each: a grid of two trials on digits.
GRID = "kept"
COMMITS = {1: "60a08bef0058", 2: "f75bf0de2e52", 3: "d4d26f13c457", 4: "e2d3563d3687"}
GRID_SPEC = """
question: Is a record of this version still readable?
task: digits
replicates: 2
sampler: grid
space: {hidden_layers: 1, width: 8, aux_weight: [0, 2], target_depth: 1}
training: {epochs: 3}
rlct: {draws: 8, chains: 2, batch_size: 32}
"""


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


def unpack_kept_record(folder: Path, archive: str = READ) -> KeptRecord:
    """Unpack a record into a folder: mlflow.db, optuna.db, mlflow-artifacts/ and analysed/."""
    with tarfile.open(FIXTURES / archive) as file:
        file.extractall(folder, filter="data")
    address = folder.resolve().as_uri()
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (FORMER_ADDRESS, address))
    database.close()
    return KeptRecord(folder)
