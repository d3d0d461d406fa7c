"""Independent random streams from one seed per replicate."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch

# Add a new purpose at the end: its position decides its stream.
Purpose = Literal[
    "initialisation",
    "sample_order",
    "sampler",
    "augmentation",
    "dropout",
    "control",
    "frozen_network",
    "observer",
    "label_noise",
]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def derived_seed(seed: int, purpose: Purpose) -> int:
    """A 63-bit seed for one purpose, so that e.g. a wider head does not change the order of the samples."""
    sequence = np.random.SeedSequence([seed, PURPOSES.index(purpose)])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, purpose: Purpose) -> torch.Generator:
    """A CPU generator for one purpose of one replicate: the same draws on every device."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))


def generators(seeds: Sequence[int], purpose: Purpose) -> list[torch.Generator]:
    """One generator per replicate."""
    return [generator(seed, purpose) for seed in seeds]
