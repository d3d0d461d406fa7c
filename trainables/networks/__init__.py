"""The architectures. A new one is one file and one line in ARCHITECTURES."""

import difflib

from trainables.config import NetworkConfig
from trainables.errors import ConfigError
from trainables.networks.base import Layer, ReplicatedLinear, ReplicatedModule, ReplicatedNetwork
from trainables.networks.mlp import ReplicatedMLP

ARCHITECTURES: dict[str, type[ReplicatedNetwork]] = {"mlp": ReplicatedMLP}

__all__ = [
    "ARCHITECTURES",
    "Layer",
    "ReplicatedLinear",
    "ReplicatedMLP",
    "ReplicatedModule",
    "ReplicatedNetwork",
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


def layers_of(config: NetworkConfig) -> tuple[Layer, ...]:
    """The hidden layers of a network, in order of depth, without building it."""
    return get_architecture(config.architecture).describe(config)
