"""MNIST: the published data, and other files beside or in place of the real ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables import DataError, load_task
from trainables.tasks import TaskData
from trainables.tasks.mnist import SHA256


def test_mnist_has_its_published_sizes(mnist: TaskData) -> None:
    assert mnist.train_inputs.shape == (60000, 1, 28, 28)
    assert mnist.test_inputs.shape == (10000, 1, 28, 28)
    assert np.bincount(mnist.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.parametrize("damage", ["truncated", "altered"])
@pytest.mark.parametrize("victim", sorted(SHA256))
def test_a_damaged_mnist_file_is_refused_by_name(victim: str, damage: str, small_files: Callable[[str], Path]) -> None:
    root = small_files("mnist")
    path = root / "MNIST" / "raw" / victim
    content = path.read_bytes()
    path.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=rf"{victim} is not the MNIST file.*expected {SHA256[victim]}"):
        load_task("mnist", root)


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in SHA256:
        (raw / name).write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte is not the MNIST file.*expected ba891046e650"):
        load_task("mnist", tmp_path)


def test_mnist_pixels_and_labels_are_those_of_the_files(small_files: Callable[[str], Path]) -> None:
    root = small_files("mnist")
    data = load_task("mnist", root)
    pixels = np.frombuffer((root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    labels = np.frombuffer((root / "MNIST/raw/t10k-labels-idx1-ubyte").read_bytes()[8:], np.uint8)
    np.testing.assert_allclose((data.test_inputs.ravel() + 1) * 127.5, pixels, atol=1e-4)
    assert data.test_labels.tolist() == labels.tolist()


def test_files_that_an_old_torchvision_left_beside_mnist_are_not_read(
    small_files: Callable[[str], Path],
) -> None:
    root = small_files("mnist")
    expected = load_task("mnist", root).digest()
    (root / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(10, 28, 28, dtype=torch.uint8), torch.zeros(10)), root / "MNIST" / "processed" / name)
    assert load_task("mnist", root).digest() == expected
