"""What an auxiliary task is: the part of a network's loss that is not the classification."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainables.config import NetworkConfig, SelfModelConfig
from trainables.errors import ConfigError
from trainables.networks import Head

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainables.auxiliary.activation_targets import ActivationTargets
    from trainables.networks import Activations, ReplicatedNetwork
    from trainables.tasks.base import InputSpec

# Fields of SelfModelConfig that say how a prediction is made.
OPTIONS = tuple(name for name in SelfModelConfig.model_fields if name not in ("control", "aux_weight", "target_depths"))


@dataclass(frozen=True)
class Setting:
    """The networks being trained, from which an auxiliary task can make its own networks or random numbers."""

    network: NetworkConfig
    inputs: InputSpec
    seeds: Sequence[int]
    device: torch.device | str


class AuxiliaryTask(ABC):
    """A part of the training loss: a network is trained on CE(classes) + aux_weight · `loss`.

    A subclass states its name, summary and strength, and whatever else differs from the defaults here.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    # What a positive aux_weight means; None if aux_weight has to be 0.
    strength: ClassVar[str | None]
    # Whether a task that has a strength may have weight 0. Such a trial is the baseline.
    may_be_baseline: ClassVar[bool] = False
    has_targets: ClassVar[bool] = False
    # Whether the network has extra outputs, and whether these predict the network's own activations.
    predicts: ClassVar[bool] = False
    predicts_itself: ClassVar[bool] = False
    # The names in OPTIONS that change what this task does.
    options: ClassVar[tuple[str, ...]] = ()
    # Whether a sample's targets come from other samples of the batch.
    mixes_samples: ClassVar[bool] = False

    def __init__(self, targets: ActivationTargets, setting: Setting):
        self.targets = targets
        self.setting = setting

    @classmethod
    def check(cls, config: SelfModelConfig) -> None:
        """Check that the strength and the targets suit this auxiliary task.

        Raises:
            ConfigError: they do not.
        """
        weight, depths, control = config.aux_weight, config.target_depths, f"control {cls.name!r}"
        if cls.strength is None and weight > 0:
            raise ConfigError(f"aux_weight: {control} has weight 0, got {weight:g}")
        if cls.strength is not None and weight == 0 and not cls.may_be_baseline:
            raise ConfigError(f"aux_weight: {control} with strength 0 is the baseline: set control to 'none'")
        if cls.needs_targets(weight) and not depths:
            what = "aux_weight > 0" if weight > 0 else control
            raise ConfigError(f"{what} needs at least one depth in target_depths")
        if not cls.needs_targets(weight) and depths:
            why = (
                "aux_weight 0 is the baseline without extra outputs" if cls.has_targets else f"{control} has no targets"
            )
            raise ConfigError(f"{why}: leave target_depths empty")
        effective = cls.options if depths else ()
        for name in OPTIONS:
            default = SelfModelConfig.model_fields[name].default
            if name not in effective and getattr(config, name) != default:
                what = "the baseline" if weight == 0 and cls.may_be_baseline else control
                raise ConfigError(f"{name}: makes no difference to {what}: leave it at {default!r}")

    @classmethod
    def needs_targets(cls, aux_weight: float) -> bool:
        """Whether a trial with that weight has target layers."""
        return cls.has_targets and (aux_weight > 0 or cls.strength is None)

    def head(self, classes: int) -> Head:
        """The head of the network."""
        return self.targets.head(classes) if self.predicts else Head(classes)

    @property
    def weight(self) -> float:
        """The aux_weight of the trial."""
        return self.targets.config.aux_weight

    @property
    def dropout(self) -> float:
        """Probability that a unit of a hidden layer is dropped in training."""
        return 0.0

    @property
    def generators(self) -> Sequence[torch.Generator]:
        """The random streams from which training draws; one per replicate, or none."""
        return ()

    @property
    def record(self) -> tuple[int, ...]:
        """Depths of the layers whose activations are needed."""
        return self.targets.recorded

    def target(self, activations: Activations, inputs: Tensor) -> Tensor | None:
        """The targets of the extra outputs for inputs (G, B, …), (R, B, N); None if nothing is predicted.

        Random targets are drawn anew at each call.
        """
        return None

    @abstractmethod
    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        """The loss that aux_weight multiplies, a mean over the samples of inputs (G, B, …), (R,); None for no loss."""
