"""A small convolutional network, which trains on a laptop."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Architecture, Head, Layer, Size
from trainables.networks.architectures.sizes import NOTHING, biases, convolution, dense, readout
from trainables.tasks.base import InputSpec

if TYPE_CHECKING:
    from trainables.networks.convnet import ReplicatedConvNet


class ConvNet(Architecture):
    """conv1 → … → dense → head. Each stage halves the image and doubles the channels."""

    name = "convnet"
    summary = (
        "hidden_layers stages of convolution, pooling and activation, with width, 2·width, … channels, then a dense "
        "layer of dense_units_per_channel·width units"
    )
    fields = ("hidden_layers", "width", "activation", "kernel_size", "dense_units_per_channel")
    layers_can_scale = True

    def refusal(self, config: NetworkConfig, inputs: InputSpec) -> str | None:
        if not inputs.is_image:
            return "reads images alone"
        if config.hidden_layers < 1:
            return "needs hidden_layers 1 or more"
        stages = min(inputs.shape[1:]).bit_length() - 1
        if config.hidden_layers > stages:
            return (
                f"halves the image in each stage, which {inputs.shape[1]}×{inputs.shape[2]} pixels allow {stages} times"
            )
        return None

    def describe(self, config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
        _, height, width = inputs.shape
        stages = tuple(
            Layer(f"conv{n}", n, (config.width * 2 ** (n - 1), height >> n, width >> n))
            for n in range(1, config.hidden_layers + 1)
        )
        dense_units = config.dense_units_per_channel * config.width
        return (*stages, Layer("dense", len(stages) + 1, (dense_units,), feeds_head=True))

    def size(self, config: NetworkConfig, inputs: InputSpec, head: Head) -> Size:
        *stages, last = self.describe(config, inputs)
        size = NOTHING
        for (incoming, height, width), (outgoing, *_) in pairwise([inputs.shape, *(stage.shape for stage in stages)]):
            size += convolution(incoming, outgoing, config.kernel_size, pixels=height * width) + biases(outgoing)
        return size + dense(stages[-1].units, last.units) + readout(last.units, head)

    def network_class(self) -> type[ReplicatedConvNet]:
        from trainables.networks.convnet import ReplicatedConvNet

        return ReplicatedConvNet
