"""What a task is: data in memory, its splits, its digest and the published recipe."""

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trainables.config import RlctConfig, TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """The settings a task is trained and measured with where a study does not say otherwise."""

    training: TrainingConfig
    rlct: RlctConfig


@dataclass(frozen=True)
class Split:
    """Inputs (n, features), float32, and labels (n,), int64, of one split."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels in order, `size` samples at a time."""
        for start in range(0, len(self), size):
            yield self.inputs[start : start + size], self.labels[start : start + size]


@dataclass(frozen=True)
class Splits:
    """The splits of one trial; `validation` is None where the recipe trains on everything."""

    train: Split
    validation: Split | None
    test: Split


@dataclass(frozen=True)
class TaskData:
    """A task's data, ready for a network: NumPy arrays, so that processes can share one copy.

    Inputs are float32 (n, features), labels int64 (n,) from 0 to `classes` − 1.
    """

    task: str
    classes: int
    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray

    @property
    def features(self) -> int:
        return int(self.train_inputs.shape[1])

    def digest(self) -> str:
        """SHA-256 over content, shapes and types of all four arrays."""
        sha = hashlib.sha256(f"{self.task} {self.classes}".encode())
        for array in (self.train_inputs, self.train_labels, self.test_inputs, self.test_labels):
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def training_size(self, validation_fraction: float) -> int:
        """Number of training samples left when that share is held out."""
        return len(self.train_labels) - round(len(self.train_labels) * validation_fraction)

    def split(self, validation_fraction: float, seed: int, device: torch.device | str = "cpu") -> Splits:
        """Cut the validation split from the training data, stratified by class; the test split is never touched.

        Raises:
            ValueError: the fraction leaves a split with fewer samples than classes.
        """
        test = _as_split(self.test_inputs, self.test_labels, device)
        if validation_fraction == 0:
            return Splits(_as_split(self.train_inputs, self.train_labels, device), None, test)
        from sklearn.model_selection import train_test_split

        n = len(self.train_labels)
        train, validation = train_test_split(
            np.arange(n), test_size=n - self.training_size(validation_fraction), stratify=self.train_labels,
            random_state=seed,
        )  # fmt: skip
        return Splits(
            _as_split(self.train_inputs[train], self.train_labels[train], device),
            _as_split(self.train_inputs[validation], self.train_labels[validation], device),
            test,
        )


class Task(ABC):
    """One data set, where it comes from and how it is trained by default."""

    name: ClassVar[str]
    summary: ClassVar[str]
    recipe: ClassVar[Recipe]
    needs_data_root: ClassVar[bool]

    @abstractmethod
    def load(self, root: Path | None) -> TaskData:
        """Read the data into memory, fetching it first where it is missing and can be had.

        Raises:
            DataError: the data is missing and cannot be fetched, or is not what it should be.
        """


def _as_split(inputs: np.ndarray, labels: np.ndarray, device: torch.device | str) -> Split:
    with warnings.catch_warnings():
        # Arrays shared between processes are read-only; nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Split(torch.from_numpy(inputs).to(device), torch.from_numpy(labels).to(device))
