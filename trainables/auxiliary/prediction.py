"""Auxiliary tasks in which extra outputs of the network predict something."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from trainables.auxiliary.base import AuxiliaryTask

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.networks import Activations, ReplicatedNetwork


class PredictionTask(AuxiliaryTask):
    """The loss is the squared error of the extra outputs, one for each unit of the target layers.

    The targets are constants unless a subclass lets gradients through: `detach_targets` is not among its options.
    """

    has_targets: ClassVar[bool] = True
    predicts: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("target_form", "unit_weighting", "head", "predict_from")

    def target(self, activations: Activations, inputs: Tensor) -> Tensor:
        """The targets of the extra outputs for inputs (G, B, …), (R, B, N)."""
        return self.targets.in_form(self.raw_target(activations, inputs))

    @abstractmethod
    def raw_target(self, activations: Activations, inputs: Tensor) -> Tensor:
        """The activations that the target is made of, (R, B, N)."""

    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        if activations.prediction is None:
            return None
        return self.targets.error(activations.prediction, self.target(activations, inputs))
