"""The networks of a study: which there can be, and the checks that each of them exists and has a target."""

import math
import random
from collections.abc import Iterator
from itertools import chain, islice, product
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from study.spec.dimensions import ANY, Dimension, all_values, numbers_in
from study.spec.ranges import Range
from study.spec.trials import Values
from trainables.config import NetworkConfig
from trainables.errors import ConfigError
from trainables.fields import FIELDS, TARGET
from trainables.making import network_of
from trainables.networks import Layer, check_network, get_architecture, layers_of
from trainables.targets import has_target, in_words
from trainables.tasks import get_task

if TYPE_CHECKING:
    from study.spec.study import StudySpec

# All networks of a space are checked up to this number; beyond it, those with a size at an end of its range.
MOST_CHECKED = 4000
# Choices of everything but the network that are checked with one another.
MOST_COMBINED = 500

# Networks, each with its task.
Networks = list[tuple[str, NetworkConfig]]
# Tasks with the layers of their networks, by name and depth alone, and a network that has them.
ByLayers = dict[tuple[str, tuple[Layer, ...]], NetworkConfig]


def networks_of(spec: "StudySpec") -> Networks:
    """The different networks of each task; if there are too many, those with all sizes but one at an end."""
    found: dict[tuple[str, NetworkConfig], None] = {}
    for base in spec.bases:
        sizes = [name for name in spec.names if name in get_architecture(base["architecture"]).fields]
        lists = [_values_at(spec, name, base) for name in sizes]
        ends = [sorted({min(values), max(values)}) if len(values) > 2 else values for values in lists]
        combined = [product(*lists)]
        if math.prod(map(len, lists)) > MOST_CHECKED:
            # A sample of each list, so that all its combinations with the others' ends are not too many.
            room = [max(2, MOST_CHECKED * len(end) // (len(lists) * math.prod(map(len, ends)))) for end in ends]
            some = [_spread(values, most) for values, most in zip(lists, room, strict=True)]
            combined = [product(*ends[:n], some[n], *ends[n + 1 :]) for n in range(len(lists))]
        for chosen in islice(chain.from_iterable(combined), 2 * MOST_CHECKED):
            found.setdefault((base["task"], _network(base | dict(zip(sizes, chosen, strict=True)))))
    return list(found)


def layers_of_networks(networks: Networks) -> ByLayers:
    """The layers that the networks have."""
    found: ByLayers = {}
    for task, network in networks:
        layers = layers_of(network, get_task(task).shape.inputs)
        found.setdefault((task, tuple(layer._replace(shape=()) for layer in layers)), network)
    return found


def common_layers(by_layers: ByLayers) -> list[Layer]:
    """The layers, by name, that every network has."""
    networks = [layers for _, layers in by_layers]
    names = set.intersection(*({layer.name for layer in layers} for layers in networks))
    return [layer for layer in networks[0] if layer.name in names]


def check_targets(spec: "StudySpec", by_layers: ByLayers) -> None:
    """Check that every target is a layer of some network of the study.

    Raises:
        ValueError: one is none.
    """
    networks = [layers for _, layers in by_layers]
    deepest = max(networks, key=len)
    for target in spec.values(TARGET):
        if target != ANY and not any(has_target(target, layers) for layers in networks):
            raise ValueError(
                f"space.{TARGET}: no network of the study has {target!r}; the deepest has the layers "
                f"{in_words(deepest)}"
            )


def check_search(spec: "StudySpec", networks: Networks, by_layers: ByLayers) -> None:
    """Check that whatever the sampler chooses is an existing network, target and strength.

    Raises:
        ValueError: it may not be.
    """
    for task, network in networks:
        check_network(network, get_task(task).shape.inputs)
    for (task, layers), network in by_layers.items():
        targets = spec.space_dimension(TARGET, spec.base(task, network.architecture))
        assert isinstance(targets, list)
        if targets != [ANY] and not any(has_target(target, layers) for target in targets):
            raise ValueError(
                f"space.{TARGET}: the search may choose {network.hidden_layers} hidden layer(s), and no target "
                f"lies within the layers {in_words(layers)}. Raise the lower end of space.hidden_layers, or let "
                f"{TARGET} be 'any' or 'last'"
            )
    for base in spec.bases:
        _check_combinations(spec, base)


def _check_combinations(spec: "StudySpec", base: Values) -> None:
    """Check that choices go together, with the smallest and the largest network: the words all, of numbers the ends."""
    of_networks = {name: _values_at(spec, name, base) for name in spec.free_names if FIELDS[name].role == "network"}
    sizes = {name: values for name, values in of_networks.items() if len(numbers_in(values)) == len(values)}
    largest = {name: max(values) for name, values in sizes.items()}
    smallest = {name: min(values) for name, values in sizes.items()}
    networks = [largest] if smallest == largest else [smallest, largest]
    names = [name for name in spec.names if FIELDS[name].role not in ("task", "target") and name not in sizes]
    ends = [of_networks.get(name) or _ends(spec.dimension(name, base | largest)) for name in names]
    combinations: Iterator[tuple[Any, ...]] = product(*ends)
    if math.prod(map(len, ends)) > MOST_COMBINED:
        draw = random.Random(0)
        combinations = (tuple(draw.choice(values) for values in ends) for _ in range(MOST_COMBINED))
    for chosen in islice(combinations, MOST_COMBINED):
        for network in networks:
            spec.make_trial(base | network | {TARGET: "last"} | dict(zip(names, chosen, strict=True)))


def _values_at(spec: "StudySpec", name: str, base: Values) -> list[Any]:
    """Every value of a field with one architecture, those of a design among them."""
    if spec.sampler.name != "design":
        return all_values(spec.space_dimension(name, base))
    blocks = [
        block
        for block in spec.design
        if base["architecture"] in (block.values("architecture") or spec.architectures)
        and base["task"] in (block.values("task") or spec.tasks)
    ]
    values = (block.values(name) or all_values(spec.space_dimension(name, base)) for block in blocks)
    return list(dict.fromkeys(chain.from_iterable(values))) or all_values(spec.space_dimension(name, base))


def _network(values: Values) -> NetworkConfig:
    """The network with these values; an error names the field of the space."""
    try:
        return network_of(values)
    except ValidationError as error:
        details = error.errors()[0]
        name = str(details["loc"][-1])
        message = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise ConfigError(f"space.{name}: {message}, got {values[name]!r}") from error


def _spread(values: list[Any], most: int) -> list[Any]:
    """At most about so many of the values, evenly spread, the first and the last among them."""
    stride = -(-len(values) // most)
    return values if stride == 1 else [*values[::stride], values[-1]]


def _ends(dimension: Dimension) -> list[Any]:
    """The values of a dimension that are checked: of numbers, the smallest and the largest."""
    if isinstance(dimension, Range):
        return [dimension.low, dimension.high]
    numbers = numbers_in(dimension)
    if len(numbers) < len(dimension) or len(numbers) < 3:
        return dimension
    return [min(numbers), max(numbers)]
