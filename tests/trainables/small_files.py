"""Small data sets in the file formats of the real ones, to test the loaders on machines without the real data.

Every class has a pattern (a bright band, a colour, a word) that a network learns in a few steps.
"""

import hashlib
import itertools
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torchvision.datasets import CIFAR10

from tests.conftest import FILES
from trainables.config import canonical
from trainables.tasks import TASKS, DataShape, InputSpec, cifar10, imdb, mnist

TRAIN_SAMPLES, TEST_SAMPLES = 20, 10
CLASSES = 10  # of both image sets
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
COLOURS = np.array([*itertools.product((30, 128, 225), repeat=3)][:CLASSES])  # (10, 3), red, green and blue
FILLERS = tuple(f"word{number}" for number in range(10))
WORDS_OF_CLASS = ("bad", "good")
VOCABULARY = len(FILLERS) + len(WORDS_OF_CLASS) + 2  # and the full stop, and the unknown token
LONGEST = 12  # tokens of the longest review


def write_small_files(name: str, root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> None:
    """Write a task's small files to `root`, and replace the real digests and sizes by those of the small files."""
    for file in FILES[name]:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
    shape = WRITERS[name](root, np.random.default_rng(seed), monkeypatch)
    monkeypatch.setattr(type(TASKS[name]), "shape", shape)


def _write_mnist(root: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> DataShape:
    """Images and labels as MNIST has them: a magic number, the sizes (32 bits, big-endian), the bytes."""
    raw = root / "MNIST" / "raw"
    for split, samples in (("train", TRAIN_SAMPLES), ("t10k", TEST_SAMPLES)):
        labels = _balanced_labels(samples, CLASSES, rng).astype(np.uint8)
        images = rng.integers(0, 100, (samples, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4 : 2 * label + 6] = 255
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, samples, 28, 28) + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, samples) + labels.tobytes())
    for file in mnist.SHA256:
        monkeypatch.setitem(mnist.SHA256, file, _sha256(raw / file))
    return DataShape(InputSpec((1, 28, 28)), CLASSES, TRAIN_SAMPLES, TEST_SAMPLES)


def _write_cifar10(root: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> DataShape:
    """Five training batches, a test batch and the names of the classes, each a pickle."""
    folder = root / CIFAR10.base_folder
    train_labels, test_labels = (_balanced_labels(samples, CLASSES, rng) for samples in (TRAIN_SAMPLES, TEST_SAMPLES))
    batches = dict(zip(TRAIN_BATCHES, np.split(train_labels, len(TRAIN_BATCHES)), strict=True))
    for file, labels in (batches | {"test_batch": test_labels}).items():
        images = COLOURS[labels][:, :, None] + rng.integers(-60, 61, (len(labels), 3, 32 * 32))
        pixels = images.clip(0, 255).astype(np.uint8).reshape(len(labels), -1)
        _pickle(folder / file, {"batch_label": file, "labels": labels.tolist(), "data": pixels})
    _pickle(folder / "batches.meta", {"label_names": [f"class {number}" for number in range(CLASSES)], "num_vis": 3072})
    for file in cifar10.SHA256:
        monkeypatch.setitem(cifar10.SHA256, file, _sha256(folder / file))
    # torchvision checks the files with its own table.
    for table in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, table, [[file, md5(folder / file)] for file, _ in getattr(CIFAR10, table)])
    monkeypatch.setitem(CIFAR10.meta, "md5", md5(folder / "batches.meta"))
    return DataShape(InputSpec((3, 32, 32)), CLASSES, TRAIN_SAMPLES, TEST_SAMPLES)


def _write_imdb(root: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> DataShape:
    """Reviews and labels as columns of Parquet; the test reviews have a word that no training review has."""
    for split, samples, words in (("train", TRAIN_SAMPLES, FILLERS), ("test", TEST_SAMPLES, (*FILLERS, "unseen"))):
        labels = _balanced_labels(samples, 2, rng).tolist()
        lengths = [LONGEST, *rng.integers(4, LONGEST, samples - 1)]
        texts = [
            f"{WORDS_OF_CLASS[label]} {' '.join(rng.choice(words, length - 2))}.".capitalize()
            for label, length in zip(labels, lengths, strict=True)
        ]
        pq.write_table(pa.table({"text": texts, "label": labels}), root / "imdb" / f"{split}.parquet")
        lines = sorted(canonical(review) for review in zip(texts, labels, strict=True))
        monkeypatch.setitem(imdb.SHA256, split, hashlib.sha256(b"\n".join(lines)).hexdigest())
    monkeypatch.setattr(imdb, "LONGEST", LONGEST)
    return DataShape(InputSpec((LONGEST,), VOCABULARY), len(WORDS_OF_CLASS), TRAIN_SAMPLES, TEST_SAMPLES)


WRITERS: dict[str, Callable[[Path, np.random.Generator, pytest.MonkeyPatch], DataShape]] = {
    "mnist": _write_mnist,
    "cifar10": _write_cifar10,
    "imdb": _write_imdb,
}


def _balanced_labels(samples: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Labels (samples,) in random order, with equally many of each class."""
    return rng.permutation(np.arange(samples) % classes)


def _pickle(path: Path, content: dict[str, Any]) -> None:
    # Python 2 wrote the real files; protocol 2 is its newest.
    path.write_bytes(pickle.dumps(content, protocol=2))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def md5(path: Path) -> str:
    """The digest by which torchvision knows a file."""
    return hashlib.md5(path.read_bytes()).hexdigest()
