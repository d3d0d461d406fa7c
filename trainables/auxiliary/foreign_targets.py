"""Controls that predict as self-modeling does, but not the network's own activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainables.auxiliary.base import Setting
from trainables.auxiliary.prediction import PredictionTask
from trainables.networks import Head, get_architecture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainables.auxiliary.activation_targets import ActivationTargets
    from trainables.networks import Activations


class _DrawnTargets(PredictionTask):
    """Base of the controls that draw new targets from each batch."""

    strength = "weight of the prediction loss"
    mixes_samples = True

    def __init__(self, targets: ActivationTargets, setting: Setting):
        from trainables.seeds import generators

        super().__init__(targets, setting)
        self._generators = generators(setting.seeds, "control")

    @property
    def generators(self) -> Sequence[torch.Generator]:
        return self._generators


class NoiseTargets(_DrawnTargets):
    """Tests whether any prediction has the effect: predict noise with each unit's mean and spread over the batch."""

    name = "noise_targets"
    summary = "predict noise with the mean and spread of each target unit"

    def raw_target(self, activations: Activations, inputs: Tensor) -> Tensor:
        import torch

        actual = self.targets.activations(activations)
        noise = torch.stack([torch.randn(actual.shape[1:], generator=generator) for generator in self._generators])
        deviation, mean = torch.std_mean(actual, dim=1, keepdim=True, correction=0)
        return mean + deviation * noise.to(actual.device)


class ShuffledTargets(_DrawnTargets):
    """Tests wrong pairing: predict the activations of another sample of the batch, chosen at random each time."""

    name = "shuffled_targets"
    summary = "predict the activations of another sample of the batch"

    def raw_target(self, activations: Activations, inputs: Tensor) -> Tensor:
        import torch

        actual = self.targets.activations(activations)
        samples = actual.shape[1]
        shuffled = []
        for of_replicate, generator in zip(actual, self._generators, strict=True):
            # Put the batch in a random order and pair each sample with its neighbour: never with itself.
            order = torch.randperm(samples, generator=generator)
            partner = torch.empty_like(order)
            partner[order] = order.roll(1)
            shuffled.append(of_replicate[partner.to(actual.device)])
        return torch.stack(shuffled)


class RandomNetworkTargets(PredictionTask):
    """Predict the activations of a fixed other network: as structured as the network's own."""

    name = "random_network"
    summary = "predict the same layers' activations in a frozen random network of the same shape"
    strength = "weight of the prediction loss"

    def __init__(self, targets: ActivationTargets, setting: Setting):
        from trainables.seeds import derived_seed

        super().__init__(targets, setting)
        architecture = get_architecture(setting.network.architecture)
        seeds = [derived_seed(seed, "frozen_network") for seed in setting.seeds]
        frozen = architecture.build(setting.network, setting.inputs, Head(classes=1), seeds)
        # The frozen network was never trained and has no running statistics: it normalises with those of the batch.
        self._frozen = frozen.to(setting.device).train().requires_grad_(False)

    def raw_target(self, activations: Activations, inputs: Tensor) -> Tensor:
        return self.targets.activations(self._frozen(inputs, self.record))
