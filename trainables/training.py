"""Training of R replicates at once, with the measurements of every epoch."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.complexity import weight_std
from trainables.config import TrainingConfig
from trainables.networks import ReplicatedNetwork
from trainables.seeds import generator
from trainables.self_model import SelfModel
from trainables.tasks import Split, Splits

EPOCH_METRICS = (
    "train_loss",
    "val_accuracy",
    "test_accuracy",
    "weight_std",
    "self_model_mse",
    "self_model_r2",
    "identity_distance",
)
# Samples in one forward pass of an evaluation: bounds its memory.
EVALUATION_BATCH = 2048


def train(
    network: ReplicatedNetwork, self_model: SelfModel, splits: Splits, config: TrainingConfig, seeds: Sequence[int]
) -> Iterator[dict[str, np.ndarray]]:
    """Train in place; yield after each epoch its EPOCH_METRICS, each (R,), NaN where a metric does not apply.

    `train_loss` is the cross-entropy in nats, averaged over the epoch's batches as they were trained. The self-model is
    measured on the validation split, or on the test split where there is none.
    """
    optimizer = _optimizer(network, config)
    # With no validation split (the published recipe) there is no other data that training has not seen.
    held_out = splits.test if splits.validation is None else splits.validation
    nan = np.full(network.replicates, math.nan)
    for order in _sample_orders(len(splits.train), config, seeds):
        losses = _train_epoch(network, self_model, splits.train, order, config.batch_size, optimizer)
        held_out_metrics = evaluate(network, self_model, held_out)
        test_accuracy = held_out_metrics["accuracy"]
        if splits.validation is not None:
            test_accuracy = evaluate(network, self_model, splits.test)["accuracy"]
        yield {
            "train_loss": _numpy(losses),
            "val_accuracy": nan if splits.validation is None else held_out_metrics["accuracy"],
            "test_accuracy": test_accuracy,
            "weight_std": _numpy(weight_std(network.head.weight, self_model.classes)),
            "self_model_mse": held_out_metrics["self_model_mse"],
            "self_model_r2": held_out_metrics["self_model_r2"],
            "identity_distance": _numpy(self_model.identity_distance(network.head.weight)),
        }


def loss_per_replicate(self_model: SelfModel, network: ReplicatedNetwork, inputs: Tensor, labels: Tensor) -> Tensor:
    """CE(classes) + aux_weight · MSE(prediction, activations) of inputs (R, B, features), and CE alone: (2, R)."""
    activations = network(inputs)
    entropy = cross_entropy(self_model.logits(activations), labels)
    total = entropy
    if self_model.units:
        total = entropy + self_model.config.aux_weight * self_model.mse(activations)
    return torch.stack([total, entropy.detach()])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (R, B, classes) and labels (R, B), (R,)."""
    return functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(dim=1)


@torch.no_grad()
def evaluate(network: ReplicatedNetwork, self_model: SelfModel, split: Split) -> dict[str, np.ndarray]:
    """Accuracy, and the self-model's mean squared error and R² against the mean predictor, each (R,).

    R² pools the target units: 1 − Σ(prediction − target)² / Σ(target − mean of its unit)².
    """
    replicates, device = network.replicates, split.inputs.device
    correct = torch.zeros(replicates, device=device)
    sum_of_targets = torch.zeros(replicates, self_model.units, dtype=torch.float64, device=device)
    sum_of_squares = torch.zeros_like(sum_of_targets)
    squared_error = torch.zeros(replicates, dtype=torch.float64, device=device)
    for inputs, labels in split.batches(EVALUATION_BATCH):
        activations = network(inputs.unsqueeze(0))
        correct += (self_model.logits(activations).argmax(dim=2) == labels).sum(dim=1)
        if self_model.units:
            target = self_model.target(activations)
            sum_of_targets += target.sum(dim=1)
            sum_of_squares += target.square().sum(dim=1)
            squared_error += (self_model.prediction(activations) - target).square().sum(dim=(1, 2))
    metrics = {"accuracy": _numpy(correct) / len(split)}
    if not self_model.units:
        nan = np.full(replicates, math.nan)
        return metrics | {"self_model_mse": nan, "self_model_r2": nan}
    variation = (sum_of_squares - sum_of_targets.square() / len(split)).sum(dim=1)
    return metrics | {
        "self_model_mse": _numpy(squared_error / (len(split) * self_model.units)),
        "self_model_r2": _numpy(1 - squared_error / variation),
    }


def _train_epoch(
    network: ReplicatedNetwork,
    self_model: SelfModel,
    split: Split,
    order: Tensor,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
) -> Tensor:
    """One pass in the given order (R, n); the mean cross-entropy of its samples, (R,)."""
    device = split.inputs.device
    order, total = order.to(device), torch.zeros(network.replicates, device=device)
    for start in range(0, order.shape[1], batch_size):
        indices = order[:, start : start + batch_size]
        optimizer.zero_grad(set_to_none=True)
        losses, entropy = loss_per_replicate(self_model, network, split.inputs[indices], split.labels[indices])
        # The replicates share no parameter: the gradient of the sum is each one's own.
        losses.sum().backward()
        optimizer.step()
        total += entropy.detach() * indices.shape[1]
    return total / order.shape[1]


def _sample_orders(samples: int, config: TrainingConfig, seeds: Sequence[int]) -> Iterator[Tensor]:
    """For every epoch the order (R, n) in which each replicate sees the samples."""
    generators = [generator(seed, "sample_order") for seed in seeds]

    def draw() -> Tensor:
        return torch.stack([torch.randperm(samples, generator=g) for g in generators])

    first = draw()
    for epoch in range(config.epochs):
        yield first if epoch == 0 or config.shuffle == "once" else draw()


def _optimizer(network: ReplicatedNetwork, config: TrainingConfig) -> torch.optim.Optimizer:
    # "fused" gives the same numbers in one pass over the parameters.
    if config.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(
        network.parameters(), lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov, fused=True
    )


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
