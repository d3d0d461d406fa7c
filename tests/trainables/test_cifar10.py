"""CIFAR-10: the published data, wrong files in place of the real ones, and the augmentation."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables import DataError, load_task
from trainables.tasks import TASKS, TaskData
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


def draw_changes(samples: int, seed: int = 0) -> Tensor:
    return TASKS["cifar10"].augmentation(samples, torch.Generator().manual_seed(seed))


def random_images(samples: int) -> Tensor:
    """Images of random bytes, scaled: no two neighbours are equal, so that a misplaced pixel is noticed."""
    pixels = torch.randint(0, 256, (samples, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    return pixels / 127.5 - 1


def test_the_state_of_the_generator_decides_the_augmentation() -> None:
    assert torch.equal(draw_changes(100), draw_changes(100))
    assert not torch.equal(draw_changes(100), draw_changes(100, seed=1))
    generator = torch.Generator().manual_seed(0)
    first, second = (TASKS["cifar10"].augmentation(100, generator) for _ in range(2))
    assert torch.equal(first, draw_changes(100))
    assert not torch.equal(first, second)


def test_the_augmentation_of_cifar10_has_the_published_distributions() -> None:
    samples = 100_000
    degrees, right, down, mirrored = draw_changes(samples).unbind(1)
    assert degrees.abs().max() <= 15
    assert degrees.mean() == pytest.approx(0, abs=5 * 15 / (3 * samples) ** 0.5)
    assert degrees.std() == pytest.approx(15 / 3**0.5, rel=0.01)
    for pixels in (right, down):
        # Uniform in ±3.2 pixels, rounded: the two outermost values are rarer.
        values, counts = np.unique(pixels.numpy(), return_counts=True)
        assert values.tolist() == [-3, -2, -1, 0, 1, 2, 3]
        np.testing.assert_allclose(counts / samples, np.array([0.7, 1, 1, 1, 1, 1, 0.7]) / 6.4, atol=0.006)
    assert set(mirrored.tolist()) == {0, 1}
    assert mirrored.mean() == pytest.approx(0.5, abs=0.008)
    correlations = np.corrcoef(draw_changes(samples).T.numpy()) - np.eye(4)
    assert np.abs(correlations).max() < 5 / samples**0.5


def test_augmented_images_are_those_of_torchvision() -> None:
    from torchvision.transforms.v2.functional import affine, horizontal_flip

    images, changes = random_images(1000), draw_changes(1000)
    expected = []
    for image, (degrees, right, down, mirrored) in zip(images, changes.tolist(), strict=True):
        moved = affine(image, degrees, [int(right), int(down)], 1.0, [0.0, 0.0], fill=[-1.0] * 3)
        expected.append(horizontal_flip(moved) if mirrored else moved)
    differs = (TASKS["cifar10"].augment(images, changes) != torch.stack(expected)).any(dim=1)
    # A point half-way between two pixels may round to either, as torchvision computes it in another way.
    assert differs.float().mean() < 1e-5


def test_an_augmented_image_does_not_depend_on_its_batch() -> None:
    task, images, changes = TASKS["cifar10"], random_images(210), draw_changes(210)
    whole = task.augment(images, changes)
    for size in (1, 7, 64):
        parts = [slice(start, start + size) for start in range(0, 210, size)]
        assert torch.equal(torch.cat([task.augment(images[part], changes[part]) for part in parts]), whole)


def test_no_change_and_mirroring_twice_give_the_images_back_exactly() -> None:
    task, images = TASKS["cifar10"], random_images(100)
    nothing = torch.zeros(100, 4)
    assert torch.equal(task.augment(images, nothing), images)
    mirror = nothing.clone()
    mirror[:, 3] = 1
    assert torch.equal(task.augment(images, mirror), images.flip(-1))
    assert torch.equal(task.augment(task.augment(images, mirror), mirror), images)


def test_a_shifted_image_is_black_where_it_has_moved_away() -> None:
    images = random_images(100)
    shifted = TASKS["cifar10"].augment(images, torch.tensor([[0.0, 3.0, -2.0, 0.0]]).expand(100, 4))
    assert torch.equal(shifted[:, :, :30, 3:], images[:, :, 2:, :29])
    assert (shifted[:, :, 30:] == -1).all()
    assert (shifted[:, :, :, :3] == -1).all()
