"""Training of R replicates at once, with the measurements of every epoch."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.config import TrainingConfig
from trainables.controls import Control
from trainables.measures import accuracy, gradient_comparison, held_out_measures, weight_measures
from trainables.networks import ReplicatedNetwork
from trainables.seeds import generators
from trainables.stopping import LossStop
from trainables.tasks import Split, Splits, Task

# Training samples at most whose accuracy is held against the held-out one's.
MOST_FOR_GAP = 10_000


def train(
    network: ReplicatedNetwork,
    control: Control,
    splits: Splits,
    task: Task,
    config: TrainingConfig,
    seeds: Sequence[int],
) -> Iterator[dict[str, np.ndarray]]:
    """Train in place; yield after each epoch what was measured, each (R,), NaN where a measure does not apply.

    Run it to its end: a replicate that stops at `until_loss` gets the weights of that epoch back only then.

    The measures are EPOCH_METRICS and `weight_std_<layer>` of every hidden layer. `train_loss` is the cross-entropy in
    nats, averaged over the epoch's batches as they were trained; `generalization_gap` the accuracy on training samples
    minus the held-out one, without augmentation and dropout. The self-model and the features are measured on the
    validation split, or on the test split where there is none.
    """
    optimizer = make_optimizer(network, config)
    stop = LossStop(network, -math.inf if config.until_loss is None else config.until_loss)
    held_out = splits.held_out
    trained_on = splits.train.first(min(len(held_out), MOST_FOR_GAP))
    epochs = zip(
        sample_orders(len(splits.train), config, seeds), _augmentations(len(splits.train), task, config, seeds),
        strict=False,
    )  # fmt: skip
    for epoch, (order, changes) in enumerate(epochs, 1):
        network.train()
        losses = _train_epoch(network, control, splits.train, task, order, changes, config.batch_size, optimizer)
        network.eval()
        measured = held_out_measures(network, control, held_out)
        held_out_accuracy = measured.pop("accuracy")
        norm_ratio, cosine = gradient_comparison(network, control, trained_on)
        measures = {
            "epochs_trained": torch.full_like(losses, epoch),
            "train_loss": losses,
            "val_accuracy": torch.full_like(losses, math.nan) if splits.validation is None else held_out_accuracy,
            "test_accuracy": held_out_accuracy if splits.validation is None else accuracy(network, splits.test),
            "generalization_gap": accuracy(network, trained_on) - held_out_accuracy,
            "gradient_norm_ratio": norm_ratio,
            "gradient_cosine": cosine,
        }
        measures |= measured | weight_measures(network, control)
        yield stop.keep({name: values.detach().double().cpu().numpy() for name, values in measures.items()})
        if stop.all_stopped:
            break
    stop.restore()


def loss_per_replicate(control: Control, network: ReplicatedNetwork, inputs: Tensor, labels: Tensor) -> Tensor:
    """CE(classes) + aux_weight · auxiliary loss of inputs (R, B, …), and CE alone: (2, R)."""
    activations = network(inputs, control.record)
    entropy = cross_entropy(activations.logits, labels)
    auxiliary = control.loss(network, activations, inputs)
    total = entropy if auxiliary is None else entropy + control.self_model.config.aux_weight * auxiliary
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
    # "fused" gives the same numbers in one pass over the parameters.
    if config.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    # Momentum and sparse gradients do not go together, nor do these and fused steps.
    # A GPU is faster at adding up a whole table than at sorting its rows; the steps are the same.
    on_cpu = next(network.parameters()).device.type == "cpu"
    sparse = on_cpu and config.momentum == 0 and network.use_sparse_gradients()
    return torch.optim.SGD(
        network.parameters(), lr=config.learning_rate, momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0, fused=not sparse,
    )  # fmt: skip


def _train_epoch(
    network: ReplicatedNetwork,
    control: Control,
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
        losses, entropy = loss_per_replicate(control, network, inputs, split.labels[indices])
        # The replicates share no parameter: the gradient of the sum is each one's own.
        losses.sum().backward()
        optimizer.step()
        total += entropy.detach() * indices.shape[1]
    return total / order.shape[1]


def _augmentations(samples: int, task: Task, config: TrainingConfig, seeds: Sequence[int]) -> Iterator[Tensor | None]:
    """For every epoch the random changes (R, n, k) of each replicate's samples, None where there are none."""
    streams = generators(seeds, "augmentation")
    for _ in range(config.epochs):
        yield torch.stack([task.augmentation(samples, stream) for stream in streams]) if config.augment else None
