"""Names of target layers in studies: 'last', 'all', 2, 'block8+hidden1'."""

from collections.abc import Sequence

from trainables.errors import ConfigError
from trainables.networks import Layer


def target_depths(target: int | str, layers: Sequence[Layer]) -> tuple[int, ...]:
    """The depths of a target in a network with these layers.

    Args:
        target: a depth from 1, a layer's name, several of them joined by '+', 'last' or 'all'.
        layers: of the network, in order of depth.

    Raises:
        ConfigError: the network has no such layer; the message lists its layers.
    """
    if target == "last":
        return (len(layers),)
    if target == "all":
        return tuple(layer.depth for layer in layers)
    by_name = {layer.name: layer.depth for layer in layers} | {str(layer.depth): layer.depth for layer in layers}
    parts = str(target).split("+")
    missing = [part for part in parts if part not in by_name]
    if missing:
        raise ConfigError(f"there is no layer {missing[0]!r}: the network has the layers {in_words(layers)}")
    return tuple(sorted({by_name[part] for part in parts}))


def has_target(target: int | str, layers: Sequence[Layer]) -> bool:
    """Whether a network with these layers has all layers of the target."""
    try:
        return bool(target_depths(target, layers))
    except ConfigError:
        return False


def in_words(layers: Sequence[Layer]) -> str:
    """'1 hidden1, 2 hidden2': the layers with their depths."""
    return ", ".join(f"{layer.depth} {layer.name}" for layer in layers)
