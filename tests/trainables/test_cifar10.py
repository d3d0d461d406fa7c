"""CIFAR-10: the published data, and wrong files in place of the real ones."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables import DataError, load_task
from trainables.tasks import TaskData
from trainables.tasks.cifar10 import SHA256


def test_cifar10_has_its_published_sizes(cifar10: TaskData) -> None:
    assert cifar10.train_inputs.shape == (50000, 3, 32, 32)
    assert cifar10.test_inputs.shape == (10000, 3, 32, 32)
    assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar10.test_labels).tolist() == [1000] * 10


def test_cifar10_has_the_colour_means_that_are_in_common_use(cifar10: TaskData) -> None:
    means = (cifar10.train_inputs.mean(axis=(0, 2, 3), dtype=np.float64) + 1) / 2
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)


class Touch:
    """A malicious pickle: reading it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("victim", sorted(SHA256))
def test_no_file_of_cifar10_is_unpickled_before_every_one_is_verified(
    victim: str, tmp_path: Path, small_files: Callable[[str], Path]
) -> None:
    root = small_files("cifar10")
    path = root / "cifar-10-batches-py" / victim
    path.write_bytes(pickle.dumps(Touch(tmp_path / "harm")))
    with pytest.raises(DataError, match=rf"{victim} is not the CIFAR-10 file.*expected {SHA256[victim]}"):
        load_task("cifar10", root)
    assert not (tmp_path / "harm").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "harm").exists()


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in SHA256:
        (folder / name).write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=r"data_batch_1 is not the CIFAR-10 file.*of 100 bytes, expected 54636561a3ce"):
        load_task("cifar10", tmp_path)


def test_cifar10_pixels_and_labels_are_those_of_the_files(small_files: Callable[[str], Path]) -> None:
    root = small_files("cifar10")
    data = load_task("cifar10", root)
    batches = [pickle.loads((root / f"cifar-10-batches-py/data_batch_{n}").read_bytes()) for n in range(1, 6)]
    pixels = np.concatenate([batch["data"] for batch in batches])
    np.testing.assert_allclose((data.train_inputs.reshape(len(pixels), -1) + 1) * 127.5, pixels, atol=1e-4)
    assert data.train_labels.tolist() == [label for batch in batches for label in batch["labels"]]
