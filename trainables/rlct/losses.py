"""The loss that is sampled, and its values at the trained weights, with which every draw is compared."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.networks import ReplicatedModule
from trainables.states import State, integer
from trainables.tasks import Split

# Maps (network of M copies, inputs (G, B, …), labels (G, B)) to the loss of every sample, (M, B), in nats. If G is less
# than M, copies g·M/G … (g+1)·M/G − 1 share batch g.
SampleLosses = Callable[[Any, Tensor, Tensor], Tensor]


# Curvature is measured on at most this many samples, its largest value by this many power iterations.
CURVATURE_SAMPLES, POWER_ITERATIONS = 4096, 5


@dataclass(frozen=True)
class Start:
    """The trained weights of R replicates."""

    losses: np.ndarray  # (R, n), nats
    gradient_norm: np.ndarray  # (R,), ‖∇L‖ of the mean loss L over all samples
    curvature: np.ndarray  # (R,), of L along its gradient
    sharpness: np.ndarray  # (R,), largest curvature of L
    parameters: int  # of one replicate

    @property
    def loss(self) -> np.ndarray:
        """Mean loss, (R,), nats."""
        return np.asarray(self.losses.mean(axis=1, dtype=np.float64))

    def state(self) -> State:
        """All fields, for a snapshot."""
        arrays = {name: torch.from_numpy(value) for name, value in vars(self).items() if name != "parameters"}
        return arrays | {"parameters": integer(self.parameters)}

    @classmethod
    def of_state(cls, state: State) -> Self:
        """The same again from its `state`."""
        fields: dict[str, Any] = {name: tensor.clone().numpy() for name, tensor in state.items()}
        return cls(**fields | {"parameters": int(state["parameters"])})


def cross_entropies(network: Any, inputs: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of every sample under every copy of a classifier, (M, B), nats."""
    outputs = network(inputs).logits
    labels = labels.repeat_interleave(len(outputs) // len(labels), dim=0)
    return functional.cross_entropy(outputs.transpose(1, 2), labels, reduction="none")


def look_at_start(network: ReplicatedModule, split: Split, sample_losses: SampleLosses, probe: float) -> Start:
    """Losses, gradient and curvature of the trained weights, in evaluation mode.

    Curvature is the difference of two gradients at a distance of `probe`: a second derivative misses the kinks of a
    ReLU and does not exist for every layer.
    """
    parts = [network] if network.stackable else [network.replicate(index) for index in range(network.replicates)]
    seen = [_look_at(part, split, sample_losses, probe) for part in parts]
    losses, norm, curvature, sharpness = (np.concatenate(values) for values in zip(*seen, strict=True))
    parameters = sum(parameter.numel() for parameter in network.parameters()) // network.replicates
    return Start(losses, norm, curvature, sharpness, parameters)


def _look_at(
    network: ReplicatedModule, split: Split, sample_losses: SampleLosses, probe: float
) -> tuple[np.ndarray, ...]:
    network, replicates = network.repeated(1).eval(), network.replicates
    origin = [parameter.detach().clone() for parameter in network.parameters()]
    losses, gradient = _losses_and_gradient(network, split, sample_losses)
    stride = -(-len(split) // CURVATURE_SAMPLES)
    some = Split(split.inputs[::stride], split.labels[::stride])
    _, here = _losses_and_gradient(network, some, sample_losses)
    along, curvatures = gradient, []
    # Power iteration from the gradient, which lies near the sharpest direction after training.
    for _ in range(POWER_ITERATIONS):
        # A gradient of exactly zero has no direction: avoid dividing by zero.
        norm = dot(along, along, replicates).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        along = [part / norm.view(-1, *(1 for _ in part.shape[1:])) for part in along]
        with torch.no_grad():
            for parameter, start, direction in zip(network.parameters(), origin, along, strict=True):
                parameter.copy_(start + probe * direction)
        _, beyond = _losses_and_gradient(network, some, sample_losses)
        turned = [(there - before) / probe for there, before in zip(beyond, here, strict=True)]
        curvatures.append(dot(turned, along, replicates))
        along = turned
    gradient_norm = dot(gradient, gradient, replicates).sqrt()
    sharpness = torch.stack(curvatures).amax(dim=0)
    return tuple(values.double().cpu().numpy() for values in (losses, gradient_norm, curvatures[0], sharpness))


def _losses_and_gradient(
    network: ReplicatedModule, split: Split, sample_losses: SampleLosses
) -> tuple[Tensor, list[Tensor]]:
    """The loss of every sample, (R, n), and the gradient of the mean loss, a tensor per parameter."""
    parameters = list(network.parameters())
    losses, gradient = [], [torch.zeros_like(parameter) for parameter in parameters]
    for inputs, labels in split.batches(network.evaluation_batch):
        of_batch = sample_losses(network, inputs.unsqueeze(0), labels.unsqueeze(0))
        losses.append(of_batch.detach())
        for total, part in zip(gradient, torch.autograd.grad(of_batch.sum() / len(split), parameters), strict=True):
            total += part
    return torch.cat(losses, dim=1), gradient


def dot(left: Iterable[Tensor], right: Iterable[Tensor], replicates: int) -> Tensor:
    """Inner product over all parameters of each of R replicates, (R,)."""
    products = [(a * b).reshape(replicates, -1).sum(dim=1) for a, b in zip(left, right, strict=True)]
    return torch.stack(products).sum(dim=0)
