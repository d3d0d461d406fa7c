"""One pass over the held-out split: accuracy, the prediction, and the features under the head."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.auxiliary import AuxiliaryTask
from trainables.config import MEASURED_SAMPLES
from trainables.measures.passes import passes
from trainables.networks import ReplicatedNetwork
from trainables.tasks import Split


@dataclass(frozen=True)
class HeldOut:
    """Results of R networks on samples not used in training, each (R,) unless noted.

    R² compares with predicting the mean, all target units pooled: 1 − Σ(prediction − target)² / Σ(target − mean of its
    unit)².
    """

    accuracy: Tensor
    self_model_mse: Tensor
    self_model_r2: Tensor
    activation_norm: Tensor  # mean length |a| of the features
    dead_unit_share: Tensor  # share of the features that are 0 for all samples
    features: Tensor  # (R, B, F), inputs of the head for the first MEASURED_SAMPLES samples


@torch.no_grad()
def look_at_held_out(network: ReplicatedNetwork, auxiliary: AuxiliaryTask, split: Split) -> HeldOut:
    """Pass over the held-out split once."""
    replicates, device = network.replicates, split.inputs.device
    correct = torch.zeros(replicates, device=device)
    norms = torch.zeros(replicates, dtype=torch.float64, device=device)
    predicted = _PredictionError(replicates, auxiliary.targets.units if auxiliary.predicts else 0, device)
    alive: list[Tensor] = []
    features: list[Tensor] = []
    for activations, inputs, labels in passes(network, split, auxiliary.record):
        correct += (activations.logits.argmax(dim=2) == labels).sum(dim=1)
        norms += torch.linalg.vector_norm(activations.features, dim=2).sum(dim=1)
        alive.append((activations.features != 0).any(dim=1))
        if sum(part.shape[1] for part in features) < MEASURED_SAMPLES:
            features.append(activations.features)
        if activations.prediction is not None:
            target = auxiliary.target(activations, inputs)
            if target is not None:
                predicted.add(activations.prediction, target)
    dead = ~torch.stack(alive).any(dim=0)
    mse, r2 = predicted.mse_and_r2(len(split))
    return HeldOut(
        accuracy=correct / len(split),
        self_model_mse=mse,
        self_model_r2=r2,
        activation_norm=norms / len(split),
        dead_unit_share=dead.double().mean(dim=1),
        features=torch.cat(features, dim=1)[:, :MEASURED_SAMPLES],
    )


class _PredictionError:
    """Sums over passes for the mean squared error and R² of N units; NaN if N is 0."""

    def __init__(self, replicates: int, units: int, device: torch.device):
        self._sum = torch.zeros(replicates, units, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self._sum)
        self._error = torch.zeros(replicates, dtype=torch.float64, device=device)

    def add(self, prediction: Tensor, target: Tensor) -> None:
        # Where the targets hardly vary, a variance from single-precision sums would be rounding error.
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
