"""Training of R replicates at once, with the measurements of every epoch."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.auxiliary import AuxiliaryTask
from trainables.config import TrainingConfig
from trainables.measures.epoch import EpochView, measure_epoch
from trainables.networks import ReplicatedNetwork
from trainables.seeds import generators
from trainables.stopping import LossStop
from trainables.tasks import Split, Splits, Task


def train(
    network: ReplicatedNetwork,
    auxiliary: AuxiliaryTask,
    splits: Splits,
    task: Task,
    config: TrainingConfig,
    seeds: Sequence[int],
) -> Iterator[dict[str, np.ndarray]]:
    """Train in place; yield the measures of each epoch, each (R,), NaN where a measure does not apply.

    Run the generator to its end: only then does a replicate that stopped at `until_loss` get back its weights of that
    epoch.
    """
    optimizer = make_optimizer(network, config)
    stop = LossStop(network, -math.inf if config.until_loss is None else config.until_loss)
    orders = sample_orders(len(splits.train), config, seeds)
    augmentations = _augmentations(len(splits.train), task, config, seeds)
    for epoch, (order, changes) in enumerate(zip(orders, augmentations, strict=False), 1):
        network.train()
        losses = _train_epoch(network, auxiliary, splits.train, task, order, changes, config.batch_size, optimizer)
        network.eval()
        yield stop.keep(measure_epoch(EpochView(network, auxiliary, splits, epoch, losses)))
        if stop.all_stopped:
            break
    stop.restore()


def loss_per_replicate(auxiliary: AuxiliaryTask, network: ReplicatedNetwork, inputs: Tensor, labels: Tensor) -> Tensor:
    """CE(classes) + aux_weight · auxiliary loss, and CE alone, for inputs (R, B, …): (2, R)."""
    activations = network(inputs, auxiliary.record)
    entropy = cross_entropy(activations.logits, labels)
    added = auxiliary.loss(network, activations, inputs)
    total = entropy if added is None else entropy + auxiliary.weight * added
    return torch.stack([total, entropy.detach()])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (R, B, classes) and labels (R, B), (R,)."""
    return functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(dim=1)


def sample_orders(samples: int, config: TrainingConfig, seeds: Sequence[int]) -> Iterator[Tensor]:
    """For every epoch the order (R, n) in which each replicate sees the samples."""
    streams = generators(seeds, "sample_order")

    def draw() -> Tensor:
        return torch.stack([torch.randperm(samples, generator=stream) for stream in streams])

    first = draw()
    for epoch in range(config.epochs):
        yield first if epoch == 0 or config.shuffle == "once" else draw()


def make_optimizer(network: ReplicatedNetwork, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of all replicates at once."""
    # "fused" computes the same in one pass over the parameters.
    if config.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    # PyTorch cannot combine sparse gradients with momentum or with fused steps.
    # A GPU adds up a whole table faster than it sorts the rows of a sparse one; the steps are the same.
    on_cpu = next(network.parameters()).device.type == "cpu"
    sparse = on_cpu and config.momentum == 0 and network.use_sparse_gradients()
    return torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        fused=not sparse,
    )


def _train_epoch(
    network: ReplicatedNetwork,
    auxiliary: AuxiliaryTask,
    split: Split,
    task: Task,
    order: Tensor,
    changes: Tensor | None,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
) -> Tensor:
    """One pass in the given order (R, n); the mean cross-entropy of its samples, (R,)."""
    device = split.inputs.device
    order, total = order.to(device), torch.zeros(network.replicates, device=device)
    changes = None if changes is None else changes.to(device)
    for start in range(0, order.shape[1], batch_size):
        indices = order[:, start : start + batch_size]
        inputs = split.inputs[indices]
        if changes is not None:
            of_batch = torch.take_along_dim(changes, indices.unsqueeze(2), dim=1)
            inputs = task.augment(inputs.flatten(0, 1), of_batch.flatten(0, 1)).view_as(inputs)
        optimizer.zero_grad(set_to_none=True)
        losses, entropy = loss_per_replicate(auxiliary, network, inputs, split.labels[indices])
        # The replicates share no parameter: the gradient of the summed loss is that of each replicate's own loss.
        losses.sum().backward()
        optimizer.step()
        total += entropy.detach() * indices.shape[1]
    return total / order.shape[1]


def _augmentations(samples: int, task: Task, config: TrainingConfig, seeds: Sequence[int]) -> Iterator[Tensor | None]:
    """For every epoch the random changes (R, n, k) of each replicate's samples; None without augmentation."""
    streams = generators(seeds, "augmentation")
    for _ in range(config.epochs):
        yield torch.stack([task.augmentation(samples, stream) for stream in streams]) if config.augment else None
