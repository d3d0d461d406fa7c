"""Reading MLflow: a study's runs and description, without MLflow's own messages."""

import ast
import logging
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from analysis.description import Description, undescribed
from analysis.errors import AnalysisError
from analysis.layout import Artifact, Level, Tag

PAGE = 1000


def open_study(tracking_uri: str, study: str) -> tuple[MlflowClient, list[Run]]:
    """The tracking store, and all runs of a study in it.

    Raises:
        AnalysisError: the store cannot be read, or there is no such study in it.
    """
    if tracking_uri.startswith("sqlite:///") and not Path(urlsplit(tracking_uri).path[1:]).exists():
        raise AnalysisError(
            f"there is no record at {tracking_uri}: name the folder with --store, or run the study first."
        )
    quieten_mlflow()
    try:
        client = MlflowClient(tracking_uri)
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            names = sorted(e.name for e in client.search_experiments() if e.name != "Default")
            raise AnalysisError(
                f"{tracking_uri} has no study {study!r}; it has {', '.join(names) if names else 'none'}."
            )
        return client, search_all_runs(client, experiment.experiment_id)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise AnalysisError(f"the record at {tracking_uri} cannot be read: {str(error).splitlines()[0]}.") from error


def runs_at(runs: list[Run], level: Level) -> list[Run]:
    """The runs of one level: study, trials, replicates or estimates."""
    return [run for run in runs if run.data.tags.get(Tag.LEVEL) == level]


def description_of(client: MlflowClient, runs: list[Run]) -> Description:
    """The record's description of itself, or the fixed description for older records without one.

    Raises:
        AnalysisError: the description cannot be read.
    """
    for run in runs_at(runs, Level.STUDY):
        if Artifact.DESCRIPTION not in (artifact.path for artifact in client.list_artifacts(run.info.run_id)):
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = client.download_artifacts(run.info.run_id, Artifact.DESCRIPTION, folder)
                return Description.model_validate_json(Path(file).read_bytes())
        except (ValidationError, MlflowException, OSError) as error:
            raise AnalysisError(
                f"{Artifact.DESCRIPTION} of the study's run cannot be read: {' '.join(str(error).split())}"
            ) from error
    return undescribed()


def search_all_runs(client: MlflowClient, experiment_id: str, condition: str = "") -> list[Run]:
    """The runs that meet an MLflow search condition, from all pages of results."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], condition, ViewType.ACTIVE_ONLY, PAGE, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def typed(value: str) -> Any:
    """Turn an MLflow parameter, which is stored as text, back into a number, truth value or list."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def quieten_mlflow() -> None:
    """Silence MLflow's messages on database migrations and downloads: the user of a study does not need them."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
