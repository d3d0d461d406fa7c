"""What all tests share: real data, and small configurations that train in seconds."""

import os
from pathlib import Path
from typing import Any

import pytest

from trainables import TrialConfig, load_task
from trainables.tasks import TaskData


@pytest.fixture(scope="session")
def digits() -> TaskData:
    return load_task("digits")


@pytest.fixture(scope="session")
def mnist() -> TaskData:
    """Real MNIST from SELF_MODELING_DATA, or downloaded to ./data."""
    root = os.environ.get("SELF_MODELING_DATA")
    return load_task("mnist", Path(root) if root else None)


def small_trial(
    *,
    aux_weight: float = 0.0,
    target_depths: tuple[int, ...] | None = None,
    seeds: tuple[int, ...] = (0, 1),
    hidden_layers: int = 1,
    width: int = 8,
    training: dict[str, Any] | None = None,
    rlct: dict[str, Any] | None = None,
) -> TrialConfig:
    """A trial on digits that takes well under a second."""
    return TrialConfig.from_recipe(
        "digits",
        aux_weight=aux_weight,
        target_depths=target_depths,
        seeds=seeds,
        network={"hidden_layers": hidden_layers, "width": width},
        training={"epochs": 2} | (training or {}),
        rlct={"draws": 8, "chains": 2, "batch_size": 32} | (rlct or {}),
    )
