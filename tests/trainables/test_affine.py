"""The random changes of images, against torchvision's."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.tasks import TASKS

# A task, and the side of its images in pixels.
TASKS_WITH_SIDES = [("cifar10", 32), ("mnist", 28), ("digits", 8)]
every_task = pytest.mark.parametrize(("name", "side"), TASKS_WITH_SIDES)


def draw_changes(name: str, samples: int, seed: int = 0) -> Tensor:
    return TASKS[name].augmentation(samples, torch.Generator().manual_seed(seed))


def random_images(name: str, samples: int) -> Tensor:
    """Images of random bytes, scaled: no two neighbours are equal, so that a misplaced pixel is noticed."""
    shape = TASKS[name].shape.inputs.shape
    pixels = torch.randint(0, 256, (samples, *shape), generator=torch.Generator().manual_seed(1))
    return pixels / 127.5 - 1


@every_task
def test_the_state_of_the_generator_decides_the_changes(name: str, side: int) -> None:
    assert torch.equal(draw_changes(name, 100), draw_changes(name, 100))
    assert not torch.equal(draw_changes(name, 100), draw_changes(name, 100, seed=1))
    generator = torch.Generator().manual_seed(0)
    first, second = (TASKS[name].augmentation(100, generator) for _ in range(2))
    assert torch.equal(first, draw_changes(name, 100))
    assert not torch.equal(first, second)


@every_task
def test_the_changes_have_the_published_distributions(name: str, side: int) -> None:
    samples = 100_000
    degrees, right, down, *mirrored = draw_changes(name, samples).unbind(1)
    assert degrees.abs().max() <= 15
    assert degrees.mean() == pytest.approx(0, abs=5 * 15 / (3 * samples) ** 0.5)
    assert degrees.std() == pytest.approx(15 / 3**0.5, rel=0.01)
    # Uniform in ± a tenth of the side, rounded: the two outermost values are rarer.
    most = round(side / 10)
    outermost = side / 10 - (most - 0.5)
    shares = np.array([outermost, *[1.0] * (2 * most - 1), outermost]) / (side / 5)
    for pixels in (right, down):
        values, counts = np.unique(pixels.numpy(), return_counts=True)
        assert values.tolist() == list(range(-most, most + 1))
        np.testing.assert_allclose(counts / samples, shares, atol=0.008)
    # Only the photographs are mirrored: a digit's mirror image is none.
    assert len(mirrored) == (name == "cifar10")
    for each in mirrored:
        assert set(each.tolist()) == {0, 1}
        assert each.mean() == pytest.approx(0.5, abs=0.008)
    correlations = np.corrcoef(draw_changes(name, samples).T.numpy()) - np.eye(3 + len(mirrored))
    assert np.abs(correlations).max() < 5 / samples**0.5


@every_task
def test_changed_images_are_those_of_torchvision(name: str, side: int) -> None:
    from torchvision.transforms.v2.functional import affine, horizontal_flip

    images, changes = random_images(name, 1000), draw_changes(name, 1000)
    expected = []
    for image, (degrees, right, down, *mirrored) in zip(images, changes.tolist(), strict=True):
        moved = affine(image, degrees, [int(right), int(down)], 1.0, [0.0, 0.0], fill=[-1.0] * len(image))
        expected.append(horizontal_flip(moved) if any(mirrored) else moved)
    differs = (TASKS[name].augment(images, changes) != torch.stack(expected)).any(dim=1)
    # A point half-way between two pixels may round to either, as torchvision computes it in another way.
    assert differs.float().mean() < 1e-5


@every_task
def test_a_changed_image_does_not_depend_on_its_batch(name: str, side: int) -> None:
    task, images, changes = TASKS[name], random_images(name, 210), draw_changes(name, 210)
    whole = task.augment(images, changes)
    for size in (1, 7, 64):
        parts = [slice(start, start + size) for start in range(0, 210, size)]
        assert torch.equal(torch.cat([task.augment(images[part], changes[part]) for part in parts]), whole)


@every_task
def test_no_change_gives_the_images_back_exactly(name: str, side: int) -> None:
    images = random_images(name, 100)
    assert torch.equal(TASKS[name].augment(images, torch.zeros_like(draw_changes(name, 100))), images)


def test_mirroring_twice_gives_the_images_back_exactly() -> None:
    task, images = TASKS["cifar10"], random_images("cifar10", 100)
    mirror = torch.zeros(100, 4)
    mirror[:, 3] = 1
    assert torch.equal(task.augment(images, mirror), images.flip(-1))
    assert torch.equal(task.augment(task.augment(images, mirror), mirror), images)


@every_task
def test_a_shifted_image_is_black_where_it_has_moved_away(name: str, side: int) -> None:
    images = random_images(name, 100)
    change = torch.zeros_like(draw_changes(name, 1))
    change[:, 1:3] = torch.tensor([3.0, -2.0])
    shifted = TASKS[name].augment(images, change.expand(100, -1))
    assert torch.equal(shifted[:, :, : side - 2, 3:], images[:, :, 2:, : side - 3])
    assert (shifted[:, :, side - 2 :] == -1).all()
    assert (shifted[:, :, :, :3] == -1).all()
