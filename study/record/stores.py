"""The locations of a study's stores: one folder by default, separate URIs on a cluster."""

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from study.errors import StudyError


@dataclass(frozen=True)
class Stores:
    """Locations of the stores. Local ones lie under `root`: mlflow.db, mlflow-artifacts/, optuna.db, ray/, reports/."""

    root: Path
    tracking_uri: str
    optuna_url: str
    ray_uri: str

    @classmethod
    def under(
        cls, root: Path, tracking_uri: str | None = None, optuna_url: str | None = None, ray_uri: str | None = None
    ) -> "Stores":
        """All stores under one folder, except those given a separate URI."""
        root = root.expanduser().resolve()
        return cls(
            root=root,
            tracking_uri=tracking_uri or f"sqlite:///{root / 'mlflow.db'}",
            optuna_url=optuna_url or f"sqlite:///{root / 'optuna.db'}",
            # Ray takes a URI or an absolute path.
            ray_uri=(ray_uri if "://" in ray_uri else str(Path(ray_uri).expanduser().resolve()))
            if ray_uri
            else str(root / "ray"),
        )

    @property
    def tracking_is_local(self) -> bool:
        return self.tracking_uri == f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def is_empty(self) -> bool:
        """Whether no study has been tracked here yet."""
        return self.tracking_is_local and not (self.root / "mlflow.db").exists()

    def may_have(self, study: str) -> bool:
        """False if the record is local and has no such study, found without MLflow, which is slow to import."""
        if not self.tracking_is_local:
            return True
        file = self.root / "mlflow.db"
        if not file.exists():
            return False
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
                found = database.execute("select 1 from experiments where name = ?", (study,)).fetchone()
        except sqlite3.Error:
            # MLflow will explain what is wrong with the database.
            return True
        return found is not None

    @property
    def artifacts(self) -> Path:
        return self.root / "mlflow-artifacts"

    def report_folder(self, study: str) -> Path:
        return self.root / "reports" / study

    def log_file(self, study: str) -> Path:
        """The log of Ray's output on the driver."""
        return self.root / "ray" / study / "ray.log"

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            StudyError: the folder cannot be created or written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(
                f"--store {self.root}: cannot be created: {error.strerror}. Name another folder."
            ) from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise StudyError(f"--store {self.root}: is not writable. Make it writable, or name another folder.")
