"""A tracking server that a test can take away."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.mlflow_server import RestartableMLflow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RestartableMLflow]:
    """A running MLflow server over SQLite."""
    running = RestartableMLflow(tmp_path / "server")
    running.start()
    yield running
    running.kill()
