"""The multilayer perceptron: hidden ReLU layers and a linear head."""

from collections.abc import Collection, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from trainables.config import NetworkConfig
from trainables.networks.base import Activations, Head, Layer, ReplicatedNetwork, make_dropout
from trainables.networks.layers import ReplicatedHiddenLayers, weights_by_name
from trainables.seeds import generators
from trainables.tasks.base import InputSpec


class ReplicatedMLP(ReplicatedNetwork):
    """R perceptrons of any depth and width: inputs → hidden1 → … → head, ReLU after each hidden layer."""

    architecture: ClassVar[str] = "mlp"
    summary: ClassVar[str] = "multilayer perceptron: hidden_layers ReLU layers of width units"
    hidden: ReplicatedHiddenLayers

    @classmethod
    def refusal(cls, config: NetworkConfig, inputs: InputSpec) -> str | None:
        if inputs.is_text:
            return "does not read text"
        return "needs hidden_layers 1 or more" if config.hidden_layers < 1 else None

    @classmethod
    def describe(cls, config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
        last = config.hidden_layers
        return tuple(Layer(f"hidden{depth}", depth, (config.width,), depth == last) for depth in range(1, last + 1))

    @classmethod
    def build(
        cls, config: NetworkConfig, inputs: InputSpec, head: Head, seeds: Sequence[int], dropout: float = 0.0
    ) -> Self:
        network = cls(head.classes)
        streams = generators(seeds, "initialisation")
        sizes = [torch.Size(inputs.shape).numel(), *(layer.units for layer in cls.describe(config, inputs))]
        network.hidden = ReplicatedHiddenLayers(len(seeds), sizes)
        network.hidden.initialize(streams)
        network.dropout = make_dropout(dropout, seeds)
        network._add_head(config.width, head, seeds, streams)
        return network

    def forward(self, inputs: Tensor, record: Collection[int] = ()) -> Activations:
        hidden: dict[int, Tensor] = {}
        features = self.hidden(inputs.flatten(2), 1, record, hidden, self.dropout)
        return self._read(features, hidden)

    def layer_weights(self) -> dict[str, Tensor]:
        return weights_by_name("hidden", self.hidden.layers)
