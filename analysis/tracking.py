"""Reading MLflow: all runs of a search, and none of its talk."""

import logging
import os

from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient

PAGE = 1000


def search_all_runs(client: MlflowClient, experiment_id: str, condition: str = "") -> list[Run]:
    """The runs that meet an MLflow search condition, of all pages."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], condition, ViewType.ACTIVE_ONLY, PAGE, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def quieten_mlflow() -> None:
    """MLflow tells of every database migration and download; that is not news to the user of a study."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
