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


STEM_CHANNELS = 64
BLOCKS = (
    Block(64, 64, 1),
    Block(64, 64, 1),
    Block(64, 128, 2),
    Block(128, 128, 1),
    Block(128, 256, 2),
    Block(256, 256, 1),
    Block(256, 512, 2),
    Block(512, 512, 1),
)


class ResNet18(Architecture):
    """stem → block1 → … → block8 → average over the image → hidden layers → head."""

    name = "resnet18"
    summary = "ResNet-18 for small images, then hidden_layers (or none) ReLU layers of width units"
    mixes_samples = True

    def refusal(self, config: NetworkConfig, inputs: InputSpec) -> str | None:
        return None if inputs.is_image else "reads images alone"

    def describe(self, config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
        _, height, width = inputs.shape
        layers = [Layer("stem", 1, (STEM_CHANNELS, height, width))]
        for number, block in enumerate(BLOCKS, 1):
            height, width = -(-height // block.stride), -(-width // block.stride)
            layers.append(Layer(f"block{number}", number + 1, (block.outgoing, height, width)))
        for number in range(1, config.hidden_layers + 1):
            feeds_head = number == config.hidden_layers
            layers.append(Layer(f"hidden{number}", len(layers) + 1, (config.width,), feeds_head))
        return tuple(layers)

    def size(self, config: NetworkConfig, inputs: InputSpec, head: Head) -> Size:
        stem, *layers = self.describe(config, inputs)
        size = _normalised_convolution(inputs.shape[0], stem, kernel=3)
        for block, layer in zip(BLOCKS, layers, strict=False):
            size += _normalised_convolution(block.incoming, layer, kernel=3)
            size += _normalised_convolution(block.outgoing, layer, kernel=3)
            if block.resizes:
                size += _normalised_convolution(block.incoming, layer, kernel=1)
        units = [BLOCKS[-1].outgoing, *[config.width] * config.hidden_layers]
        return size + dense_stack(units) + readout(units[-1], head)

    def network_class(self) -> type[ReplicatedResNet18]:
        from trainables.networks.resnet import ReplicatedResNet18

        return ReplicatedResNet18


def _normalised_convolution(incoming: int, layer: Layer, kernel: int) -> Size:
    """A convolution whose output has a layer's shape, with its batch normalisation."""
    outgoing, height, width = layer.shape
    return convolution(incoming, outgoing, kernel, height * width) + normalisation(outgoing)
