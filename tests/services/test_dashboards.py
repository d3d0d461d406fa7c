"""Dashboards that read the stores of a running study: a real optuna-dashboard and a real MLflow server."""

import json
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.services.mlflow_server import running, running_mlflow, wait_until_it_answers
from tests.services.postgresql import free_port
from tests.services.studies import run, write_study

pytestmark = pytest.mark.services


@contextmanager
def asked_all_the_time(*requests: "urllib.request.Request | str") -> Iterator[list[int]]:
    """Several threads that send these requests without a pause; the statuses of the answers, 0 for none."""
    over = threading.Event()
    statuses: list[int] = []

    def ask(request: "urllib.request.Request | str") -> None:
        while not over.is_set():
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    response.read()
                    statuses.append(response.status)
            except OSError as error:
                statuses.append(getattr(error, "code", 0))

    threads = [threading.Thread(target=ask, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_dashboards_that_read_a_running_study_do_not_disturb_it(tmp_path: Path) -> None:
    write_study(tmp_path, trials=2)
    assert run(tmp_path, "--runner", "local").code == 0
    store = tmp_path / "runs"
    port = free_port()
    dashboard = Path(sys.executable).with_name("optuna-dashboard")
    with (
        running(str(dashboard), f"sqlite:///{store}/optuna.db", "--port", str(port)),
        running_mlflow("--backend-store-uri", f"sqlite:///{store}/mlflow.db") as mlflow,
    ):
        optuna = f"http://127.0.0.1:{port}"
        wait_until_it_answers(f"{optuna}/api/studies")
        search = urllib.request.Request(
            f"{mlflow}/api/2.0/mlflow/runs/search",
            json.dumps({"experiment_ids": ["1"], "max_results": 1000}).encode(),
            {"Content-Type": "application/json"},
        )
        with asked_all_the_time(f"{optuna}/api/studies", f"{optuna}/api/studies/1?after=0", search, search) as statuses:
            ran = run(tmp_path, "--runner", "local", "--trials", "8")
        with urllib.request.urlopen(search) as response:
            runs = json.load(response)["runs"]
    assert ran.code == 0, ran.out + ran.err
    assert len(statuses) > 20
    assert set(statuses) == {200}
    levels = [tag["value"] for each in runs for tag in each["data"]["tags"] if tag["key"] == "level"]
    assert levels.count("trial") == 8
    assert {each["info"]["status"] for each in runs} == {"FINISHED"}
