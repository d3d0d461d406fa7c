"""Fixtures of the contracts that architectures keep."""

import pytest

from tests.trainables.small import Reviews
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
