"""How benchmarks state their machine and their measurements."""

import contextlib
import platform
from pathlib import Path

import numpy as np
import torch


def hardware(device: str) -> str:
    """The name of the GPU, or of the processor for the device 'cpu'."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def spread(values: np.ndarray, form: str) -> str:
    """Median, minimum and maximum."""
    return f"{np.median(values):{form}} ({values.min():{form}}–{values.max():{form}})"
