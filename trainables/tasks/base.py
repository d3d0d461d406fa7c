"""What a task is: data in memory, its splits, its digest and the published recipe.

Only functions that make tensors import PyTorch: studies are checked and data is read without it.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trainables.config import NetworkConfig, RlctConfig, TrainingConfig
from trainables.errors import ConfigError, DataError
from trainables.tasks.affine import change_images, draw_changes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Fills a text up to the length of the longest one.
NO_TOKEN = -1


@dataclass(frozen=True)
class Recipe:
    """The settings for training and measuring a task, unless a study sets others."""

    training: TrainingConfig
    rlct: RlctConfig
    network: NetworkConfig = field(default_factory=NetworkConfig)
    target_depth: int | str = "last"  # the published target layers, as a study names them
    # Held-out accuracy of the baseline. Networks far below it are marked as impaired; none are if it is None.
    accuracy: float | None = None
    local_rlct: RlctConfig | None = None  # settings at which the chains stay near the trained weights, if measured

    def rlct_settings(self, protocol: str) -> RlctConfig:
        """The settings of the rlct by the name of a protocol, 'published' or 'local'.

        Raises:
            ConfigError: the recipe has none of this name.
        """
        known = {"published": self.rlct} | ({} if self.local_rlct is None else {"local": self.local_rlct})
        if protocol not in known:
            raise ConfigError(f"the task's recipe has no rlct settings {protocol!r}; it has {', '.join(known)}")
        return known[protocol]

    def network_with(self, fields: Mapping[str, Any]) -> NetworkConfig:
        """The recipe's network with these fields replaced; for another architecture the recipe's sizes are left out.

        Raises:
            pydantic.ValidationError: a field is unknown or impossible.
        """
        published = self.network.model_dump()
        if fields.get("architecture", self.network.architecture) != self.network.architecture:
            published = {}
        return NetworkConfig(**published | dict(fields))


@dataclass(frozen=True)
class InputSpec:
    """The form of one sample: float values of this shape, or a text of up to shape[0] tokens."""

    shape: tuple[int, ...]  # an image is (channels, height, width)
    vocabulary: int | None = None  # different tokens, for text

    @property
    def is_text(self) -> bool:
        return self.vocabulary is not None

    @property
    def is_image(self) -> bool:
        return self.vocabulary is None and len(self.shape) == 3


@dataclass(frozen=True)
class DataShape:
    """The sizes of a data set, which networks and plans need before the data is read."""

    inputs: InputSpec
    classes: int
    train_samples: int
    test_samples: int

    def training_size(self, validation_fraction: float, most: int | None = None) -> int:
        """Number of training samples left after holding out this share, at most `most` if it is given."""
        left = self.train_samples - self.validation_size(validation_fraction)
        return left if most is None else min(left, most)

    def validation_size(self, validation_fraction: float) -> int:
        """Number of samples that this share holds out."""
        return round(self.train_samples * validation_fraction)


@dataclass(frozen=True)
class Split:
    """Inputs (n, …) and labels (n,), int64, of one split."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, samples: int) -> Split:
        """The first samples alone, or all if there are fewer."""
        return Split(self.inputs[:samples], self.labels[:samples])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels in order, `size` samples at a time."""
        for start in range(0, len(self), size):
            yield self.inputs[start : start + size], self.labels[start : start + size]


@dataclass(frozen=True)
class Splits:
    """The splits of one trial; `validation` is None if the recipe trains on all training data."""

    train: Split
    validation: Split | None
    test: Split

    @property
    def held_out(self) -> Split:
        """Samples not used in training: the validation split, or the test split if there is no validation split."""
        return self.test if self.validation is None else self.validation


@dataclass(frozen=True)
class TaskData:
    """A task's data, ready for a network: NumPy arrays, so that processes can share one copy.

    Inputs are float32 (n, …), or int32 tokens (n, longest) with NO_TOKEN after a text's end; labels int64 (n,) from 0
    to `classes` − 1.
    """

    task: str
    classes: int
    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    vocabulary: int | None = None  # different tokens, for text

    @property
    def shape(self) -> DataShape:
        """The sizes of this data."""
        inputs = InputSpec(self.train_inputs.shape[1:], self.vocabulary)
        return DataShape(inputs, self.classes, len(self.train_labels), len(self.test_labels))

    def digest(self) -> str:
        """SHA-256 over content, shapes and types of all four arrays."""
        sha = hashlib.sha256(f"{self.task} {self.classes} {self.vocabulary}".encode())
        for array in (self.train_inputs, self.train_labels, self.test_inputs, self.test_labels):
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def split(
        self,
        validation_fraction: float,
        seed: int,
        device: torch.device | str = "cpu",
        *,
        train_samples: int | None = None,
        label_noise: float = 0.0,
    ) -> Splits:
        """Cut the validation split from the training data, stratified by class; the test split is never touched.

        Of what is left, `train_samples` are used for training, stratified too, or all if there are not more.
        `label_noise` is the share of the labels left for training that become those of another class, drawn from the
        seed: any of the other classes with equal probability.

        Raises:
            ValueError: the fraction leaves a split with fewer samples than classes.
        """
        train = np.arange(len(self.train_labels))
        validation = None
        if validation_fraction > 0:
            train, validation = self._cut(train, self.shape.validation_size(validation_fraction), seed)
        if train_samples is not None and train_samples < len(train):
            _, train = self._cut(train, train_samples, seed)
        # Without a cut the arrays are used as they are: a copy of them can take a gigabyte.
        whole = len(train) == len(self.train_labels)
        inputs, labels = (self.train_inputs, self.train_labels) if whole else self._at(train)
        return Splits(
            _as_split(inputs, self._with_noise(labels, label_noise, seed), device),
            None if validation is None else _as_split(*self._at(validation), device),
            _as_split(self.test_inputs, self.test_labels, device),
        )

    def _cut(self, indices: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The rest and a part of this size, stratified by class."""
        from sklearn.model_selection import train_test_split

        rest, part = train_test_split(indices, test_size=size, stratify=self.train_labels[indices], random_state=seed)
        return rest, part

    def _at(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.train_inputs[indices], self.train_labels[indices]

    def _with_noise(self, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
        if share == 0:
            return labels
        from trainables.seeds import derived_seed

        random = np.random.default_rng(derived_seed(seed, "label_noise"))
        noisy = labels.copy()
        changed = random.choice(len(labels), round(share * len(labels)), replace=False)
        noisy[changed] = (noisy[changed] + random.integers(1, self.classes, len(changed))) % self.classes
        return noisy


class Task(ABC):
    """One data set, where it comes from and how it is trained by default."""

    name: ClassVar[str]
    summary: ClassVar[str]
    recipe: ClassVar[Recipe]
    shape: ClassVar[DataShape]
    needs_data_root: ClassVar[bool]
    # Whether training.augment can be true: `augment` then changes images. The recipe says whether it is.
    augments: ClassVar[bool] = False
    # Whether it mirrors them too: the mirror image of a photograph is one, that of a digit is none.
    mirrors: ClassVar[bool] = False

    @abstractmethod
    def load(self, root: Path | None) -> TaskData:
        """Read the data into memory; download it first if it is missing.

        Raises:
            DataError: the data is missing and cannot be downloaded, or has the wrong content.
        """

    def augmentation(self, samples: int, generator: torch.Generator) -> Tensor:
        """Draw the random changes of one epoch, (samples, k), decided by the state of the generator."""
        self._check_augments()
        return draw_changes(samples, self.shape.inputs.shape[-1], self.mirrors, generator)

    def augment(self, inputs: Tensor, changes: Tensor) -> Tensor:
        """Apply changes (B, k) to inputs (B, …)."""
        self._check_augments()
        return change_images(inputs, changes)

    def _check_augments(self) -> None:
        if not self.augments:
            raise NotImplementedError(f"task {self.name!r} has no augmentation")


def verify_file(path: Path, expected: str, data_set: str) -> None:
    """Check a file's SHA-256.

    Raises:
        DataError: the file differs or cannot be read; the message names the file and the expected digest.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}. Make it readable, or name another --data."
        ) from error
    if found != expected:
        raise DataError(
            f"{path} is not the {data_set} file of that name (SHA-256 {found[:12]}… of {path.stat().st_size:,} bytes, "
            f"expected {expected}): it is damaged or another data set's. Delete it and run again with a network "
            "connection, or put the original file in its place."
        )


def _as_split(inputs: np.ndarray, labels: np.ndarray, device: torch.device | str) -> Split:
    import torch

    with warnings.catch_warnings():
        # Arrays shared between processes are read-only; nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Split(torch.from_numpy(inputs).to(device), torch.from_numpy(labels).to(device))
