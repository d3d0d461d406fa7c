"""The curvature of the loss: how steep its steepest direction is, and how far it falls along others.

Lanczos iterations from a random direction. The Ritz values approach the largest and the smallest curvature first, and
with their weights they describe all of them (Golub and Meurant 2010, Matrices, Moments and Quadrature; Ghorbani,
Krishnan and Xiao 2019, arXiv 1901.10159).

A product with the second derivative is the difference of two gradients at a distance: a second derivative misses the
kinks of a ReLU and does not exist for every layer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# What is left of a direction is noise if it is this much shorter than the largest curvature: nothing more can be found.
BREAKDOWN = 1e-3

Direction = Sequence[Tensor]  # a part for each parameter


class Spectrum(NamedTuple):
    """Curvatures of R functions, found in K iterations; NaN where a function is not finite."""

    values: np.ndarray  # (R, K), ascending
    shares: np.ndarray  # (R, K), the share of all directions that has each curvature; each row sums to 1

    @property
    def largest(self) -> np.ndarray:
        """The largest curvature, (R,)."""
        return np.asarray(self.values[:, -1])


@dataclass(frozen=True)
class Surface:
    """R functions of parameters that they do not share."""

    parameters: Sequence[Tensor]  # of all functions, replicate by replicate
    replicates: int
    gradient: Callable[[], list[Tensor]]  # of every function at the present parameters
    probe: float  # the distance over which gradients are compared

    def curvature_along(self, direction: Direction) -> np.ndarray:
        """The curvature along a direction, (R,); 0 if the direction is."""
        along = self._of_length_one(direction)
        products = self._products()
        return np.asarray(self.dot(products(along), along).double().cpu().numpy())

    def spectrum(self, iterations: int) -> Spectrum:
        """All curvatures, seen by at most so many iterations."""
        values, vectors = self._ritz(self._products(), self._random_direction(), iterations)
        return Spectrum(values, vectors[:, 0] ** 2)

    def spectrum_and_lowest(self, iterations: int) -> tuple[Spectrum, list[Tensor]]:
        """The same, and the direction of the smallest curvature, of length 1."""
        products, start = self._products(), self._random_direction()
        values, vectors = self._ritz(products, start, iterations)
        # The iterations once more, as keeping all directions would take too much memory in a large network.
        lowest = [torch.zeros_like(part) for part in self.parameters]
        for step, (along, _, _) in enumerate(self._iterate(products, start, iterations)):
            self._add(lowest, torch.from_numpy(vectors[:, step, 0]).to(along[0]), along)
        return Spectrum(values, vectors[:, 0] ** 2), self._of_length_one(lowest)

    def _ritz(
        self, products: Callable[[Direction], list[Tensor]], start: Direction, iterations: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ritz values, (R, K), and vectors, (R, iterations, K)."""
        rows = [(own, coupling) for _, own, coupling in self._iterate(products, start, iterations)]
        own, coupling = (torch.stack(column, dim=1).double().cpu().numpy() for column in zip(*rows, strict=True))
        matrix = np.apply_along_axis(np.diag, 1, own)
        above = range(matrix.shape[1] - 1)
        matrix[:, above, range(1, matrix.shape[1])] = matrix[:, range(1, matrix.shape[1]), above] = coupling[:, :-1]
        finite = np.isfinite(matrix).all(axis=(1, 2))
        values, vectors = np.linalg.eigh(np.where(finite[:, None, None], matrix, 0.0))
        values[~finite] = np.nan
        return values, vectors

    def _iterate(
        self, products: Callable[[Direction], list[Tensor]], start: Direction, iterations: int
    ) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
        """Directions of length 1, the curvature along each, (R,), and its coupling to the next, (R,)."""
        iterations = min(iterations, sum(part.numel() for part in self.parameters) // self.replicates)
        direction, length = start, self._length(start)
        alive, largest = length > 0, torch.zeros_like(length)
        former: list[list[Tensor]] = []
        for _ in range(iterations):
            along = self._scaled(torch.where(alive, 1 / length, 0.0), direction)
            turned = products(along)
            own = self.dot(turned, along)
            former = [*former[-1:], along]
            # Twice, as rounding brings them back.
            for other in (*former, *former):
                self._add(turned, -self.dot(turned, other), other)
            direction, length = turned, self._length(turned)
            largest = torch.maximum(largest, own.abs())
            alive = alive & (length > BREAKDOWN * largest)
            yield along, own, torch.where(alive, length, 0.0)

    def _products(self) -> Callable[[Direction], list[Tensor]]:
        """Gives the product of the second derivative with a direction of length 1."""
        origin, here = [part.detach().clone() for part in self.parameters], self.gradient()

        def product(direction: Direction) -> list[Tensor]:
            move(self.parameters, origin, direction, self.probe)
            beyond = self.gradient()
            move(self.parameters, origin, direction, 0.0)
            return [(there - before) / self.probe for there, before in zip(beyond, here, strict=True)]

        return product

    def dot(self, left: Direction, right: Direction) -> Tensor:
        """Inner product over the parameters of each function, (R,)."""
        return dot(left, right, self.replicates)

    def _length(self, direction: Direction) -> Tensor:
        return self.dot(direction, direction).sqrt()

    def _of_length_one(self, direction: Direction) -> list[Tensor]:
        length = self._length(direction)
        return self._scaled(torch.where(length > 0, 1 / length, 0.0), direction)

    def _scaled(self, factors: Tensor, direction: Direction) -> list[Tensor]:
        """A direction times a factor (R,) for each function."""
        return [(part.view(self.replicates, -1) * factors[:, None]).view_as(part) for part in direction]

    def _add(self, to: Sequence[Tensor], factors: Tensor, direction: Direction) -> None:
        """Add a direction times factors (R,) in place."""
        for target, part in zip(to, self._scaled(factors, direction), strict=True):
            target += part

    def _random_direction(self) -> list[Tensor]:
        """The same one for each function, so that it does not matter which of them are in one stack."""
        random = torch.Generator().manual_seed(0)
        drawn = [torch.randn(part.numel() // self.replicates, generator=random) for part in self.parameters]
        return [
            one.to(part).repeat(self.replicates).view(part.shape)
            for one, part in zip(drawn, self.parameters, strict=True)
        ]


@torch.no_grad()
def move(parameters: Sequence[Tensor], origin: Direction, direction: Direction, distance: float) -> None:
    """Put the parameters at a distance from their origin."""
    for parameter, start, part in zip(parameters, origin, direction, strict=True):
        parameter.copy_(start + distance * part)


def dot(left: Direction, right: Direction, replicates: int) -> Tensor:
    """Inner product over all parameters of each of R replicates, (R,)."""
    products = [(a * b).reshape(replicates, -1).sum(dim=1) for a, b in zip(left, right, strict=True)]
    return torch.stack(products).sum(dim=0)
