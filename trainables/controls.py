"""Controls: what stands in the place of self-modeling, to tell what self-modeling itself does.

Each is a class and a line in CONTROLS; the network, its training and its measurements are the same. `aux_weight` is the
strength of whatever the control does.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trainables.config import NetworkConfig, SelfModelConfig
from trainables.errors import ConfigError
from trainables.networks import Activations, Head, ReplicatedNetwork, get_architecture
from trainables.seeds import derived_seed, generators
from trainables.self_model import SelfModel
from trainables.tasks.base import InputSpec

# What is predicted is not what the network does on that sample: no gradient is to flow through it.
FOREIGN_TARGET_OPTIONS = ("target_form", "unit_weighting", "head")


@dataclass(frozen=True)
class Setting:
    """What is trained: a control may need networks or random numbers of its own."""

    network: NetworkConfig
    inputs: InputSpec
    seeds: Sequence[int]
    device: torch.device | str


class Control:
    """Self-modeling itself, which the controls vary: CE(classes) + aux_weight · loss."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "self-modeling: predict the target layers' activations"
    # What a positive aux_weight is; None where it has to be 0.
    strength: ClassVar[str | None] = "weight of the self-modeling loss"
    has_targets: ClassVar[bool] = True
    # Whether the network has extra outputs, and whether they are to predict its own activations.
    predicts: ClassVar[bool] = True
    predicts_itself: ClassVar[bool] = True
    # Fields of SelfModelConfig that make a difference.
    options: ClassVar[tuple[str, ...]] = ("detach_targets", "target_form", "unit_weighting", "head")
    # Whether its targets come from other samples of the batch.
    mixes_samples: ClassVar[bool] = False

    def __init__(self, self_model: SelfModel, setting: Setting):
        self.self_model = self_model
        self.setting = setting

    @classmethod
    def check(cls, config: SelfModelConfig) -> None:
        """See that strength and targets are what this control has.

        Raises:
            ConfigError: they are not.
        """
        weight, depths, control = config.aux_weight, config.target_depths, f"control {cls.name!r}"
        if cls.strength is None and weight > 0:
            raise ConfigError(f"aux_weight: {control} has weight 0, got {weight:g}")
        if cls.strength is not None and cls.name != "none" and weight == 0:
            raise ConfigError(f"aux_weight: {control} with strength 0 is the baseline: set control to 'none'")
        if cls.needs_targets(weight) and not depths:
            what = "aux_weight > 0" if weight > 0 else control
            raise ConfigError(f"{what} needs at least one depth in target_depths")
        if not cls.needs_targets(weight) and depths:
            why = (
                "aux_weight 0 is the baseline without extra outputs" if cls.has_targets else f"{control} has no targets"
            )
            raise ConfigError(f"{why}: leave target_depths empty")
        has = cls.options if depths else ()
        for name in Control.options:
            default = SelfModelConfig.model_fields[name].default
            if name not in has and getattr(config, name) != default:
                what = control if weight > 0 or cls.name != "none" else "the baseline"
                raise ConfigError(f"{name}: makes no difference to {what}: leave it at {default!r}")

    @classmethod
    def needs_targets(cls, aux_weight: float) -> bool:
        """Whether a trial with that weight has target layers."""
        return cls.has_targets and (aux_weight > 0 or cls.strength is None)

    def head(self, classes: int) -> Head:
        """The head of the network."""
        return self.self_model.head(classes) if self.predicts else Head(classes)

    @property
    def dropout(self) -> float:
        """Probability that a unit of a hidden layer is dropped in training."""
        return 0.0

    @property
    def record(self) -> tuple[int, ...]:
        """Depths of the layers whose activations are needed."""
        return self.self_model.config.target_depths

    def target(self, activations: Activations, inputs: Tensor) -> Tensor:
        """What the extra outputs are to predict for the inputs (G, B, …), (R, B, N)."""
        return self.self_model.in_form(self.raw_target(activations, inputs))

    def raw_target(self, activations: Activations, inputs: Tensor) -> Tensor:
        """The activations that the target is made of, (R, B, N)."""
        return self.self_model.activations(activations)

    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        """What aux_weight multiplies, (R,); None where nothing is added to the cross-entropy."""
        if not self.self_model.units:
            return None
        assert activations.prediction is not None
        return self.self_model.error(activations.prediction, self.target(activations, inputs))


class ExtraOutputs(Control):
    """More parameters: the extra outputs are there and predict nothing."""

    name = "extra_outputs"
    summary = "the extra outputs are there, with weight 0: more parameters alone"
    strength = None
    options = ("head",)


class _DrawnTargets(Control):
    """Base of the controls that draw their targets anew for each batch, from what is in it."""

    strength = "weight of the prediction loss"
    mixes_samples = True
    predicts_itself = False
    options = FOREIGN_TARGET_OPTIONS

    def __init__(self, self_model: SelfModel, setting: Setting):
        super().__init__(self_model, setting)
        self._generators = generators(setting.seeds, "control")


class NoiseTargets(_DrawnTargets):
    """Any auxiliary task: predict noise with the mean and the spread of each unit's activations over the batch."""

    name = "noise_targets"
    summary = "predict noise with the mean and spread of each target unit"

    def raw_target(self, activations: Activations, inputs: Tensor) -> Tensor:
        own = self.self_model.activations(activations)
        noise = torch.stack([torch.randn(own.shape[1:], generator=generator) for generator in self._generators])
        deviation, mean = torch.std_mean(own, dim=1, keepdim=True, correction=0)
        return mean + deviation * noise.to(own.device)


class ShuffledTargets(_DrawnTargets):
    """The right activations at the wrong time: predict those of another sample of the batch, a random one each time."""

    name = "shuffled_targets"
    summary = "predict the activations of another sample of the batch"

    def raw_target(self, activations: Activations, inputs: Tensor) -> Tensor:
        own = self.self_model.activations(activations)
        samples = own.shape[1]
        shuffled = []
        for activation, generator in zip(own, self._generators, strict=True):
            # The batch in a random order, each sample paired with its neighbour there: never with itself.
            order = torch.randperm(samples, generator=generator)
            partner = torch.empty_like(order)
            partner[order] = order.roll(1)
            shuffled.append(activation[partner.to(own.device)])
        return torch.stack(shuffled)


class RandomNetworkTargets(Control):
    """Predict something as structured as one's own activations, but foreign and fixed."""

    name = "random_network"
    summary = "predict the same layers' activations in a frozen random network of the same shape"
    strength = "weight of the prediction loss"
    predicts_itself = False
    options = FOREIGN_TARGET_OPTIONS

    def __init__(self, self_model: SelfModel, setting: Setting):
        super().__init__(self_model, setting)
        architecture = get_architecture(setting.network.architecture)
        seeds = [derived_seed(seed, "frozen_network") for seed in setting.seeds]
        frozen = architecture.build(setting.network, setting.inputs, Head(classes=1), seeds)
        # Batch normalisation by the batch at hand: without training it has no statistics of its own.
        self._frozen = frozen.to(setting.device).train().requires_grad_(False)

    def raw_target(self, activations: Activations, inputs: Tensor) -> Tensor:
        return self.self_model.activations(self._frozen(inputs, self.record))


class ActivationPenalty(Control):
    """Small activations without any prediction: mean |a|² of the target layers."""

    name = "activation_penalty"
    summary = "penalty |a|² on the target layers' activations, nothing predicted"
    strength = "weight of the penalty"
    predicts = False
    predicts_itself = False
    options = ("unit_weighting",)

    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        own = torch.cat([activations.hidden[layer.depth] for layer in self.self_model.targets], dim=-1)
        return self.self_model.error(own, torch.zeros_like(own))


class WeightDecay(Control):
    """½|w|² over all weights and biases: the gradient λw of an optimizer's weight_decay λ."""

    name = "weight_decay"
    summary = "weight decay λ on all parameters"
    strength = "λ"
    has_targets = False
    predicts = False
    predicts_itself = False
    options = ()

    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        return torch.stack([p.square().flatten(1).sum(dim=1) for p in network.parameters()]).sum(dim=0) / 2


class Dropout(Control):
    """Dropout after every hidden layer."""

    name = "dropout"
    summary = "dropout after every hidden layer"
    strength = "probability that a unit is dropped"
    has_targets = False
    predicts = False
    predicts_itself = False
    options = ()

    @classmethod
    def check(cls, config: SelfModelConfig) -> None:
        super().check(config)
        if config.aux_weight >= 1:
            raise ConfigError(f"aux_weight: control 'dropout' takes a probability below 1, got {config.aux_weight:g}")

    @property
    def dropout(self) -> float:
        return self.self_model.config.aux_weight

    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        return None


CONTROLS: dict[str, type[Control]] = {
    control.name: control
    for control in (
        Control, WeightDecay, Dropout, ActivationPenalty, ExtraOutputs, NoiseTargets, ShuffledTargets,
        RandomNetworkTargets,
    )
}  # fmt: skip


def get_control(name: str) -> type[Control]:
    """The control of that name.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name not in CONTROLS:
        close = difflib.get_close_matches(name, CONTROLS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"control {name!r} is unknown: {hint}the controls are {', '.join(CONTROLS)}")
    return CONTROLS[name]
