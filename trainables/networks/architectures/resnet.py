"""ResNet-18 for small images, with or without fully connected hidden layers before its head."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Architecture, Head, Layer, Size
from trainables.networks.architectures.sizes import convolution, dense_stack, normalisation, readout
from trainables.tasks.base import InputSpec

if TYPE_CHECKING:
    from trainables.networks.resnet import ReplicatedResNet18


class Block(NamedTuple):
    """Input and output channels of a residual block, and the factor by which it shrinks the image."""

    incoming: int
    outgoing: int
    stride: int

    @property
    def resizes(self) -> bool:
        """Whether outputs and inputs differ in shape; the shortcut is then a convolution."""
        return self.stride > 1 or self.incoming != self.outgoing


# With one channel in the stem.
_BLOCKS = (
    Block(1, 1, 1),
    Block(1, 1, 1),
    Block(1, 2, 2),
    Block(2, 2, 1),
    Block(2, 4, 2),
    Block(4, 4, 1),
    Block(4, 8, 2),
    Block(8, 8, 1),
)


def residual_blocks(config: NetworkConfig) -> tuple[Block, ...]:
    """The eight residual blocks, in order of depth."""
    channels = config.stem_channels
    return tuple(Block(channels * block.incoming, channels * block.outgoing, block.stride) for block in _BLOCKS)


class ResNet18(Architecture):
    """stem → block1 → … → block8 → average over the image → hidden layers → head."""

    name = "resnet18"
    summary = "ResNet-18 for small images, then hidden_layers (or none) fully connected layers of width units"
    mixes_samples = True
    fields = ("hidden_layers", "width", "activation", "stem_channels")

    def used(self, config: NetworkConfig) -> tuple[str, ...]:
        return self.fields if config.hidden_layers else ("hidden_layers", "stem_channels")

    def refusal(self, config: NetworkConfig, inputs: InputSpec) -> str | None:
        return None if inputs.is_image else "reads images alone"

    def describe(self, config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
        _, height, width = inputs.shape
        layers = [Layer("stem", 1, (config.stem_channels, height, width))]
        for number, block in enumerate(residual_blocks(config), 1):
            height, width = -(-height // block.stride), -(-width // block.stride)
            layers.append(Layer(f"block{number}", number + 1, (block.outgoing, height, width)))
        for number in range(1, config.hidden_layers + 1):
            feeds_head = number == config.hidden_layers
            layers.append(Layer(f"hidden{number}", len(layers) + 1, (config.width,), feeds_head))
        return tuple(layers)

    def size(self, config: NetworkConfig, inputs: InputSpec, head: Head) -> Size:
        stem, *layers = self.describe(config, inputs)
        blocks = residual_blocks(config)
        size = _normalised_convolution(inputs.shape[0], stem, kernel=3)
        for block, layer in zip(blocks, layers, strict=False):
            size += _normalised_convolution(block.incoming, layer, kernel=3)
            size += _normalised_convolution(block.outgoing, layer, kernel=3)
            if block.resizes:
                size += _normalised_convolution(block.incoming, layer, kernel=1)
        units = [blocks[-1].outgoing, *[config.width] * config.hidden_layers]
        return size + dense_stack(units) + readout(units[-1], head)

    def network_class(self) -> type[ReplicatedResNet18]:
        from trainables.networks.resnet import ReplicatedResNet18

        return ReplicatedResNet18


def _normalised_convolution(incoming: int, layer: Layer, kernel: int) -> Size:
    """A convolution whose output has a layer's shape, with its batch normalisation."""
    outgoing, height, width = layer.shape
    return convolution(incoming, outgoing, kernel, height * width) + normalisation(outgoing)
