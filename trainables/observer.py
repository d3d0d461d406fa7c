"""The observer: a second network that learns to predict the trained one.

It has a fixed size and learns the activations and class probabilities of the trained network from the inputs alone. How
well it predicts on held-out inputs, new to both networks, tells how predictable the trained network has become.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.config import NetworkConfig, ObserverConfig, TrainingConfig
from trainables.networks import Head, ReplicatedNetwork, get_architecture
from trainables.networks.layers import ReplicatedEmbedding
from trainables.seeds import derived_seed
from trainables.snapshot import Snapshots
from trainables.states import (
    State,
    integer,
    optimizer_state,
    parameters_of,
    prefixed,
    restore_optimizer,
    restore_parameters,
    under,
)
from trainables.tasks import Split, Splits
from trainables.tasks.base import InputSpec
from trainables.training import sample_orders

# Samples from which the scale of the observed activations is taken.
SCALE_SAMPLES = 4096


@dataclass(frozen=True)
class Observation:
    """How well the observer predicts each of R networks on held-out inputs, each (R,)."""

    r2: np.ndarray  # of the activations against the mean predictor, units pooled
    agreement: np.ndarray  # share of inputs for which it predicts the network's most probable class


def observe(
    network: ReplicatedNetwork,
    depths: Sequence[int],
    inputs: InputSpec,
    splits: Splits,
    config: ObserverConfig,
    seeds: Sequence[int],
    snapshots: Snapshots | None = None,
) -> Observation:
    """Train an observer per replicate on the training split, and measure it on the held-out one.

    The observer is a perceptron with one hidden layer, or for text the mean of token vectors and one hidden layer. Its
    loss is the cross-entropy of the class probabilities plus the mean squared error of the activations. Each unit's
    mean is subtracted, and all units are divided by one scale.

    Args:
        network: the observed one, in evaluation mode; left unchanged.
        depths: of the layers whose activations are observed.
        inputs: shape of one sample.
        splits: the held-out split is the validation split, or the test split if there is no validation split.
        config: size and training of the observer.
        seeds: of the R observed networks; the observers' seeds are derived from these.
        snapshots: what an earlier worker has trained is taken from there, and the observers' state is kept there.
    """
    snapshots = snapshots or Snapshots()
    observed = _Observed(network, tuple(depths), splits.train)
    device = splits.train.inputs.device
    observer_seeds = [derived_seed(seed, "observer") for seed in seeds]
    reader = NetworkConfig(architecture="embedding_bag" if inputs.is_text else "mlp", width=config.width)
    head = Head(network.classes, observed.units)
    student = get_architecture(reader.architecture).build(reader, inputs, head, observer_seeds).to(device)
    optimizers = _optimizers(student, config)
    training = TrainingConfig(epochs=config.epochs, batch_size=config.batch_size)
    epoch = start = 0

    def state() -> State:
        trained = prefixed("weights", parameters_of(student))
        for index, optimizer in enumerate(optimizers):
            trained |= prefixed(f"optimizer{index}", optimizer_state(optimizer))
        return trained | {"epoch": integer(epoch), "start": integer(start)}

    if earlier := snapshots.restored("observer"):
        epoch, start = int(earlier["epoch"]), int(earlier["start"])
        restore_parameters(student, under("weights", earlier))
        for index, optimizer in enumerate(optimizers):
            restore_optimizer(optimizer, under(f"optimizer{index}", earlier))
    snapshots.include("observer", state)
    first_epoch, first_start = epoch, start
    orders = sample_orders(len(splits.train), training, observer_seeds)
    for epoch, order in islice(enumerate(orders), first_epoch, None):
        for start in range(first_start if epoch == first_epoch else 0, order.shape[1], config.batch_size):
            snapshots.save_if_due()
            seen = splits.train.inputs[order[:, start : start + config.batch_size].to(device)]
            probabilities, activations = observed(seen)
            predicted = student(seen)
            entropy = functional.cross_entropy(
                predicted.logits.flatten(0, 1), probabilities.flatten(0, 1), reduction="none"
            )
            error = (predicted.prediction - activations).square().mean(dim=2)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            # The replicates share no parameter: the gradient of the summed loss is that of each replicate's own loss.
            (entropy.view_as(error) + error).mean(dim=1).sum().backward()
            for optimizer in optimizers:
                optimizer.step()
    return _measure(student.eval(), observed, splits.held_out)


class _Observed:
    """The observer's targets from R networks: class probabilities, and centred activations on one scale."""

    @torch.no_grad()
    def __init__(self, network: ReplicatedNetwork, depths: tuple[int, ...], train: Split):
        self._network, self._depths = network, depths
        self.evaluation_batch = network.evaluation_batch
        sample = torch.cat(
            [
                self._activations(inputs.unsqueeze(0))[1]
                for inputs, _ in train.first(SCALE_SAMPLES).batches(network.evaluation_batch)
            ],
            dim=1,
        )
        variance, self._mean = torch.var_mean(sample, dim=1, keepdim=True)
        # Activations that never change are predicted by their mean: their scale does not matter.
        scale = variance.mean(dim=2, keepdim=True).sqrt()
        self._scale = torch.where(scale > 0, scale, 1.0)
        self.units = sample.shape[2]

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits, activations = self._activations(inputs)
        return logits.softmax(dim=2), (activations - self._mean) / self._scale

    def _activations(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        seen = self._network(inputs, self._depths)
        return seen.logits, torch.cat([seen.hidden[depth] for depth in self._depths], dim=2)


@torch.no_grad()
def _measure(student: ReplicatedNetwork, observed: _Observed, held_out: Split) -> Observation:
    agreed, error, total, squares = [], [], [], []
    for inputs, _ in held_out.batches(observed.evaluation_batch):
        probabilities, activations = observed(inputs.unsqueeze(0))
        predicted = student(inputs.unsqueeze(0))
        same = (predicted.logits.argmax(dim=2) == probabilities.argmax(dim=2)).double()
        # A diverged network predicts nothing that the observer could agree with.
        agreed.append(torch.where(probabilities.isfinite().all(dim=2), same, math.nan).sum(dim=1))
        error.append((predicted.prediction - activations).double().square().sum(dim=(1, 2)))
        total.append(activations.double().sum(dim=1))
        squares.append(activations.double().square().sum(dim=1))
    samples = len(held_out)
    variation = (_sum(squares) - _sum(total).square() / samples).sum(dim=1)
    r2 = 1 - _sum(error) / variation
    return Observation(r2.cpu().numpy(), (_sum(agreed) / samples).cpu().numpy())


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(dim=0)


def _optimizers(student: ReplicatedNetwork, config: ObserverConfig) -> list[torch.optim.Optimizer]:
    if not student.use_sparse_gradients():
        return [torch.optim.Adam(student.parameters(), lr=config.learning_rate, fused=True)]
    tables = [module.weight for module in student.modules() if isinstance(module, ReplicatedEmbedding)]
    others = [parameter for parameter in student.parameters() if not any(parameter is table for table in tables)]
    # SparseAdam updates only the tokens of the batch; Adam would update the whole table each time.
    return [
        torch.optim.Adam(others, lr=config.learning_rate, fused=True),
        torch.optim.SparseAdam(tables, lr=config.learning_rate),
    ]
