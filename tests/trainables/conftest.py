"""Fixtures of the contracts that architectures and tasks keep."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainables.small import Reviews
from tests.trainables.small_files import write_small_files
from trainables.networks import ARCHITECTURES
from trainables.tasks import TASKS


@pytest.fixture(autouse=True)
def reviews(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task of short texts is one of the tasks."""
    monkeypatch.setitem(TASKS, "reviews", Reviews())


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    """Every architecture in turn."""
    return str(request.param)


@pytest.fixture
def small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes small files of a task, which then takes them for the real ones, and gives the folder of the data sets."""

    def write(name: str) -> Path:
        root = tmp_path / "small"
        write_small_files(name, root, monkeypatch)
        return root

    return write
