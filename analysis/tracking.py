"""Reading MLflow: a study's runs and description, without MLflow's own messages."""

import ast
import gc
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from analysis.description import Description, undescribed
from analysis.errors import AnalysisError
from analysis.layout import Artifact, Level, Tag
from analysis.locations import sqlite_file, with_driver
from analysis.secrets import without_secrets
from analysis.servers import ServerError, check_database, check_server, is_server, reason, wait_a_bounded_time

PAGE = 1000


def open_study(tracking_uri: str, study: str) -> tuple[MlflowClient, list[Run]]:
    """The tracking store, and all runs of a study in it that count: those that no other run supersedes.

    Raises:
        AnalysisError: the store cannot be read, or there is no such study in it.
    """
    tracking_uri = with_driver(tracking_uri)
    shown = without_secrets(tracking_uri)
    file = sqlite_file(tracking_uri)
    if file is not None and not file.exists():
        raise AnalysisError(f"there is no record at {shown}: name the folder with --store, or run the study first.")
    quieten_mlflow()
    wait_a_bounded_time()
    try:
        if is_server(tracking_uri):
            check_server(tracking_uri)
        elif file is None:
            check_database(tracking_uri)
        client = MlflowClient(tracking_uri)
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            names = sorted(e.name for e in client.search_experiments() if e.name != "Default")
            raise AnalysisError(f"{shown} has no study {study!r}; it has {', '.join(names) if names else 'none'}.")
        return client, runs_that_count(client, experiment.experiment_id)
    except ServerError as error:
        raise AnalysisError(f"the record at {shown} cannot be read: {error}") from error
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise AnalysisError(f"the record at {shown} cannot be read: {reason(error)}") from error


def runs_that_count(client: MlflowClient, experiment_id: str) -> list[Run]:
    """The runs of a study without those that a finished run supersedes, and without the runs under these.

    A superseded run does not count whether it was deleted or not, nor does what it superseded itself.
    """
    runs = search_all_runs(client, experiment_id)
    known = {run.info.run_id for run in runs}
    if all(known.issuperset(superseded_by(run)) for run in runs):
        return without_superseded(runs)
    deleted = search_all_runs(client, experiment_id, f"tags.{Tag.SUPERSEDES} LIKE '%'", ViewType.DELETED_ONLY)
    return without_superseded(runs, deleted)


def superseded_by(run: Run) -> list[str]:
    """The ids of the runs that this one supersedes once it is finished."""
    ids: str = run.data.tags.get(Tag.SUPERSEDES, "")
    return ids.split(",") if ids else []


def without_superseded(runs: Sequence[Run], deleted: Sequence[Run] = ()) -> list[Run]:
    """The runs that no finished one of them supersedes, and that are not under one that is superseded.

    `deleted` are deleted runs: one that is superseded may have superseded one that is not deleted.
    """
    former = {run.info.run_id: superseded_by(run) for run in deleted}
    left_out: set[str] = set()
    for run in runs:
        superseded = superseded_by(run) if run.info.status == "FINISHED" else []
        while superseded:
            if (run_id := superseded.pop()) not in left_out:
                left_out.add(run_id)
                superseded += former.get(run_id, [])
    return [run for run in runs if left_out.isdisjoint((run.info.run_id, run.data.tags.get(Tag.PARENT)))]


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


def search_all_runs(
    client: MlflowClient, experiment_id: str, condition: str = "", view: int = ViewType.ACTIVE_ONLY
) -> list[Run]:
    """The runs that meet an MLflow search condition, from all pages of results."""
    runs: list[Run] = []
    token: str | None = None
    with _without_garbage_collection():
        while True:
            page = client.search_runs([experiment_id], condition, view, PAGE, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause Python's search for cycles: over many new objects that stay, it takes twice the time of reading them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def typed(value: str) -> Any:
    """Turn an MLflow parameter, which is stored as text, back into a number, truth value or list."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def quieten_mlflow() -> None:
    """Silence MLflow's messages on database migrations and downloads: the user of a study does not need them."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # For each run that ends, with the server's URL and its password.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    for name in ("mlflow", "alembic"):
        # What MLflow logs as an error it raises too, and its log quotes URLs with their passwords.
        logging.getLogger(name).setLevel(logging.CRITICAL)
