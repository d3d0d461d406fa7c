"""Random rotations, shifts and mirroring of images, with the distributions of torchvision's transforms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MOST_DEGREES = 15.0
MOST_SHIFT = 0.1  # of the side
# Of images scaled to [−1, 1].
BLACK = -1.0


def draw_changes(samples: int, side: int, mirrors: bool, generator: torch.Generator) -> Tensor:
    """Draw (samples, 3 or 4), float32: degrees clockwise, pixels to the right, pixels down, and 1 to mirror, else 0.

    The distributions are those of torchvision's RandomAffine(degrees=15, translate=(0.1, 0.1)) and, if `mirrors`,
    RandomHorizontalFlip; as in torchvision, shifts are drawn uniformly and rounded to whole pixels.
    """
    import torch

    uniform = torch.rand(samples, 4 if mirrors else 3, generator=generator)
    most = torch.tensor([MOST_DEGREES, MOST_SHIFT * side, MOST_SHIFT * side])
    changes = (2 * uniform[:, :3] - 1) * most
    return torch.cat([changes[:, :1], changes[:, 1:].round(), (uniform[:, 3:] < 0.5).float()], dim=1)


def change_images(images: Tensor, changes: Tensor) -> Tensor:
    """Rotate about the centre, then shift, then mirror images (B, C, side, side), each as its row of changes says.

    Each pixel takes the value of the pixel nearest to its origin, and is black if the origin is outside, as in
    torchvision's transforms of the same names.
    """
    import torch

    side = images.shape[-1]
    degrees, right, down, *mirrored = changes.to(images.device, images.dtype)[:, :, None].unbind(1)
    # From each pixel of the result back to its origin, in pixels from the centre: (B, side) each.
    centres = torch.arange(side, device=images.device, dtype=images.dtype) - (side - 1) / 2
    x = ((1 - 2 * mirrored[0] if mirrored else 1) * centres - right)[:, None, :]
    y = (centres - down)[:, :, None]
    # Element-wise arithmetic instead of F.affine_grid: its matrix products may round differently in a larger batch, and
    # the result for a point half-way between two pixels would then depend on the batch.
    angle = (degrees * (math.pi / 180))[:, :, None]
    cosine, sine = angle.cos(), angle.sin()
    grid = torch.stack([cosine * x + sine * y, cosine * y - sine * x], dim=-1) / (side / 2)
    inside = _nearest(torch.ones_like(images[:, :1]), grid) > 0.5
    return _nearest(images, grid).where(inside, BLACK)


def _nearest(images: Tensor, grid: Tensor) -> Tensor:
    """The pixels of images (B, C, H, W) nearest to the coordinates (B, H, W, 2), zeros outside."""
    from torch.nn.functional import grid_sample

    return grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)
