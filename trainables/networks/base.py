"""Networks whose parameters carry a leading replicate axis.

R networks live in one module: a parameter of shape (…) is stored as (R, …). The replicates share no parameter, so
the gradient of the sum of their losses is each one's own gradient, and one optimizer trains all of them at once.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from trainables.config import NetworkConfig
from trainables.networks.layers import ReplicatedDropout, ReplicatedLinear
from trainables.seeds import generators
from trainables.tasks.base import InputSpec


class Layer(NamedTuple):
    """A hidden layer that a self-model can target."""

    name: str
    depth: int
    shape: tuple[int, ...]  # of one sample's activations
    feeds_head: bool = False  # whether the head reads this layer, and nothing else

    @property
    def units(self) -> int:
        """Number of activations of one sample."""
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Head:
    """What a network puts out: the classes, and what it predicts beside them."""

    classes: int
    predicted: int = 0
    hidden: int | None = None  # units of the hidden layer of a separate head; None: rows of the final linear layer

    @property
    def rows(self) -> tuple[int, ...]:
        """Sizes of the blocks of rows of the final linear layer."""
        return (self.classes, self.predicted) if self.predicted and self.hidden is None else (self.classes,)


class Activations(NamedTuple):
    """What a forward pass gives."""

    logits: Tensor  # (R, B, classes)
    prediction: Tensor | None  # (R, B, predicted)
    features: Tensor  # (R, B, F), what the head reads
    hidden: Mapping[int, Tensor]  # by depth, (R, B, units), those that were asked for


class ReplicatedModule(nn.Module):
    """R models of one shape in one module.

    Every parameter and buffer has a leading replicate axis. A subclass that keeps its replicates apart (as modules that
    run one after the other) says so by `stackable = False` and overrides what reads the axis.
    """

    stackable: ClassVar[bool] = True
    # Samples in one forward pass of an evaluation, which bounds its memory.
    evaluation_batch: ClassVar[int] = 2048

    @property
    def replicates(self) -> int:
        return next(self.parameters()).shape[0]

    def repeated(self, times: int) -> Self:
        """A copy of the whole replicate axis `times` times over: copy c of replicate r is at index c·R + r."""
        return self._with_axis(lambda tensor: tensor.repeat(times, *(1 for _ in tensor.shape[1:])))

    def replicate(self, index: int) -> Self:
        """A copy of one replicate, alone."""
        return self._with_axis(lambda tensor: tensor[index : index + 1].clone())

    @torch.no_grad()
    def _with_axis(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed = copy.deepcopy(self)
        for tensor in (*changed.parameters(), *changed.buffers()):
            tensor.data = change(tensor.data)
        return changed


class ReplicatedNetwork(ReplicatedModule, ABC):
    """R classifiers of one architecture in one module.

    `head` is the final linear layer; its rows beyond the classes, or `separate_head` where there is one, predict.
    """

    architecture: ClassVar[str]
    summary: ClassVar[str]
    # Whether training sets the samples of a batch against each other, as batch normalisation does.
    mixes_samples: ClassVar[bool] = False
    head: ReplicatedLinear
    separate_head: nn.Sequential | None
    dropout: ReplicatedDropout | None

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes

    @classmethod
    @abstractmethod
    def refusal(cls, config: NetworkConfig, inputs: InputSpec) -> str | None:
        """Why such a network cannot be built for such inputs, in words that follow its name; None if it can."""

    @classmethod
    @abstractmethod
    def describe(cls, config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
        """The hidden layers that such a network has, in order of depth."""

    @classmethod
    @abstractmethod
    def build(
        cls, config: NetworkConfig, inputs: InputSpec, head: Head, seeds: Sequence[int], dropout: float = 0.0
    ) -> Self:
        """Build and initialise one replicate per seed.

        Every part draws from a stream of the replicate's seed in its order of depth, the head last and the classes
        first in it: a self-modeling network starts from the weights of its baseline.
        """

    @abstractmethod
    def forward(self, inputs: Tensor, record: Collection[int] = ()) -> Activations:
        """Inputs (G, B, …) to what R replicates make of them, and the activations of the layers of depths `record`.

        G = R gives every replicate its own batch. A smaller G shares batch g among the replicates
        g·R/G … (g+1)·R/G − 1.
        """

    @abstractmethod
    def layer_weights(self) -> dict[str, Tensor]:
        """The weights of each hidden layer by its name, (R, …), without biases."""

    def use_sparse_gradients(self) -> bool:
        """Let gradients of large tables be sparse in training; whether there are any."""
        return False

    @torch.no_grad()
    def classifier(self) -> Self:
        """A copy without what predicts activations: the classification network alone."""
        alone = copy.deepcopy(self)
        alone.head.weight = nn.Parameter(alone.head.weight[:, : self.classes].clone())
        alone.head.bias = nn.Parameter(alone.head.bias[:, : self.classes].clone())
        alone.separate_head = None
        return alone

    def _add_head(self, features: int, head: Head, seeds: Sequence[int], streams: Sequence[torch.Generator]) -> None:
        """Build and initialise the head; the last step of `build`."""
        replicates = len(seeds)
        self.head = ReplicatedLinear(replicates, features, sum(head.rows))
        self.head.initialize(streams, head.rows)
        self.separate_head = None
        if head.predicted and head.hidden is not None:
            hidden = ReplicatedLinear(replicates, features, head.hidden)
            prediction = ReplicatedLinear(replicates, head.hidden, head.predicted)
            hidden.initialize(streams)
            prediction.initialize(streams)
            self.separate_head = nn.Sequential(hidden, nn.ReLU(), prediction)

    def _read(self, features: Tensor, hidden: Mapping[int, Tensor]) -> Activations:
        """Let the head read the features (R, B, F)."""
        outputs = self.head(features)
        logits, prediction = outputs[..., : self.classes], None
        if self.separate_head is not None:
            prediction = self.separate_head(features)
        elif outputs.shape[2] > self.classes:
            prediction = outputs[..., self.classes :]
        return Activations(logits, prediction, features, hidden)


def make_dropout(probability: float, seeds: Sequence[int]) -> ReplicatedDropout | None:
    """The dropout after every hidden layer, None where there is none."""
    return ReplicatedDropout(probability, generators(seeds, "dropout")) if probability else None
