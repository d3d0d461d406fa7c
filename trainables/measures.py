"""What is measured of networks in each epoch: accuracy, the self-model, weights, activations, gradients.

Networks are measured in evaluation mode: batch norm with its running statistics, no dropout.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from trainables.controls import Control
from trainables.networks import Activations, ReplicatedNetwork
from trainables.tasks import Split

EPOCH_METRICS = (
    "epochs_trained",
    "train_loss",
    "val_accuracy",
    "test_accuracy",
    "generalization_gap",
    "weight_std",
    "self_model_mse",
    "self_model_r2",
    "identity_distance",
    "gradient_norm_ratio",
    "gradient_cosine",
    "activation_norm",
    "dead_unit_share",
    "effective_rank",
)
# Beside them, for each hidden layer, the standard deviation of its weights: this and the layer's name.
LAYER_WEIGHT_STD = "weight_std_"
# Effective rank and gradients are of so many samples.
MEASURED_SAMPLES = 2048


@torch.no_grad()
def accuracy(network: ReplicatedNetwork, split: Split) -> Tensor:
    """Share of the split's samples that are classified right, (R,)."""
    correct = torch.zeros(network.replicates, device=split.inputs.device)
    for activations, _, labels in _passes(network, split):
        correct += (activations.logits.argmax(dim=2) == labels).sum(dim=1)
    return correct / len(split)


@torch.no_grad()
def held_out_measures(network: ReplicatedNetwork, control: Control, split: Split) -> dict[str, Tensor]:
    """Accuracy, the self-model's error and R², and measures of the features that the head reads, each (R,).

    R² is against the mean predictor, target units pooled: 1 − Σ(prediction − target)² / Σ(target − mean of its unit)².
    `activation_norm` is the mean length |a| of the features, `dead_unit_share` the share of them that are 0 for all
    samples.
    """
    replicates, device = network.replicates, split.inputs.device
    correct = torch.zeros(replicates, device=device)
    norms = torch.zeros(replicates, dtype=torch.float64, device=device)
    predicted = _PredictionError(replicates, control.self_model.units if control.predicts else 0, device)
    alive: list[Tensor] = []
    features: list[Tensor] = []
    for activations, inputs, labels in _passes(network, split, control):
        correct += (activations.logits.argmax(dim=2) == labels).sum(dim=1)
        norms += torch.linalg.vector_norm(activations.features, dim=2).sum(dim=1)
        alive.append((activations.features != 0).any(dim=1))
        if sum(part.shape[1] for part in features) < MEASURED_SAMPLES:
            features.append(activations.features)
        if activations.prediction is not None:
            predicted.add(activations.prediction, control.target(activations, inputs))
    dead = ~torch.stack(alive).any(dim=0)
    mse, r2 = predicted.mse_and_r2(len(split))
    return {
        "accuracy": correct / len(split),
        "self_model_mse": mse,
        "self_model_r2": r2,
        "activation_norm": norms / len(split),
        "dead_unit_share": dead.double().mean(dim=1),
        "effective_rank": effective_rank(torch.cat(features, dim=1)[:, :MEASURED_SAMPLES]),
    }


@torch.no_grad()
def gradient_comparison(network: ReplicatedNetwork, control: Control, split: Split) -> tuple[Tensor, Tensor]:
    """The auxiliary loss's gradient on the prediction rows W against weight decay's, on training samples, each (R,).

    For squared errors averaged over samples, dL/dW = 2·mean((prediction − target)·fᵀ) with f the features under the
    head; where a layer without bias predicts itself this is 2(W − I)·mean(aaᵀ), the closed form of Premakumar et al.
    (2024). Weight decay ½λ|W|² has the gradient λW. Given are aux_weight·‖dL/dW‖ / ‖W‖, the λ at which weight decay
    would be as strong, and the cosine of the angle between the two. NaN where no rows of the final layer predict.
    """
    rows = control.self_model.prediction_rows(network)
    if rows is None:
        return _nan(network), _nan(network)
    gradient, decay = prediction_gradient(network, control, split).flatten(1), rows.flatten(1)
    length, decay_length = torch.linalg.vector_norm(gradient, dim=1), torch.linalg.vector_norm(decay, dim=1)
    cosine = (gradient * decay).sum(dim=1) / (length * decay_length)
    return control.self_model.config.aux_weight * length / decay_length, cosine


@torch.no_grad()
def prediction_gradient(network: ReplicatedNetwork, control: Control, split: Split) -> Tensor:
    """Gradient of the prediction loss, before aux_weight, on the prediction rows, (R, N, F)."""
    samples = split.first(MEASURED_SAMPLES)
    gradient = torch.zeros((), device=split.inputs.device)
    for activations, inputs, _ in _passes(network, samples, control):
        assert activations.prediction is not None
        error = activations.prediction - control.target(activations, inputs)
        gradient = gradient + 2 * error.transpose(1, 2) @ activations.features
    units = control.self_model.units if control.self_model.config.unit_weighting == "mean" else 1
    return gradient / (len(samples) * units)


@torch.no_grad()
def weight_measures(network: ReplicatedNetwork, control: Control) -> dict[str, Tensor]:
    """Spread of the weights, and how far a layer's prediction of itself is from the identity, each (R,)."""
    rows = control.self_model.prediction_rows(network)
    distance = control.self_model.identity_distance(rows) if rows is not None and control.predicts_itself else None
    layers = {f"{LAYER_WEIGHT_STD}{name}": weight_std(weights) for name, weights in network.layer_weights().items()}
    return {
        "weight_std": weight_std(network.head.weight[:, : network.classes]),
        "identity_distance": _nan(network) if distance is None else distance,
    } | layers


@torch.no_grad()
def weight_std(weights: Tensor) -> Tensor:
    """Standard deviation over the weights (R, …) of a layer, (R,).

    Of the class rows of the final layer, biases left out, it is the measure of Premakumar et al. (2024), arXiv
    2407.10188.
    """
    return weights.flatten(1).std(dim=1)


@torch.no_grad()
def effective_rank(features: Tensor) -> Tensor:
    """Effective rank of features (R, B, F) about their mean, (R,): exp(−Σ p ln p) with p = σ / Σσ, σ singular values.

    Roy and Vetterli (2007), "The effective rank: a measure of effective dimensionality". NaN where they are not finite.
    """
    centred = (features - features.mean(dim=1, keepdim=True)).double()
    wide = centred.shape[2] > centred.shape[1]
    gram = centred @ centred.transpose(1, 2) if wide else centred.transpose(1, 2) @ centred
    finite = gram.isfinite().all(dim=2).all(dim=1)
    singular = torch.linalg.eigvalsh(torch.where(finite.view(-1, 1, 1), gram, 0.0)).clamp(min=0).sqrt()
    share = singular / singular.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    rank = torch.exp(-torch.xlogy(share, share).sum(dim=1))
    # Features that never change span nothing.
    rank = torch.where(singular.sum(dim=1) > 0, rank, 0.0)
    return torch.where(finite, rank, math.nan)


class _PredictionError:
    """Sums over passes for mean squared error and R² of N units; NaN for none."""

    def __init__(self, replicates: int, units: int, device: torch.device):
        self._sum = torch.zeros(replicates, units, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self._sum)
        self._error = torch.zeros(replicates, dtype=torch.float64, device=device)

    def add(self, prediction: Tensor, target: Tensor) -> None:
        # A variance of single-precision sums would be rounding where the targets hardly vary.
        target = target.double()
        self._sum += target.sum(dim=1)
        self._squares += target.square().sum(dim=1)
        self._error += (prediction - target).square().sum(dim=(1, 2))

    def mse_and_r2(self, samples: int) -> tuple[Tensor, Tensor]:
        if not self._sum.shape[1]:
            nan = torch.full_like(self._error, math.nan)
            return nan, nan
        variation = (self._squares - self._sum.square() / samples).sum(dim=1)
        return self._error / (samples * self._sum.shape[1]), 1 - self._error / variation


def _passes(
    network: ReplicatedNetwork, split: Split, control: Control | None = None
) -> Iterator[tuple[Activations, Tensor, Tensor]]:
    """What the network makes of the split, with the inputs (1, B, …) and labels (B,)."""
    assert not network.training, "measured in evaluation mode alone"
    for inputs, labels in split.batches(network.evaluation_batch):
        shared = inputs.unsqueeze(0)
        yield network(shared, control.record if control is not None else ()), shared, labels


def _nan(network: ReplicatedNetwork) -> Tensor:
    return torch.full((network.replicates,), math.nan)
