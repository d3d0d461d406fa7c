"""Where things lie: one folder by default, a URI for each on a cluster."""

import os
from dataclasses import dataclass
from pathlib import Path

from study.errors import StudyError


@dataclass(frozen=True)
class Stores:
    """Places of the record. Local ones lie under `root`: mlflow.db, mlflow-artifacts/, optuna.db, ray/, reports/."""

    root: Path
    tracking_uri: str
    optuna_url: str
    ray_uri: str

    @classmethod
    def under(
        cls, root: Path, tracking_uri: str | None = None, optuna_url: str | None = None, ray_uri: str | None = None
    ) -> "Stores":
        """Everything under one folder, but for what is given a URI of its own."""
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
        """No study has been tracked here yet."""
        return self.tracking_is_local and not (self.root / "mlflow.db").exists()

    @property
    def artifacts(self) -> Path:
        return self.root / "mlflow-artifacts"

    def report_folder(self, study: str) -> Path:
        return self.root / "reports" / study

    def log_file(self, study: str) -> Path:
        """Ray's own output of the driver."""
        return self.root / "ray" / study / "ray.log"

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            StudyError: it cannot be created or written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(
                f"--store {self.root}: cannot be created: {error.strerror}. Name another folder."
            ) from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise StudyError(f"--store {self.root}: is not writable. Make it writable, or name another folder.")
