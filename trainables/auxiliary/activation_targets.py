"""Which activations are targets, and how far a prediction is from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainables.config import SelfModelConfig
from trainables.networks import Head, Layer

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.networks import Activations, ReplicatedNetwork

# Units of the hidden layer of a separate head.
SEPARATE_HEAD_UNITS = 128
# Added to a unit's variance when it is standardized: a unit that never changes has variance 0.
STANDARDIZATION_EPSILON = 1e-5


class ActivationTargets:
    """The target layers of a network, N units in all. `units` is 0 if there are no targets."""

    def __init__(self, config: SelfModelConfig, layers: Sequence[Layer]):
        self.config = config
        self.layers = [layers[depth - 1] for depth in config.target_depths]
        self.units = sum(layer.units for layer in self.layers)
        self._read = layers[config.predict_from - 1] if config.predict_from else None

    def head(self, classes: int) -> Head:
        """The head of a network that predicts the targets."""
        if self.config.head == "separate":
            return Head(classes, self.units, SEPARATE_HEAD_UNITS, self._read)
        return Head(classes, self.units)

    @property
    def recorded(self) -> tuple[int, ...]:
        """Depths of the layers whose activations are needed: the targets, and the one that is read for them."""
        return tuple(sorted({*self.config.target_depths, *([self._read.depth] if self._read else [])}))

    def side_by_side(self, activations: Activations) -> Tensor:
        """The target layers' activations as one tensor, (R, B, N)."""
        import torch

        return torch.cat([activations.hidden[layer.depth] for layer in self.layers], dim=-1)

    def activations(self, activations: Activations) -> Tensor:
        """The target layers' activations as a target, (R, B, N); detached if so configured."""
        target = self.side_by_side(activations)
        return target.detach() if self.config.detach_targets else target

    def in_form(self, target: Tensor) -> Tensor:
        """Activations (R, B, N) in the form that is predicted; standardization is over the batch."""
        if self.config.target_form == "sign":
            return target.sign()
        if self.config.target_form == "standardized":
            import torch

            variance, mean = torch.var_mean(target, dim=1, keepdim=True, correction=0)
            return (target - mean) / (variance + STANDARDIZATION_EPSILON).sqrt()
        return target

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Squared error of (R, B, N), averaged over samples and averaged or summed over units, (R,)."""
        of_unit = (prediction - target).square().mean(dim=1)
        return of_unit.sum(dim=1) if self.config.unit_weighting == "sum" else of_unit.mean(dim=1)

    def prediction_rows(self, network: ReplicatedNetwork) -> Tensor | None:
        """The rows W of the final layer that give the prediction, (R, N, F); None if no rows of it predict."""
        if not self.units or self.config.head != "widened" or network.head.weight.shape[1] == network.classes:
            return None
        return network.head.weight[:, network.classes :]

    def deviation_from_identity(self, rows: Tensor) -> Tensor | None:
        """W − I, (R, F, F), with W the part of `rows` that maps the layer under the head to itself.

        None if that layer is no target, or if another form of its activations is predicted: then no layer is mapped to
        itself.
        """
        import torch

        last = self.layers[-1]
        if not last.feeds_head or self.config.target_form != "raw":
            return None
        return rows[:, -last.units :] - torch.eye(last.units, device=rows.device)
