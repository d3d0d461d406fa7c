"""What an architecture is: which networks it offers, their layers and sizes, and how one is built."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from trainables.config import HOMOGENEOUS_ACTIVATIONS, NetworkConfig
from trainables.errors import ConfigError
from trainables.tasks.base import InputSpec

if TYPE_CHECKING:
    from trainables.networks.base import ReplicatedNetwork


class Layer(NamedTuple):
    """A hidden layer that a self-model can target."""

    name: str
    depth: int
    shape: tuple[int, ...]  # of the activations for one sample
    feeds_head: bool = False  # whether the head reads this layer, and nothing else

    @property
    def units(self) -> int:
        """Number of activations of one sample."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Head:
    """The outputs of a network: classes, and predictions beside them."""

    classes: int
    predicted: int = 0
    hidden: int | None = None  # units of the hidden layer of a separate head; None: rows of the final linear layer
    reads: Layer | None = None  # what a separate head reads; None: the features under the final linear layer

    @property
    def rows(self) -> tuple[int, ...]:
        """Sizes of the blocks of rows of the final linear layer."""
        return (self.classes, self.predicted) if self.predicted and self.hidden is None else (self.classes,)


@dataclass(frozen=True)
class Size:
    """The size of one network, or of a part of it."""

    multiply_adds: int  # of the forward pass of one sample in evaluation
    parameters: int

    def __add__(self, other: Size) -> Size:
        return Size(self.multiply_adds + other.multiply_adds, self.parameters + other.parameters)


class Architecture(ABC):
    """A family of networks.

    A subclass describes its networks without building them, and names their class. PyTorch takes two seconds to import,
    and a study is checked without it: the architectures here are in files that do not import PyTorch at the top. An
    added architecture may share a file with its network.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    # Whether a sample's activations in training depend on the rest of its batch, as with batch normalisation.
    mixes_samples: ClassVar[bool] = False
    # Whether, with an activation function that is homogeneous, nothing but linear layers reads the hidden units.
    layers_can_scale: ClassVar[bool] = False
    # The fields of NetworkConfig that such networks have, besides `architecture`.
    fields: ClassVar[tuple[str, ...]] = ("hidden_layers", "width")

    def used(self, config: NetworkConfig) -> tuple[str, ...]:
        """The fields that make a difference to such a network."""
        return self.fields

    def has_free_scales(self, config: NetworkConfig) -> bool:
        """Whether each hidden unit can be scaled without a change of the function, so that networks can be balanced."""
        return self.layers_can_scale and config.activation in HOMOGENEOUS_ACTIVATIONS and config.normalization == "none"

    def check_fields(self, config: NetworkConfig) -> None:
        """Check that the fields which such networks do not have are at their defaults.

        Raises:
            ConfigError: one is not; two trials of equal networks would differ otherwise.
        """
        for name, field in NetworkConfig.model_fields.items():
            if name not in ("architecture", *self.fields) and getattr(config, name) != field.default:
                raise ConfigError(
                    f"{name}: makes no difference to architecture {self.name!r}: leave it at {field.default!r}"
                )

    @abstractmethod
    def refusal(self, config: NetworkConfig, inputs: InputSpec) -> str | None:
        """Why such a network cannot take such inputs, in words that follow the architecture's name; None if it can."""

    @abstractmethod
    def describe(self, config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
        """The hidden layers that such a network has, in order of depth."""

    @abstractmethod
    def network_class(self) -> type[ReplicatedNetwork]:
        """The class of the networks; import it in here."""

    def size(self, config: NetworkConfig, inputs: InputSpec, head: Head) -> Size:
        """The size of one such network.

        Looking up the vector of one position of a text counts as one multiply-add per unit. This default builds the
        network and counts; a subclass with a formula makes plans of large studies quick.
        """
        from trainables.networks.counting import counted_size

        return counted_size(self, config, inputs, head)

    def build(
        self, config: NetworkConfig, inputs: InputSpec, head: Head, seeds: Sequence[int], dropout: float = 0.0
    ) -> ReplicatedNetwork:
        """Build and initialise one replicate per seed; `dropout` is the probability to drop a hidden unit."""
        return self.network_class().build(config, inputs, head, seeds, dropout)
