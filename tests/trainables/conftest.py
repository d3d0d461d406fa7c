"""Fixtures for the contract tests of architectures and tasks."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainables.small import Reviews
from tests.trainables.small_files import write_small_files
from trainables.networks import ARCHITECTURES
from trainables.tasks import TASKS


@pytest.fixture(autouse=True)
def reviews(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the task of short texts to the tasks."""
    monkeypatch.setitem(TASKS, "reviews", Reviews())


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    """The name of each architecture in turn."""
    return str(request.param)


@pytest.fixture
def small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that writes small files of a task, which the task then accepts as real, and returns their folder."""

    def write(name: str) -> Path:
        root = tmp_path / "small"
        write_small_files(name, root, monkeypatch)
        return root

    return write
