"""The multilayer perceptron: hidden layers and a linear head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Architecture, Head, Layer, Size
from trainables.networks.architectures.sizes import dense_stack, normalisation, readout
from trainables.tasks.base import InputSpec

if TYPE_CHECKING:
    from trainables.networks.mlp import ReplicatedMLP


class MLP(Architecture):
    """Inputs → hidden1 → … → head."""

    name = "mlp"
    summary = "multilayer perceptron: hidden_layers layers of width units"
    fields = ("hidden_layers", "width", "activation", "normalization")
    layers_can_scale = True

    def refusal(self, config: NetworkConfig, inputs: InputSpec) -> str | None:
        if inputs.is_text:
            return "does not read text"
        return "needs hidden_layers 1 or more" if config.hidden_layers < 1 else None

    def describe(self, config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
        last = config.hidden_layers
        return tuple(Layer(f"hidden{depth}", depth, (config.width,), depth == last) for depth in range(1, last + 1))

    def size(self, config: NetworkConfig, inputs: InputSpec, head: Head) -> Size:
        hidden = [config.width] * config.hidden_layers
        size = dense_stack([math.prod(inputs.shape), *hidden]) + readout(config.width, head)
        return size if config.normalization == "none" else size + normalisation(sum(hidden))

    def network_class(self) -> type[ReplicatedMLP]:
        from trainables.networks.mlp import ReplicatedMLP

        return ReplicatedMLP
