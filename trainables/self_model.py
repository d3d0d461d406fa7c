"""The auxiliary task: the head's extra rows predict the network's own activations.

The final layer is widened from `classes` to `classes + N` outputs, N the number of target units; the extra outputs
are the prediction. Loss and head follow Premakumar et al. (2024), arXiv 2407.10188.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.config import SelfModelConfig
from trainables.networks import Layer
from trainables.networks.base import Activations


class SelfModel:
    """Which activations are predicted, and how an output is read. `units` is 0 for the baseline."""

    def __init__(self, config: SelfModelConfig, layers: Sequence[Layer], classes: int):
        self.config = config
        self.classes = classes
        self.targets = [layers[depth - 1] for depth in config.target_depths]
        self.units = sum(layer.units for layer in self.targets)
        self._last = layers[-1]

    @property
    def head_rows(self) -> tuple[int, ...]:
        """Sizes of the head's blocks of outputs: the classes, then the prediction."""
        return (self.classes, self.units) if self.units else (self.classes,)

    def logits(self, activations: Activations) -> Tensor:
        """The class outputs, (R, B, classes)."""
        return activations.outputs[..., : self.classes]

    def prediction(self, activations: Activations) -> Tensor:
        """The predicted target activations, (R, B, N)."""
        return activations.outputs[..., self.classes :]

    def target(self, activations: Activations) -> Tensor:
        """The activations to predict, target layers side by side, (R, B, N); detached if so configured."""
        target = torch.cat([activations.hidden[layer.depth - 1] for layer in self.targets], dim=-1)
        return target.detach() if self.config.detach_targets else target

    def mse(self, activations: Activations) -> Tensor:
        """Mean squared error over samples and target units, (R,)."""
        return (self.prediction(activations) - self.target(activations)).square().mean(dim=(1, 2))

    @torch.no_grad()
    def identity_distance(self, head_weight: Tensor) -> Tensor:
        """‖W − I‖ / ‖I‖ (Frobenius), (R,), of the rows W that map the last hidden layer to its own prediction.

        NaN where the last hidden layer is no target: no part of the head maps a layer to itself.
        """
        if self._last not in self.targets:
            return torch.full((head_weight.shape[0],), math.nan)
        start = self.classes + self.units - self._last.units
        rows = head_weight[:, start:]
        identity = torch.eye(self._last.units, device=rows.device)
        distance: Tensor = torch.linalg.matrix_norm(rows - identity) / math.sqrt(self._last.units)
        return distance
