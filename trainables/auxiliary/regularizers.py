"""Controls that predict nothing: ordinary regularizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.auxiliary.base import AuxiliaryTask
from trainables.config import SelfModelConfig
from trainables.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.networks import Activations, ReplicatedNetwork


class WeightDecay(AuxiliaryTask):
    """½|w|² over all weights and biases: the gradient λw of an optimizer's weight_decay λ."""

    name = "weight_decay"
    summary = "weight decay λ on all parameters"
    strength = "λ"

    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        import torch

        return torch.stack([p.square().flatten(1).sum(dim=1) for p in network.parameters()]).sum(dim=0) / 2


class Dropout(AuxiliaryTask):
    """Dropout after every hidden layer."""

    name = "dropout"
    summary = "dropout after every hidden layer"
    strength = "probability that a unit is dropped"

    @classmethod
    def check(cls, config: SelfModelConfig) -> None:
        super().check(config)
        if config.aux_weight >= 1:
            raise ConfigError(f"aux_weight: control 'dropout' takes a probability below 1, got {config.aux_weight:g}")

    @property
    def dropout(self) -> float:
        return self.weight

    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        return None


class ActivationPenalty(AuxiliaryTask):
    """Tests small activations without a prediction: mean |a|² of the target layers."""

    name = "activation_penalty"
    summary = "penalty |a|² on the target layers' activations, nothing predicted"
    strength = "weight of the penalty"
    has_targets = True
    options = ("unit_weighting",)

    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        import torch

        penalized = self.targets.side_by_side(activations)
        return self.targets.error(penalized, torch.zeros_like(penalized))
