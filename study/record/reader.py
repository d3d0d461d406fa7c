"""Reading a study's record in the tracking store: finished trials, and the settings at its start."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from analysis.layout import Artifact, Level, Tag
from analysis.tracking import quieten_mlflow, search_all_runs
from study.errors import StudyError, first_line, without_secrets
from study.record.protocol import differences
from study.record.stores import Stores
from study.spec import StudySpec, build_spec, read_study


@dataclass(frozen=True)
class FinishedTrial:
    """A finished trial in the record."""

    run_id: str
    name: str
    status: str
    rlct_verdict: str
    metrics: Mapping[str, float]  # means over replicates, and their standard errors
    ended: int  # milliseconds since 1970


@dataclass
class RecordReader:
    """One study in the tracking store.

    Raises (all methods):
        StudyError: the tracking store cannot be reached or read.
    """

    stores: Stores
    study: str
    _client: MlflowClient = field(init=False)
    _experiment: Experiment | None = field(init=False, default=None)
    _study_run: Run | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        quieten_mlflow()
        if self.stores.is_empty:
            return
        with self._reachable():
            self._client = MlflowClient(self.stores.tracking_uri)
            self._experiment = self._client.get_experiment_by_name(self.study)
        if self._experiment is not None:
            if self._experiment.lifecycle_stage != "active":
                raise StudyError(
                    f"the MLflow experiment {self.study!r} was deleted and still holds its name. Restore it with "
                    f"'mlflow experiments restore', remove it with 'mlflow gc', or give the study another --name."
                )
            runs = self._search(f"tags.{Tag.LEVEL} = '{Level.STUDY}'")
            self._study_run = runs[0] if runs else None

    def finished(self) -> dict[str, FinishedTrial]:
        """The finished trials by key."""
        runs = self._search(f"tags.{Tag.LEVEL} = '{Level.TRIAL}' and attributes.status = 'FINISHED'")
        return {
            run.data.tags[Tag.TRIAL_KEY]: FinishedTrial(
                run_id=run.info.run_id,
                name=run.info.run_name or "",
                status=run.data.tags[Tag.STATUS],
                rlct_verdict=run.data.tags[Tag.VERDICT],
                metrics=run.data.metrics,
                ended=run.info.end_time or 0,
            )
            for run in runs
        }

    def objectives(self) -> dict[str, str]:
        """The study's objectives with the direction of each, in their order."""
        objectives: dict[str, str] = json.loads(self._study_tags()[Tag.OBJECTIVES])
        return objectives

    def question(self) -> str:
        """The question that the study asks."""
        return self._study_tags().get(Tag.QUESTION, "")

    def spec(self) -> StudySpec:
        """The study as it was last run.

        Raises:
            StudyError: the store has no such study.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = self.download(self._existing_run().info.run_id, Artifact.SPEC, Path(folder))
            return build_spec(read_study(str(file)), str(file))

    def download(self, run_id: str, artifact: str, folder: Path) -> Path:
        """Fetch an artifact of a run into a folder."""
        with self._reachable():
            return Path(self._client.download_artifacts(run_id, artifact, str(folder)))

    def has_copy(self, artifact: str, file: Path) -> bool:
        """Whether the study's run has this artifact with the content of the file."""
        folder, _, _ = artifact.rpartition("/")
        with self._reachable(), tempfile.TemporaryDirectory() as fetched:
            run_id = self._existing_run().info.run_id
            if artifact not in {each.path for each in self._client.list_artifacts(run_id, folder or None)}:
                return False
            return Path(self._client.download_artifacts(run_id, artifact, fetched)).read_bytes() == file.read_bytes()

    def estimated(self) -> set[tuple[str, str]]:
        """Keys of trial and settings for every repeated rlct estimate."""
        runs = self._search(f"tags.{Tag.LEVEL} = '{Level.ESTIMATE}' and attributes.status = 'FINISHED'")
        return {(run.data.tags[Tag.TRIAL_KEY], run.data.tags[Tag.RLCT_SETTINGS]) for run in runs}

    def check_protocol(self, spec: StudySpec, data_digest: str) -> None:
        """Check that the study's recorded trials have the same protocol: they may differ only in their point.

        Raises:
            StudyError: the study was begun with other settings; the message names the differences.
        """
        if self._study_run is None:
            return
        differing = differences(self._study_run.data.tags[Tag.PROTOCOL], spec, data_digest)
        if differing:
            raise StudyError(
                f"the study {self.study!r} in {without_secrets(self.stores.tracking_uri)} "
                "was begun with other settings:\n"
                + "\n".join(f"  {line}" for line in differing)
                + "\nIts trials and these would not be one study. Give this one a name (--name "
                f"{self.study}-2) or another folder (--store DIR)."
            )

    def _existing_run(self) -> Run:
        """The study's run.

        Raises:
            StudyError: the store has no such study.
        """
        if self._study_run is None:
            raise StudyError(
                f"{without_secrets(self.stores.tracking_uri)} has no study {self.study!r}: check its name, --store "
                "and --tracking-uri, or run it first with study/run.py."
            )
        return self._study_run

    def _study_tags(self) -> dict[str, str]:
        tags: dict[str, str] = self._existing_run().data.tags
        return tags

    def _search(self, condition: str) -> list[Run]:
        if self._experiment is None:
            return []
        with self._reachable():
            return search_all_runs(self._client, self._experiment.experiment_id, condition)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise StudyError(
                f"the MLflow record at {without_secrets(self.stores.tracking_uri)} "
                f"cannot be used: {first_line(error)} "
                "Check that the server runs (or the folder is writable, with room on the disk) and that the store was "
                "made by this version of MLflow; then run the same command again: finished trials are kept."
            ) from error
