"""Sizes of the parts that networks are made of."""

from collections.abc import Sequence
from itertools import pairwise

from trainables.networks.architectures.base import Head, Size

NOTHING = Size(0, 0)


def dense(inputs: int, outputs: int) -> Size:
    """A linear layer with biases."""
    return Size(inputs * outputs, (inputs + 1) * outputs)


def dense_stack(units: Sequence[int]) -> Size:
    """Linear layers one after the other; `units` lists the inputs and then the outputs of each layer."""
    return sum((dense(inputs, outputs) for inputs, outputs in pairwise(units)), NOTHING)


def convolution(inputs: int, outputs: int, kernel: int, pixels: int) -> Size:
    """A convolution without biases, from `inputs` to `outputs` channels; `pixels` are those of the output image."""
    weights = inputs * outputs * kernel**2
    return Size(weights * pixels, weights)


def biases(units: int) -> Size:
    """Biases of this many units or channels."""
    return Size(0, units)


def normalisation(units: int) -> Size:
    """Scales and shifts of this many units or channels."""
    return Size(0, 2 * units)


def table(rows: int, units: int, places: int) -> Size:
    """A table of vectors, looked up at every position of a text."""
    return Size(places * units, rows * units)


def readout(features: int, head: Head) -> Size:
    """The final linear layer, and the separate head if the network has one."""
    final = dense(features, sum(head.rows))
    if not head.predicted or head.hidden is None:
        return final
    return final + dense_stack([features if head.reads is None else head.reads.units, head.hidden, head.predicted])
