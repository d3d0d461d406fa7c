"""A small convolutional network, which trains on a laptop."""

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Head
from trainables.networks.architectures.convnet import ConvNet
from trainables.networks.base import Activations, Connection, ReplicatedNetwork, chain, make_dropout
from trainables.networks.layers import ACTIVATIONS, HOMOGENEOUS, ReplicatedConv2d, ReplicatedLinear, numbered
from trainables.seeds import generators
from trainables.tasks.base import InputSpec


class ReplicatedConvNet(ReplicatedNetwork):
    """R networks: conv1 → … → dense → head.

    A stage is a convolution that keeps the image's size, 2×2 max-pooling and the activation function; the first has
    `width` channels, each later one twice as many as the one before. The dense layer has the same activation function.
    """

    evaluation_batch: ClassVar[int] = 1024
    stages: nn.ModuleList
    activation: Callable[[Tensor], Tensor]
    dense: ReplicatedLinear

    @classmethod
    def build(
        cls, config: NetworkConfig, inputs: InputSpec, head: Head, seeds: Sequence[int], dropout: float = 0.0
    ) -> Self:
        network = cls(head.classes)
        streams, replicates = generators(seeds, "initialisation"), len(seeds)
        *stages, dense = ConvNet().describe(config, inputs)
        channels = [inputs.shape[0], *(stage.shape[0] for stage in stages)]
        network.stages = nn.ModuleList(
            ReplicatedConv2d(replicates, incoming, outgoing, config.kernel_size)
            for incoming, outgoing in pairwise(channels)
        )
        network.activation = ACTIVATIONS[config.activation]
        network.dense = ReplicatedLinear(replicates, stages[-1].units, dense.units)
        for layer in (*network.stages, network.dense):
            layer.initialize(streams)
        network.dropout = make_dropout(dropout, seeds)
        network._add_head(dense.units, head, seeds, streams)
        return network

    def forward(self, inputs: Tensor, record: Collection[int] = ()) -> Activations:
        copies = self.replicates // len(inputs)
        stages = [stage.unbind() for stage in self.stages if isinstance(stage, ReplicatedConv2d)]
        recorded: dict[int, list[Tensor]] = {depth: [] for depth in record if depth <= len(stages)}
        flat = []
        for replicate in range(self.replicates):
            # On a CPU, convolution and pooling of few channels take half the time with the channels last.
            image = inputs[replicate // copies].contiguous(memory_format=torch.channels_last)
            for depth, stage in enumerate(stages, 1):
                weight, bias = stage[replicate]
                image = functional.conv2d(image, weight, bias, padding=weight.shape[-1] // 2)
                # ReLU and tanh are monotone: applied after pooling they give the same, from a quarter of the values.
                image = self.activation(functional.max_pool2d(image, 2))
                if depth in recorded:
                    recorded[depth].append(image.flatten(1))
                if self.dropout is not None:
                    image = self.dropout(image, replicate)
            flat.append(image.flatten(1))
        hidden = {depth: torch.stack(activations) for depth, activations in recorded.items()}
        features = self.activation(self.dense(torch.stack(flat)))
        if len(stages) + 1 in record:
            hidden[len(stages) + 1] = features
        return self._read(features if self.dropout is None else self.dropout(features), hidden)

    def rescalable(self) -> list[Connection] | None:
        if self.activation not in HOMOGENEOUS:
            return None
        stages = [stage for stage in self.stages if isinstance(stage, ReplicatedConv2d)]
        # The dense layer reads all pixels of a channel, which have one scale.
        dense = self.dense.weight.view(*self.dense.weight.shape[:2], stages[-1].weight.shape[1], -1)
        return chain(
            [
                *((f"conv{number}", stage.weight, stage.bias) for number, stage in enumerate(stages, 1)),
                ("dense", dense, self.dense.bias),
                ("head", self.head.weight, self.head.bias),
            ]
        )

    def hidden_modules(self) -> dict[str, nn.Module]:
        return numbered("conv", self.stages) | {"dense": self.dense}
