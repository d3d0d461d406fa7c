"""The architectures. A new one is one file and one line in ARCHITECTURES."""

import difflib

from trainables.config import NetworkConfig
from trainables.errors import ConfigError
from trainables.networks.base import Activations, Head, Layer, ReplicatedModule, ReplicatedNetwork
from trainables.networks.convnet import ReplicatedConvNet
from trainables.networks.embedding_bag import ReplicatedEmbeddingBag
from trainables.networks.layers import ReplicatedLinear
from trainables.networks.mlp import ReplicatedMLP
from trainables.networks.resnet import ReplicatedResNet18
from trainables.networks.transformer import ReplicatedTransformer
from trainables.tasks.base import InputSpec

ARCHITECTURES: dict[str, type[ReplicatedNetwork]] = {
    network.architecture: network
    for network in (ReplicatedMLP, ReplicatedConvNet, ReplicatedResNet18, ReplicatedEmbeddingBag, ReplicatedTransformer)
}

__all__ = [
    "ARCHITECTURES",
    "Activations",
    "Head",
    "Layer",
    "ReplicatedLinear",
    "ReplicatedModule",
    "ReplicatedNetwork",
    "architectures_for",
    "get_architecture",
    "layers_of",
]


def get_architecture(name: str) -> type[ReplicatedNetwork]:
    """The network class of that name.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name not in ARCHITECTURES:
        close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"architecture {name!r} is unknown: {hint}the architectures are {', '.join(sorted(ARCHITECTURES))}"
        )
    return ARCHITECTURES[name]


def layers_of(config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
    """The hidden layers of a network, in order of depth, without building it.

    Raises:
        ConfigError: there is no such network for such inputs; the message says why and which there are.
    """
    architecture = get_architecture(config.architecture)
    refusal = architecture.refusal(config, inputs)
    if refusal is not None:
        fitting = ", ".join(name for name in architectures_for(inputs) if name != config.architecture)
        others = f" (for these inputs there are also {fitting})" if fitting else ""
        raise ConfigError(f"architecture {config.architecture!r} {refusal}{others}")
    return architecture.describe(config, inputs)


def architectures_for(inputs: InputSpec) -> list[str]:
    """Names of the architectures that some network for such inputs can be built of."""
    some = NetworkConfig(hidden_layers=1, width=64)
    return [name for name, architecture in ARCHITECTURES.items() if architecture.refusal(some, inputs) is None]
