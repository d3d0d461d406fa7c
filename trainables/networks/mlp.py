"""The multilayer perceptron: hidden ReLU layers and a linear head."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from trainables.config import NetworkConfig
from trainables.networks.base import Activations, Layer, ReplicatedLinear, ReplicatedNetwork
from trainables.seeds import generator


class ReplicatedMLP(ReplicatedNetwork):
    """R perceptrons of any depth and width: features → widths[0] → … → head, ReLU after each hidden layer."""

    architecture: ClassVar[str] = "mlp"

    def __init__(self, replicates: int, features: int, widths: Sequence[int], outputs: int):
        super().__init__()
        self.hidden = nn.ModuleList(
            ReplicatedLinear(replicates, inputs, units) for inputs, units in pairwise((features, *widths))
        )
        self.head = ReplicatedLinear(replicates, widths[-1], outputs)

    @staticmethod
    def describe(config: NetworkConfig) -> tuple[Layer, ...]:
        return tuple(Layer(f"hidden{depth}", depth, config.width) for depth in range(1, config.hidden_layers + 1))

    @classmethod
    def build(cls, config: NetworkConfig, features: int, head_rows: Sequence[int], seeds: Sequence[int]) -> Self:
        network = cls(len(seeds), features, [layer.units for layer in cls.describe(config)], sum(head_rows))
        generators = [generator(seed, "initialisation") for seed in seeds]
        for layer in network.hidden:
            assert isinstance(layer, ReplicatedLinear)
            layer.initialize(generators)
        network.head.initialize(generators, head_rows)
        return network

    def forward(self, inputs: Tensor) -> Activations:
        activations: list[Tensor] = []
        for layer in self.hidden:
            inputs = torch.relu(layer(inputs))
            activations.append(inputs)
        return Activations(self.head(inputs), tuple(activations))
