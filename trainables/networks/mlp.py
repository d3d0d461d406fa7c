"""The multilayer perceptron: hidden layers and a linear head."""

import math
from collections.abc import Collection, Sequence
from typing import Self

from torch import Tensor, nn

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Head
from trainables.networks.base import Activations, Connection, ReplicatedNetwork, chain, make_dropout
from trainables.networks.layers import ReplicatedHiddenLayers, numbered
from trainables.seeds import generators
from trainables.tasks.base import InputSpec


class ReplicatedMLP(ReplicatedNetwork):
    """R perceptrons of any depth and width: inputs → hidden1 → … → head."""

    hidden: ReplicatedHiddenLayers

    @classmethod
    def build(
        cls, config: NetworkConfig, inputs: InputSpec, head: Head, seeds: Sequence[int], dropout: float = 0.0
    ) -> Self:
        network = cls(head.classes)
        streams = generators(seeds, "initialisation")
        sizes = [math.prod(inputs.shape), *(config.width for _ in range(config.hidden_layers))]
        network.hidden = ReplicatedHiddenLayers(len(seeds), sizes, config.activation, config.normalization)
        network.hidden.initialize(streams)
        network.dropout = make_dropout(dropout, seeds)
        network._add_head(config.width, head, seeds, streams)
        return network

    def forward(self, inputs: Tensor, record: Collection[int] = ()) -> Activations:
        hidden: dict[int, Tensor] = {}
        features = self.hidden(inputs.flatten(2), 1, record, hidden, self.dropout)
        return self._read(features, hidden)

    def rescalable(self) -> list[Connection] | None:
        if not self.hidden.is_homogeneous:
            return None
        return chain([*self.hidden.weights_and_biases, ("head", self.head.weight, self.head.bias)])

    def hidden_modules(self) -> dict[str, nn.Module]:
        return numbered("hidden", self.hidden.layers)
