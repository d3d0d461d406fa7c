"""The gradient of the auxiliary loss on the weights that predict, against the gradient of weight decay on them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.auxiliary import AuxiliaryTask
from trainables.measures.passes import MEASURED_SAMPLES, passes
from trainables.networks import ReplicatedNetwork
from trainables.tasks import Split


class GradientComparison(NamedTuple):
    """Comparison for R networks, each (R,); NaN if no rows of the final layer predict."""

    norm_ratio: Tensor
    cosine: Tensor


@torch.no_grad()
def compare_gradients(network: ReplicatedNetwork, auxiliary: AuxiliaryTask, split: Split) -> GradientComparison:
    """The auxiliary loss's gradient on the prediction rows W against weight decay's, on training samples.

    Weight decay ½λ|W|² has the gradient λW. The results are aux_weight·‖dL/dW‖ / ‖W‖, which is the λ of an equally
    strong weight decay, and the cosine of the angle between the two gradients.
    """
    rows = auxiliary.targets.prediction_rows(network)
    if rows is None:
        nan = torch.full((network.replicates,), math.nan)
        return GradientComparison(nan, nan)
    gradient, decay = prediction_gradient(network, auxiliary, split).flatten(1), rows.flatten(1)
    length, decay_length = torch.linalg.vector_norm(gradient, dim=1), torch.linalg.vector_norm(decay, dim=1)
    cosine = (gradient * decay).sum(dim=1) / (length * decay_length)
    return GradientComparison(auxiliary.weight * length / decay_length, cosine)


@torch.no_grad()
def prediction_gradient(network: ReplicatedNetwork, auxiliary: AuxiliaryTask, split: Split) -> Tensor:
    """Gradient dL/dW of the auxiliary loss L, before aux_weight, on the prediction rows W, (R, N, F).

    L is the mean over the first MEASURED_SAMPLES samples. A loss that depends on a whole batch (standardized, random or
    shuffled targets) is computed on the batches of the pass. For the squared error of self-modeling dL/dW =
    2·mean((prediction − target)· fᵀ) with f the features under the head; where a layer without bias predicts itself
    this is 2(W − I)·mean(aaᵀ), the closed form of Premakumar et al. (2024).
    """
    samples, weight = split.first(MEASURED_SAMPLES), network.head.weight
    gradient = torch.zeros_like(weight[:, network.classes :])
    for activations, inputs, labels in passes(network, samples, auxiliary.record):
        assert activations.prediction is not None
        prediction = activations.prediction.detach().requires_grad_()
        with torch.enable_grad():
            loss = auxiliary.loss(network, activations._replace(prediction=prediction), inputs)
        if loss is None or not loss.requires_grad:
            continue
        # The replicates share no parameter: the gradient of the summed loss is that of each replicate's own loss.
        share_of_pass = torch.full_like(loss, len(labels) / len(samples))
        through, direct = torch.autograd.grad(loss, (prediction, weight), share_of_pass, allow_unused=True)
        if through is not None:
            # The chain rule through prediction = W·f + b.
            gradient += through.transpose(1, 2) @ activations.features
        if direct is not None:
            # The part of the loss that depends on W directly.
            gradient += direct[:, network.classes :]
    return gradient
