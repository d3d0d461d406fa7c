"""What all tests share: real data, and small configurations that train in seconds."""

import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import TrialConfig, load_task
from trainables.tasks import TaskData

# The networks here are small: a second thread would wait more than it works, the more so beside other processes.
torch.set_num_threads(1)

# Real copies of the data sets that are too large to be made up.
DATA = Path(os.environ.get("SELF_MODELING_DATA") or "data").resolve()


@pytest.fixture(scope="session")
def digits() -> TaskData:
    return load_task("digits")


@pytest.fixture(scope="session")
def mnist() -> TaskData:
    """Real MNIST from SELF_MODELING_DATA, or downloaded to ./data."""
    return load_task("mnist", DATA)


@pytest.fixture(scope="session")
def cifar10() -> TaskData:
    """Real CIFAR-10 from SELF_MODELING_DATA, or downloaded to ./data."""
    return load_task("cifar10", DATA)


@pytest.fixture(scope="session")
def imdb() -> TaskData:
    """The real IMDB reviews from SELF_MODELING_DATA, or downloaded to ./data."""
    return load_task("imdb", DATA)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that nobody listens at: no download can succeed, with or without a network."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # urllib keeps the proxies it saw at its first use, in this process's later tests too.
    monkeypatch.setattr(urllib.request, "_opener", None)


def small_trial(
    *,
    aux_weight: float = 0.0,
    seeds: tuple[int, ...] = (0, 1),
    hidden_layers: int = 1,
    width: int = 8,
    self_model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    rlct: dict[str, Any] | None = None,
    observer: dict[str, Any] | None = None,
) -> TrialConfig:
    """A trial on digits that takes well under a second."""
    return TrialConfig.from_recipe(
        "digits",
        aux_weight=aux_weight,
        seeds=seeds,
        network={"hidden_layers": hidden_layers, "width": width},
        self_model=self_model,
        training={"epochs": 2} | (training or {}),
        rlct={"draws": 8, "chains": 2, "batch_size": 32} | (rlct or {}),
        observer={"epochs": 1, "width": 8} | (observer or {}),
    )
