"""The balanced network: of all networks that differ in the scales of their hidden units alone, the shortest.

With a positively homogeneous activation function, as ReLU is, a hidden unit's weights and bias times c, and the weights
by which other layers read it divided by c, give the same function. Training moves along this symmetry, and measures of
weights change with it. Where each unit's incoming weights, its bias among them, are as long as its outgoing ones, the
sum of all squared weights is least. This point is unique but for units that do nothing, which become 0.

Gradient flow keeps the difference of the squared lengths: Du, Hu and Lee (2018), arXiv 1806.00900.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from trainables.networks.base import Connection, ReplicatedNetwork

_Network = TypeVar("_Network", bound=ReplicatedNetwork)

# Sweeps over the layers, and the relative change of a squared scale at which they end.
MOST_SWEEPS, TOLERANCE = 1000, 1e-9


class _Scales(NamedTuple):
    """The squares of the scales of a layer's units, (R, units), and of their inverses; both 0 of units to remove."""

    squared: Tensor
    inverse: Tensor


@torch.no_grad()
def balanced(network: _Network) -> _Network | None:
    """A balanced copy of the classification network; None if its units have no scale that is free.

    Its logits are those of the network but for rounding. Where weights are not finite, so are the copy's.
    """
    classifier = network.classifier()
    connections = classifier.rescalable()
    if connections is None:
        return None
    scales = _balancing(connections)
    for connection in connections:
        if connection.writes is not None:
            _multiply(connection.weight, scales[connection.writes].squared.sqrt(), axis=1)
        if connection.reads is not None:
            _multiply(connection.weight, scales[connection.reads].inverse.sqrt(), axis=2)
    return classifier


@torch.no_grad()
def path_norm(network: ReplicatedNetwork) -> Tensor | None:
    """√(Σ over paths Π w²), (R,): a path leads from an input or a bias to a class, through one weight of each layer.

    It is the same for all networks that differ in the scales of their units (Neyshabur, Salakhutdinov and Srebro 2015,
    arXiv 1506.02617); None if the units have no scale that is free. Of a convolution, the places of its kernel count
    once, not once for each pixel.
    """
    connections = network.rescalable()
    if connections is None:
        return None
    reached: dict[str | None, Tensor] = {}
    # In the order in which the layers read each other.
    for connection in connections:
        # The last layer may have rows that predict activations.
        weight = connection.weight if connection.writes else connection.weight[:, : network.classes]
        if connection.reads is None:
            paths = weight.square().flatten(2).sum(dim=2, dtype=torch.float64)
        else:
            squares = weight.double().square()
            squares = squares.flatten(3).sum(dim=3) if squares.dim() > 3 else squares
            paths = (squares @ reached[connection.reads].unsqueeze(2)).squeeze(2)
        reached[connection.writes] = reached[connection.writes] + paths if connection.writes in reached else paths
    return reached[None].sum(dim=1).sqrt()


def _balancing(connections: Sequence[Connection]) -> dict[str, _Scales]:
    """The scales of each layer at which it is balanced, found layer by layer in turn.

    The sum of squares is convex in the logarithms of the scales, so these sweeps end at its least value.
    """
    squares = [_squares(connection) for connection in connections]
    scales: dict[str, _Scales] = {}
    for connection, square in zip(connections, squares, strict=True):
        if connection.writes is not None:
            ones = square.new_ones(square.shape[:2])
            scales.setdefault(connection.writes, _Scales(ones, ones))
    for _ in range(MOST_SWEEPS):
        change = 0.0
        for name, former in scales.items():
            into, out = torch.zeros_like(former.squared), torch.zeros_like(former.squared)
            for connection, square in zip(connections, squares, strict=True):
                if connection.writes == name:
                    of_sources = scales[connection.reads].inverse[:, None] if connection.reads else 1.0
                    into = into + (square * of_sources).sum(dim=2)
                if connection.reads == name:
                    of_targets = scales[connection.writes].squared[..., None] if connection.writes else 1.0
                    out = out + (square * of_targets).sum(dim=1)
            # NaN is not idle: it goes on into the weights.
            idle = (into == 0) | (out == 0)
            squared = torch.where(idle, 0.0, (out / into).sqrt())
            scales[name] = _Scales(squared, torch.where(idle, 0.0, 1 / squared))
            moved = torch.where(idle, 0.0, squared / former.squared - 1).abs().nan_to_num(0.0, 0.0)
            change = max(change, float(moved.max()))
        if change < TOLERANCE:
            break
    return scales


def _squares(connection: Connection) -> Tensor:
    """The squared weights between each two units, summed over those that no scale tells apart: (R, outputs, inputs)."""
    squares = connection.weight.double().square()
    summed = range(2 if connection.reads is None else 3, squares.dim())
    squares = squares.sum(dim=[*summed]) if summed else squares
    if connection.reads is None:
        squares = squares.unsqueeze(2)
    return squares.sum(dim=1, keepdim=True) if connection.writes is None else squares


def _multiply(weight: Tensor, scale: Tensor, axis: int) -> None:
    """Multiply the weights (R, outputs, inputs, …) where they are by scales (R, units) along an axis."""
    shape = [1] * weight.dim()
    shape[0], shape[axis] = scale.shape
    weight.mul_(scale.to(weight.dtype).view(shape))
