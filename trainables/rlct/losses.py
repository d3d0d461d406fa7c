"""The loss that is sampled, and its values at the trained weights, with which every draw is compared."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.config import CURVATURE_ITERATIONS, CURVATURE_SAMPLES
from trainables.networks import ReplicatedModule
from trainables.rlct.curvature import Surface, dot, move
from trainables.states import State
from trainables.tasks import Split

# Maps (network of M copies, inputs (G, B, …), labels (G, B)) to the loss of every sample, (M, B), in nats. If G is less
# than M, copies g·M/G … (g+1)·M/G − 1 share batch g.
SampleLosses = Callable[[Any, Tensor, Tensor], Tensor]


# The noise of a batch's gradient is found from at least this many batches, smaller ones if need be.
FEWEST_BATCHES = 8
# Along the direction of the smallest curvature, the loss is seen at these multiples of the distance of the probe.
OUTLOOK = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


@dataclass(frozen=True)
class _PerReplicate:
    """Arrays with an entry for each of R replicates."""

    @classmethod
    def together(cls, parts: Iterable[Self]) -> Self:
        """The replicates of all parts, which are of networks of one shape."""
        seen = [vars(part) for part in parts]
        return cls(**{name: np.concatenate([one[name] for one in seen]) for name in seen[0]})

    def state(self) -> State:
        """All fields, for a snapshot."""
        return {name: torch.from_numpy(value) for name, value in vars(self).items()}

    @classmethod
    def of_state(cls, state: State) -> Self:
        """The same again from its `state`."""
        return cls(**{name: tensor.clone().numpy() for name, tensor in state.items()})


@dataclass(frozen=True)
class Start(_PerReplicate):
    """The trained weights of R replicates. Of a part of the network, all but the losses are of its weights alone."""

    losses: np.ndarray  # (R, n), nats
    norm: np.ndarray  # (R,), of the weights, ‖w0‖
    gradient_norm: np.ndarray  # (R,), ‖∇L‖ of the mean loss L over all samples
    batch_variance: np.ndarray  # (R,), E‖g − ∇L‖² of the gradient g of a batch
    curvature: np.ndarray  # (R,), of L along its gradient
    parameters: np.ndarray  # (R,), their number

    @property
    def loss(self) -> np.ndarray:
        """Mean loss, (R,), nats."""
        return np.asarray(self.losses.mean(axis=1, dtype=np.float64))


def cross_entropies(network: Any, inputs: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of every sample under every copy of a classifier, (M, B), nats."""
    outputs = network(inputs).logits
    labels = labels.repeat_interleave(len(outputs) // len(labels), dim=0)
    return functional.cross_entropy(outputs.transpose(1, 2), labels, reduction="none")


@dataclass(frozen=True)
class SampledLoss:
    """The mean loss of R replicates as a function of the parameters that are sampled; all others are fixed."""

    network: ReplicatedModule
    parameters: Sequence[Tensor]
    split: Split
    sample_losses: SampleLosses

    @classmethod
    def of(
        cls, network: ReplicatedModule, split: Split, sample_losses: SampleLosses, part: Collection[str] | None
    ) -> Self:
        """The loss as a function of the parameters named in `part`, or of all."""
        named = dict(network.named_parameters())
        for name, parameter in named.items():
            parameter.requires_grad_(part is None or name in part)
        sampled = [parameter for parameter in named.values() if parameter.requires_grad]
        return cls(network, sampled, split, sample_losses)

    def gradient(self) -> list[Tensor]:
        """The gradient over all samples, a tensor per parameter."""
        gradient = [torch.zeros_like(parameter) for parameter in self.parameters]
        for inputs, labels in self.split.batches(self.network.evaluation_batch):
            losses = self.sample_losses(self.network, inputs.unsqueeze(0), labels.unsqueeze(0))
            parts = torch.autograd.grad(losses.sum() / len(self.split), self.parameters)
            for total, part in zip(gradient, parts, strict=True):
                total += part
        return gradient

    @torch.no_grad()
    def value(self) -> Tensor:
        """The loss over all samples, (R,)."""
        total = torch.zeros(self.network.replicates, device=self.split.inputs.device)
        for inputs, labels in self.split.batches(self.network.evaluation_batch):
            total += self.sample_losses(self.network, inputs.unsqueeze(0), labels.unsqueeze(0)).sum(dim=1)
        return total / len(self.split)

    def on_some_samples(self) -> Self:
        """The same on as many of the samples as curvatures need."""
        stride = -(-len(self.split) // CURVATURE_SAMPLES)
        return replace(self, split=Split(self.split.inputs[::stride], self.split.labels[::stride]))

    def surface(self, probe: float) -> Surface:
        """The loss with its curvatures over this distance."""
        return Surface(self.parameters, self.network.replicates, self.gradient, probe)

    def rises_along(self, direction: Sequence[Tensor], distances: Sequence[float]) -> Tensor:
        """The rise of the loss at distances along a direction of length 1, mean of both sides, (R, distances)."""
        origin, here = [parameter.detach().clone() for parameter in self.parameters], self.value()
        rises = []
        for distance in distances:
            sides = []
            for signed in (distance, -distance):
                move(self.parameters, origin, direction, signed)
                sides.append(self.value())
            rises.append((sides[0] + sides[1]) / 2 - here)
        move(self.parameters, origin, direction, 0.0)
        return torch.stack(rises, dim=1)

    def batches(self, batch_size: int) -> tuple[Tensor, list[Tensor], Tensor]:
        """The loss of every sample, (R, n), the gradient, and the variance of a batch's gradient, (R,).

        The variance E‖g − ∇L‖² is that of batches drawn without replacement, found from batches that share no sample.
        """
        samples, replicates = len(self.split), self.network.replicates
        size = max(1, min(batch_size, self.network.evaluation_batch, samples // FEWEST_BATCHES))
        # Data is often in order of its classes.
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(0)).to(self.split.inputs.device)
        losses = torch.empty(replicates, samples, device=order.device)
        gradient = [torch.zeros_like(parameter) for parameter in self.parameters]
        squares, full = torch.zeros(replicates, device=order.device), samples // size
        for indices in torch.split(order, size):
            inputs, labels = self.split.inputs[indices].unsqueeze(0), self.split.labels[indices].unsqueeze(0)
            of_batch = self.sample_losses(self.network, inputs, labels)
            losses[:, indices] = of_batch.detach()
            parts = torch.autograd.grad(of_batch.sum() / samples, self.parameters)
            for total, part in zip(gradient, parts, strict=True):
                total += part
            if len(indices) == size:
                squares += dot(parts, parts, replicates) * (samples / size) ** 2
        spread = (squares - full * dot(gradient, gradient, replicates)).clamp(min=0) / max(full - 1, 1)
        return losses, gradient, spread * (size / batch_size) * (1 - batch_size / samples)


def look_at_start(loss: SampledLoss, probe: float, batch_size: int) -> Start:
    """Losses and gradient of the trained weights, in evaluation mode.

    Args:
        loss: of a network in evaluation mode at the trained weights; they are moved for a while, and put back.
        probe: the distance over which curvatures are measured.
        batch_size: of the sampler.
    """
    replicates = loss.network.replicates
    losses, gradient, variance = loss.batches(batch_size)
    return Start(
        losses=losses.cpu().numpy(),
        norm=_numbers(dot(loss.parameters, loss.parameters, replicates).sqrt()),
        gradient_norm=_numbers(dot(gradient, gradient, replicates).sqrt()),
        batch_variance=_numbers(variance),
        curvature=loss.on_some_samples().surface(probe).curvature_along(gradient),
        parameters=np.full(replicates, sum(parameter.numel() for parameter in loss.parameters) // replicates),
    )


@dataclass(frozen=True)
class Surroundings(_PerReplicate):
    """The curvatures of the loss at the trained weights of R replicates."""

    largest: np.ndarray  # (R,), the largest curvature
    rises: np.ndarray  # (R, OUTLOOK), of the loss along the direction of the smallest one, mean of both sides


def look_around(loss: SampledLoss, probe: float) -> Surroundings:
    """The curvatures at the trained weights, which are moved for a while, over the distance of the probe."""
    some = loss.on_some_samples()
    spectrum, lowest = some.surface(probe).spectrum_and_lowest(CURVATURE_ITERATIONS)
    rises = some.rises_along(lowest, [probe * multiple for multiple in OUTLOOK])
    return Surroundings(spectrum.largest, _numbers(rises))


def _numbers(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().double().cpu().numpy())
