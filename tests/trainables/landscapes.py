"""Losses of a few weights, given as formulas, with the mean of nβ·ΔL that an exact sampler would find at them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, pairwise

import numpy as np
import torch
from torch import Tensor, nn

from trainables import RlctConfig
from trainables.networks import ReplicatedModule
from trainables.rlct import RlctEstimate, estimate_rlct
from trainables.tasks import Split

Loss = Callable[[Tensor], Tensor]  # of weights (…, d), gives (…)


class Weights(ReplicatedModule):
    """One network that is nothing but d weights."""

    def __init__(self, start: np.ndarray):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(start).float()[None])


@dataclass(frozen=True)
class Landscape:
    """A loss around its weights w0."""

    loss: Loss
    start: np.ndarray  # (d,), w0

    def estimate(self, settings: RlctConfig, seed: int = 0) -> RlctEstimate:
        """The estimate with a numeric nβ; there is no data."""
        nothing = Split(torch.zeros(64, 1), torch.zeros(64, dtype=torch.int64))

        def losses(network: Weights, inputs: Tensor, labels: Tensor) -> Tensor:
            return self.loss(network.weight)[:, None].expand(-1, inputs.shape[1])

        return estimate_rlct(Weights(self.start), nothing, settings, seed, sample_losses=losses)

    def expected_on_grid(self, nbeta: float, gamma: float, points: int = 1501) -> float:
        """E[nβ·ΔL] under exp(−nβ·ΔL − γ‖w − w0‖²/2), for one or two weights."""
        reach = 9 / math.sqrt(gamma)
        axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
        start = torch.from_numpy(self.start)
        offsets = torch.cartesian_prod(*[axis] * len(start)).view(-1, len(start))
        return self._mean(start + offsets, -gamma / 2 * offsets.square().sum(dim=1), nbeta)

    def expected_by_prior(self, nbeta: float, gamma: float, draws: int = 400_000) -> float:
        """The same for a few more weights, from draws of exp(−γ‖w − w0‖²/2)."""
        generator = torch.Generator().manual_seed(0)
        start = torch.from_numpy(self.start)
        offsets = torch.randn(draws, len(start), generator=generator, dtype=torch.float64) / math.sqrt(gamma)
        return self._mean(start + offsets, torch.zeros(draws, dtype=torch.float64), nbeta)

    def _mean(self, weights: Tensor, log_density: Tensor, nbeta: float) -> float:
        rise = nbeta * (self.loss(weights) - self.loss(torch.from_numpy(self.start)))
        exponent = log_density - rise
        density = (exponent - exponent.max()).exp()
        return float((density * rise).sum() / density.sum())


def quadratic(curvatures: np.ndarray, start: np.ndarray | None = None) -> Landscape:
    """Σ hᵢwᵢ²/2, at 0 unless a start is given."""
    rates = torch.from_numpy(curvatures)

    def loss(weights: Tensor) -> Tensor:
        return (weights.square() * rates.to(weights)).sum(dim=-1) / 2

    return Landscape(loss, np.zeros(len(curvatures)) if start is None else start)


def expected_of_quadratic(curvatures: np.ndarray, nbeta: float, gamma: float) -> float:
    """E[nβ·ΔL] of a quadratic at 0: Σ nβ·hᵢ/(2(nβ·hᵢ + γ))."""
    return float((nbeta * curvatures / (nbeta * curvatures + gamma)).sum() / 2)


def quadratic_after_draws(curvatures: np.ndarray, config: RlctConfig) -> np.ndarray:
    """E[nβ·ΔL] of hx²/2 per curvature h, over the kept draws of chains that start at 0 and take steps as they are.

    A step ε of SGLD is x → a·x + √ε·noise, a = 1 − ε(nβ·h + γ)/2: after t steps the variance is ε(1 − a²ᵗ)/(1 − a²).
    """
    assert not isinstance(config.nbeta, str)
    step, force = config.step_size, config.nbeta * curvatures
    shrink = (1 - step * (force + config.localization) / 2) ** 2
    start, end = shrink**config.burn_in, shrink**config.draws
    # The mean of the geometric series over the kept draws.
    left = (start - end) / ((1 - shrink) * config.kept_draws)
    return np.asarray(force / 2 * step * (1 - left) / (1 - shrink))


def monomial(*exponents: int) -> Landscape:
    """Π wᵢ^eᵢ at 0."""
    powers = torch.tensor(exponents, dtype=torch.float64)

    def loss(weights: Tensor) -> Tensor:
        return (weights.abs() ** powers.to(weights)).prod(dim=-1)

    return Landscape(loss, np.zeros(len(exponents)))


def circle() -> Landscape:
    """(x² + y² − 1)² at (1, 0): the minimum is a circle."""
    return Landscape(lambda weights: (weights.square().sum(dim=-1) - 1).square(), np.array([1.0, 0.0]))


def cusp() -> Landscape:
    """(x² − y³)² at 0, λ = 5/12."""
    return Landscape(lambda weights: (weights[..., 0] ** 2 - weights[..., 1] ** 3).square(), np.zeros(2))


def tanh_network(units: int) -> Landscape:
    """Σ bᵢ·tanh(aᵢ·x), fitted to zero on 64 points x of a normal distribution; squared errors; at 0."""
    points = torch.from_numpy(np.random.default_rng(0).normal(size=64))

    def loss(weights: Tensor) -> Tensor:
        slopes, heights = weights[..., :units], weights[..., units:]
        hidden = (slopes[..., None] * points.to(weights)).tanh()
        outputs: Tensor = (heights[..., None] * hidden).sum(dim=-2)
        return outputs.square().mean(dim=-1) / 2

    return Landscape(loss, np.zeros(2 * units))


def deep_linear_layers(sizes: Sequence[int], rank: int, seed: int = 0) -> list[np.ndarray]:
    """The weights of a linear network, first layer first, whose product has this rank.

    Random weights of variance 1/units, in one layer of which all but the largest singular values are 0.
    """
    rng = np.random.default_rng(seed)
    layers = [rng.normal(size=(b, a)) / math.sqrt(max(a, b)) for a, b in pairwise(sizes)]
    if rank < min(sizes):
        reduced = seed % len(layers)
        left, values, right = np.linalg.svd(layers[reduced], full_matrices=False)
        values[rank:] = 0
        layers[reduced] = left * values @ right
    return layers


def product_of(layers: Sequence[np.ndarray], units: int) -> np.ndarray:
    """W_L ⋯ W_1; the identity on so many units if there is no layer."""
    return reduce(lambda product, layer: layer @ product, layers, np.eye(units))


def deep_linear(sizes: Sequence[int], rank: int, seed: int = 0) -> Landscape:
    """‖W_L ⋯ W_1 − T‖²/2 at weights with the product T, of this rank: a linear network of L layers, inputs whitened."""
    layers = deep_linear_layers(sizes, rank, seed)
    target = torch.from_numpy(product_of(layers, sizes[0]))

    def loss(weights: Tensor) -> Tensor:
        parts = torch.split(weights, [layer.size for layer in layers], dim=-1)
        shaped = [part.reshape(*part.shape[:-1], *layer.shape) for part, layer in zip(parts, layers, strict=True)]
        product: Tensor = reduce(lambda so_far, layer: layer @ so_far, shaped)
        return (product - target.to(weights)).square().sum(dim=(-1, -2)) / 2

    return Landscape(loss, np.concatenate([layer.ravel() for layer in layers]))


def deep_linear_lambda_at_start(sizes: Sequence[int], rank: int) -> float:
    """λ around the weights of `deep_linear_layers` at seed 0, where the first layer alone has not full rank.

    There the weights with this product form a manifold: λ is half the rank of the differential of the product. It is
    larger than the λ of `deep_linear_lambda`, which is the smallest over all weights with this product.
    """
    narrowest = min(sizes[1:])
    return (narrowest * sizes[0] + (sizes[-1] - narrowest) * rank) / 2


def deep_linear_lambda(sizes: Sequence[int], rank: int) -> tuple[float, int]:
    """λ and multiplicity of a linear network: Aoyagi (2024), Neural Networks 172, main theorem.

    Raises:
        ValueError: there is no such network.
    """
    excess = sorted(size - rank for size in sizes)
    for count in range(2, len(excess) + 1):
        chosen, others = excess[:count], excess[count:]
        layers, total = count - 1, sum(chosen)
        if total >= layers * max(chosen) and (not others or total < layers * min(others)):
            a = total - (math.ceil(total / layers) - 1) * layers
            pairs = sum(x * y for x, y in combinations(chosen, 2))
            squares = layers * (layers - 1) / 4 * (total / layers) ** 2
            regular = (rank * (sizes[0] + sizes[-1]) - rank**2) / 2
            return regular + a * (layers - a) / (4 * layers) - squares + pairs / 2, a * (layers - a) + 1
    raise ValueError(f"no network has the sizes {sizes} and the rank {rank}")
