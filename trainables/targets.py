"""Names of target layers in studies: 'last', 'all', 2, 'block8+hidden1'."""

import re
from collections.abc import Sequence

from pydantic_core import PydanticCustomError

from trainables.errors import ConfigError
from trainables.networks import Layer

LAYER_NAME = re.compile(r"[A-Za-z_]\w*")
LAYER_DEPTH = re.compile(r"[0-9]{1,4}")
# Characters of a target that names layers.
LONGEST_TARGET = 200


def parse_target(target: int | str) -> int | str:
    """The shortest form of a target: 2, "2", "1+3", "hidden2", "last", "all".

    Raises:
        PydanticCustomError: it is none.
    """
    if target in ("last", "all"):
        return target
    text = str(target) if isinstance(target, str) or abs(target) < 10_000 else ""
    parts = [part.strip() for part in text[: LONGEST_TARGET + 1].split("+")]
    depths = {int(part) for part in parts if LAYER_DEPTH.fullmatch(part)}
    names = {part for part in parts if LAYER_NAME.fullmatch(part)}
    unclear = 0 in depths or len(depths) + len(names) < len(set(parts)) or names & {"last", "all", "any"}
    if unclear or len(text) > LONGEST_TARGET:
        raise PydanticCustomError(
            "target_depth",
            "not a target: give a depth from 1 (2) or a layer's name (hidden2), several together ('1+2'), 'last', "
            "'all' or 'any' (the search chooses one layer)",
        )
    if len(depths) == 1 and not names:
        return depths.pop()
    return "+".join([*map(str, sorted(depths)), *sorted(names)])


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
