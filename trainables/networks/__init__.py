"""The architectures, and the networks that they build.

`architectures/` describes the networks, their layers and sizes. It does not import PyTorch, so that a study is checked
quickly. The networks themselves are in files of the same names beside `architectures/`, imported when the first one is
built.

A new architecture is one file with a subclass of Architecture and one of ReplicatedNetwork, and one line in
ARCHITECTURES. To be listed without PyTorch, the two classes need separate files.

Reading order: architectures/base, architectures/mlp, base, layers, mlp, and then any other.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from trainables.config import NetworkConfig
from trainables.errors import ConfigError
from trainables.networks.architectures.base import Architecture, Head, Layer, Size
from trainables.networks.architectures.convnet import ConvNet
from trainables.networks.architectures.embedding_bag import EmbeddingBag
from trainables.networks.architectures.mlp import MLP
from trainables.networks.architectures.resnet import ResNet18
from trainables.networks.architectures.transformer import Transformer
from trainables.registry import find
from trainables.tasks.base import InputSpec

if TYPE_CHECKING:
    from trainables.networks.base import Activations, ReplicatedModule, ReplicatedNetwork
    from trainables.networks.layers import ReplicatedLinear
else:

    def __getattr__(name: str) -> type:
        """Import the classes that need PyTorch on first use."""
        if name not in ("Activations", "ReplicatedLinear", "ReplicatedModule", "ReplicatedNetwork"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from trainables.networks import base

        return getattr(base, name)


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture for architecture in (MLP(), ConvNet(), ResNet18(), EmbeddingBag(), Transformer())
}

__all__ = [
    "ARCHITECTURES",
    "Activations",
    "Architecture",
    "Head",
    "Layer",
    "ReplicatedLinear",
    "ReplicatedModule",
    "ReplicatedNetwork",
    "Size",
    "architectures_for",
    "check_network",
    "get_architecture",
    "layers_of",
]


def get_architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        ConfigError: the name is unknown; the message lists the known ones.
    """
    return find("architecture", name, ARCHITECTURES)


def layers_of(config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
    """The hidden layers of a network, in order of depth, without building it.

    Raises:
        ConfigError: the network does not exist or does not take these inputs; the message lists the networks that do.
    """
    return _layers(get_architecture(config.architecture), config, inputs)


@lru_cache(maxsize=4096)
def _layers(architecture: Architecture, config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
    # Cached: a study asks for the layers of the same few networks many times.
    check_network(config, inputs)
    return architecture.describe(config, inputs)


def check_network(config: NetworkConfig, inputs: InputSpec) -> None:
    """Check that a network exists and takes these inputs, and that no field is set which it does not have.

    Raises:
        ConfigError: it does not; the message lists the networks that do. Or a field is set that it does not have.
    """
    architecture = get_architecture(config.architecture)
    architecture.check_fields(config)
    refusal = architecture.refusal(config, inputs)
    if refusal is not None:
        fitting = ", ".join(name for name in architectures_for(inputs) if name != config.architecture)
        others = f" (for these inputs there are also {fitting})" if fitting else ""
        raise ConfigError(f"architecture {config.architecture!r} {refusal}{others}")


def architectures_for(inputs: InputSpec) -> list[str]:
    """Names of the architectures that have a network for such inputs."""
    some = NetworkConfig(hidden_layers=1, width=64)
    return [name for name, architecture in ARCHITECTURES.items() if architecture.refusal(some, inputs) is None]
