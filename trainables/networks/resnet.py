"""ResNet-18 for small images, with or without fully connected hidden layers before its head."""

from collections.abc import Collection, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Head
from trainables.networks.architectures.resnet import Block, residual_blocks
from trainables.networks.base import Activations, ReplicatedNetwork, make_dropout
from trainables.networks.layers import (
    NORM_EPSILON,
    NORM_MOMENTUM,
    ReplicatedBatchNorm,
    ReplicatedConv2d,
    ReplicatedHiddenLayers,
    numbered,
)
from trainables.seeds import generators
from trainables.tasks.base import InputSpec


class ReplicatedResNet18(ReplicatedNetwork):
    """R networks: stem → block1 → … → block8 → average over the image → hidden layers → head.

    He et al. (2016), arXiv 1512.03385, with a 3×3 stem of stride 1 and no max-pooling, as is usual for 32×32 images.
    `hidden_layers` fully connected layers of `width` units follow: 1 of 2000 in Premakumar et al. (2024), arXiv
    2407.10188, or none. Replicates run in turn: one fills a GPU, and grouped convolutions are slower.
    """

    evaluation_batch: ClassVar[int] = 256
    stem: "_Convolution"
    blocks: nn.ModuleList
    hidden: ReplicatedHiddenLayers

    @classmethod
    def build(
        cls, config: NetworkConfig, inputs: InputSpec, head: Head, seeds: Sequence[int], dropout: float = 0.0
    ) -> Self:
        network = cls(head.classes)
        streams, replicates = generators(seeds, "initialisation"), len(seeds)
        network.stem = _Convolution(replicates, inputs.shape[0], config.stem_channels, kernel=3, stride=1)
        blocks = residual_blocks(config)
        network.blocks = nn.ModuleList(_ResidualBlock(replicates, block) for block in blocks)
        sizes = [blocks[-1].outgoing, *(config.width for _ in range(config.hidden_layers))]
        network.hidden = ReplicatedHiddenLayers(replicates, sizes, config.activation)
        for module in (network.stem, *network.blocks, network.hidden):
            module.initialize(streams)
        network.dropout = make_dropout(dropout, seeds)
        network._add_head(sizes[-1], head, seeds, streams)
        return network

    def forward(self, inputs: Tensor, record: Collection[int] = ()) -> Activations:
        copies = self.replicates // len(inputs)
        trunk = (self.stem, *self.blocks)
        # Split every parameter once for all replicates: indexing per replicate would compute a full-size gradient each
        # time.
        taken_apart = [module.unbind() for module in trunk]
        recorded: dict[int, list[Tensor]] = {depth: [] for depth in record if depth <= len(trunk)}
        pooled = []
        for replicate in range(self.replicates):
            image = inputs[replicate // copies]
            for depth, (module, parameters) in enumerate(zip(trunk, taken_apart, strict=True), 1):
                image = torch.relu(module(image, replicate, parameters[replicate]))
                if depth in recorded:
                    recorded[depth].append(image.flatten(1))
                if self.dropout is not None:
                    image = self.dropout(image, replicate)
            pooled.append(image.mean(dim=(2, 3)))
        hidden = {depth: torch.stack(activations) for depth, activations in recorded.items()}
        features = self.hidden(torch.stack(pooled), len(trunk) + 1, record, hidden, self.dropout)
        return self._read(features, hidden)

    def hidden_modules(self) -> dict[str, nn.Module]:
        return {"stem": self.stem} | numbered("block", self.blocks) | numbered("hidden", self.hidden.layers)


class _Convolution(nn.Module):
    """R convolutions without bias, each followed by its batch normalisation."""

    def __init__(self, replicates: int, incoming: int, outgoing: int, kernel: int, stride: int):
        super().__init__()
        self.convolution = ReplicatedConv2d(replicates, incoming, outgoing, kernel, bias=False)
        self.norm = ReplicatedBatchNorm(replicates, outgoing)
        self._stride = stride

    def initialize(self, streams: Sequence[torch.Generator]) -> None:
        self.convolution.initialize(streams)

    def unbind(self) -> list[tuple[Tensor, ...]]:
        """The parameters of each replicate."""
        parameters = (self.convolution.weight, self.norm.weight, self.norm.bias)
        return list(zip(*(parameter.unbind() for parameter in parameters), strict=True))

    def forward(self, image: Tensor, replicate: int, parameters: tuple[Tensor, ...]) -> Tensor:
        """One replicate's images (B, channels, height, width)."""
        kernel, scale, shift = parameters
        convolved = functional.conv2d(image, kernel, stride=self._stride, padding=kernel.shape[-1] // 2)
        normalized: Tensor = functional.batch_norm(
            convolved,
            self.norm.running_mean[replicate],
            self.norm.running_var[replicate],
            scale,
            shift,
            self.training,
            NORM_MOMENTUM,
            NORM_EPSILON,
        )
        return normalized


class _ResidualBlock(nn.Module):
    """R basic blocks: two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where the size changes.

    The ReLU after the sum is the network's.
    """

    def __init__(self, replicates: int, block: Block):
        super().__init__()
        self.first = _Convolution(replicates, block.incoming, block.outgoing, kernel=3, stride=block.stride)
        self.second = _Convolution(replicates, block.outgoing, block.outgoing, kernel=3, stride=1)
        self.shortcut = (
            _Convolution(replicates, block.incoming, block.outgoing, 1, block.stride) if block.resizes else None
        )

    def initialize(self, streams: Sequence[torch.Generator]) -> None:
        for convolution in (self.first, self.second, self.shortcut):
            if convolution is not None:
                convolution.initialize(streams)

    def unbind(self) -> list[tuple[tuple[Tensor, ...], ...]]:
        """The parameters of each replicate, convolution by convolution."""
        parts = [part for part in (self.first, self.second, self.shortcut) if part is not None]
        return list(zip(*(part.unbind() for part in parts), strict=True))

    def forward(self, image: Tensor, replicate: int, parameters: tuple[tuple[Tensor, ...], ...]) -> Tensor:
        """One replicate's images (B, channels, height, width)."""
        inner = torch.relu(self.first(image, replicate, parameters[0]))
        inner = self.second(inner, replicate, parameters[1])
        shortcut = image if self.shortcut is None else self.shortcut(image, replicate, parameters[2])
        summed: Tensor = inner + shortcut
        return summed
