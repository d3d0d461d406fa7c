"""The auxiliary task: extra outputs predict the network's own activations.

As published, the final layer is widened from `classes` to `classes + N` outputs, N the number of target units, and the
extra outputs are the prediction (Premakumar et al. 2024, arXiv 2407.10188). A separate head, other forms of the target
and a sum in the place of the mean are variations of it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.config import SelfModelConfig
from trainables.networks import Activations, Head, Layer, ReplicatedNetwork

# Units of the hidden layer of a separate head.
SEPARATE_HEAD_UNITS = 128
# Added to the variance of a unit that is standardized: one that never changes has none.
STANDARDIZATION_EPSILON = 1e-5


class SelfModel:
    """Which activations are targets, and how far a prediction is from them. `units` is 0 where there are none."""

    def __init__(self, config: SelfModelConfig, layers: Sequence[Layer]):
        self.config = config
        self.targets = [layers[depth - 1] for depth in config.target_depths]
        self.units = sum(layer.units for layer in self.targets)

    def head(self, classes: int) -> Head:
        """The head of a network that predicts the targets."""
        return Head(classes, self.units, SEPARATE_HEAD_UNITS if self.config.head == "separate" else None)

    def activations(self, activations: Activations) -> Tensor:
        """The target layers' activations side by side, (R, B, N); detached if so configured."""
        target = torch.cat([activations.hidden[layer.depth] for layer in self.targets], dim=-1)
        return target.detach() if self.config.detach_targets else target

    def in_form(self, target: Tensor) -> Tensor:
        """Activations (R, B, N) in the form that is predicted; standardization is over the batch."""
        if self.config.target_form == "sign":
            return target.sign()
        if self.config.target_form == "standardized":
            variance, mean = torch.var_mean(target, dim=1, keepdim=True, correction=0)
            return (target - mean) / (variance + STANDARDIZATION_EPSILON).sqrt()
        return target

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Squared error of (R, B, N), averaged over samples and averaged or summed over units, (R,)."""
        of_unit = (prediction - target).square().mean(dim=1)
        return of_unit.sum(dim=1) if self.config.unit_weighting == "sum" else of_unit.mean(dim=1)

    def prediction_rows(self, network: ReplicatedNetwork) -> Tensor | None:
        """The rows W of the final layer that are the prediction, (R, N, F); None where no such rows predict."""
        if not self.units or self.config.head != "widened" or network.head.weight.shape[1] == network.classes:
            return None
        return network.head.weight[:, network.classes :]

    @torch.no_grad()
    def identity_distance(self, rows: Tensor) -> Tensor:
        """‖W − I‖ / ‖I‖ (Frobenius), (R,), of the part of `rows` that maps the layer under the head to itself.

        NaN where that layer is no target, or its activations are not predicted as they are: then nothing maps a layer
        to itself.
        """
        last = self.targets[-1]
        if not last.feeds_head or self.config.target_form != "raw":
            return torch.full((rows.shape[0],), math.nan)
        identity = torch.eye(last.units, device=rows.device)
        distance: Tensor = torch.linalg.matrix_norm(rows[:, -last.units :] - identity) / math.sqrt(last.units)
        return distance
