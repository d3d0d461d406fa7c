"""The gradient of the auxiliary loss against that of weight decay: on the weights that predict, and on the trunk."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.auxiliary import AuxiliaryTask
from trainables.config import MEASURED_SAMPLES
from trainables.measures.passes import passes
from trainables.networks import ReplicatedNetwork
from trainables.tasks import Split


class GradientComparison(NamedTuple):
    """The auxiliary loss's gradient on some weights w against weight decay's there, for R networks, each (R,).

    Weight decay ½λ|w|² has the gradient λw. NaN where there are no such weights, or no auxiliary loss.
    """

    norm_ratio: Tensor  # aux_weight·‖dL/dw‖ / ‖w‖, the λ of an equally strong weight decay
    cosine: Tensor  # of the angle between the two gradients


class AuxiliaryGradients(NamedTuple):
    """Gradients of the auxiliary loss L before aux_weight; None where there are no such weights, or no loss."""

    rows: Tensor | None  # on the rows W of the final layer that predict, (R, N, F)
    trunk: list[Tensor] | None  # on every weight and bias below the head, each (R, …)


@torch.no_grad()
def compare_with_decay(
    gradient: Sequence[Tensor] | None, weights: Sequence[Tensor] | None, aux_weight: float, replicates: int
) -> GradientComparison:
    """Compare gradients of the auxiliary loss with the weights (R, …) that they belong to."""
    if gradient is None or weights is None:
        nan = torch.full((replicates,), math.nan)
        return GradientComparison(nan, nan)
    length, decay_length = _norm(gradient), _norm(weights)
    dot = torch.stack([(g * w).flatten(1).sum(dim=1) for g, w in zip(gradient, weights, strict=True)]).sum(dim=0)
    return GradientComparison(aux_weight * length / decay_length, dot / (length * decay_length))


@torch.no_grad()
def auxiliary_gradients(network: ReplicatedNetwork, auxiliary: AuxiliaryTask, split: Split) -> AuxiliaryGradients:
    """Gradients of the auxiliary loss L in evaluation mode, a mean over the first MEASURED_SAMPLES samples.

    A loss that depends on a whole batch (standardized, random or shuffled targets) is computed on the batches of the
    pass. For the squared error of self-modeling dL/dW = 2·mean((prediction − target)· fᵀ) with f the features under the
    head; where a layer without bias predicts itself this is 2(W − I)·mean(aaᵀ), the closed form of Premakumar et al.
    (2024). What reaches the trunk has gone through W: where the targets are constants, 2·Wᵀ(prediction − target) on f.
    """
    rows_predict = auxiliary.targets.prediction_rows(network) is not None
    if auxiliary.generators and not rows_predict:
        # The loss would draw targets from the streams of training, for the trunk's gradient alone.
        return AuxiliaryGradients(None, None)
    samples, parameters = split.first(MEASURED_SAMPLES), [network.head.weight, *trunk_parameters(network)]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    has_loss = False
    with torch.enable_grad():
        for activations, inputs, labels in passes(network, samples, auxiliary.record):
            loss = auxiliary.loss(network, activations, inputs)
            if loss is None or not loss.requires_grad:
                continue
            has_loss = True
            # The replicates share no parameter: the gradient of the summed loss is that of each replicate's own loss.
            share_of_pass = torch.full_like(loss, len(labels) / len(samples))
            for total, part in zip(
                sums, torch.autograd.grad(loss, parameters, share_of_pass, allow_unused=True), strict=True
            ):
                if part is not None:
                    total += part
    if not has_loss:
        return AuxiliaryGradients(None, None)
    return AuxiliaryGradients(sums[0][:, network.classes :] if rows_predict else None, sums[1:])


def trunk_parameters(network: ReplicatedNetwork) -> list[Tensor]:
    """Every weight and bias below the head, each (R, …)."""
    heads = ("head.", "separate_head.")
    return [parameter for name, parameter in network.named_parameters() if not name.startswith(heads)]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The length of all tensors (R, …) of a replicate together, (R,)."""
    squares = torch.stack([tensor.flatten(1).square().sum(dim=1) for tensor in tensors])
    return squares.sum(dim=0).sqrt()
