"""Networks whose parameters carry a leading replicate axis.

R networks live in one module: a parameter of shape (…) is stored as (R, …). The replicates share no parameter, so the
gradient of their summed loss holds each replicate's own gradient, and one optimizer trains all of them at once.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Head
from trainables.networks.layers import ReplicatedDropout, ReplicatedLinear, weights_of
from trainables.seeds import generators
from trainables.tasks.base import InputSpec


class Activations(NamedTuple):
    """The results of a forward pass."""

    logits: Tensor  # (R, B, classes)
    prediction: Tensor | None  # (R, B, predicted)
    features: Tensor  # (R, B, F), inputs of the head
    hidden: Mapping[int, Tensor]  # by depth, (R, B, units), for the requested layers


class Connection(NamedTuple):
    """Weights by which units of one layer read those of another."""

    weight: Tensor  # (R, outputs, inputs, …), a view of a parameter; a bias is (R, outputs, 1)
    reads: str | None  # the layer of the inputs; None of those of the network, and of a bias
    writes: str | None  # the layer of the outputs; None of the classes


class ReplicatedModule(nn.Module):
    """R models of one shape in one module.

    Every parameter and buffer has a leading replicate axis. A subclass without this axis, which keeps its replicates as
    separate modules that run in turn, sets `stackable = False` and overrides the methods that use the axis.
    """

    stackable: ClassVar[bool] = True
    # Samples per forward pass in evaluation, to bound its memory.
    evaluation_batch: ClassVar[int] = 2048

    @property
    def replicates(self) -> int:
        return next(self.parameters()).shape[0]

    def repeated(self, times: int) -> Self:
        """A copy of the whole replicate axis `times` times over: copy c of replicate r is at index c·R + r."""
        return self._with_axis(lambda tensor: tensor.repeat(times, *(1 for _ in tensor.shape[1:])))

    def replicate(self, index: int) -> Self:
        """A copy of one replicate."""
        return self._with_axis(lambda tensor: tensor[index : index + 1].clone())

    def alone(self) -> list[Self]:
        """A copy of each replicate."""
        return [self.replicate(index) for index in range(self.replicates)]

    def leading(self, replicates: int) -> Self:
        """A copy of the first replicates."""
        return self._with_axis(lambda tensor: tensor[:replicates].clone())

    @torch.no_grad()
    def _with_axis(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed = copy.deepcopy(self)
        for tensor in (*changed.parameters(), *changed.buffers()):
            tensor.data = change(tensor.data)
        return changed


class ReplicatedNetwork(ReplicatedModule, ABC):
    """R classifiers of one architecture in one module.

    `head` is the final linear layer. Its rows after the classes predict, or `separate_head` does if there is one.
    """

    head: ReplicatedLinear
    separate_head: nn.Sequential | None
    dropout: ReplicatedDropout | None

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        # Depth of the layer that the separate head reads; 0: the one under the final layer.
        self.predict_from = 0

    @classmethod
    @abstractmethod
    def build(
        cls, config: NetworkConfig, inputs: InputSpec, head: Head, seeds: Sequence[int], dropout: float = 0.0
    ) -> Self:
        """Build and initialise one replicate per seed.

        The parts draw from one stream of the replicate's seed in order of depth. The head is last, and its classes come
        first: a self-modeling network thus starts from the weights of its baseline.
        """

    @abstractmethod
    def forward(self, inputs: Tensor, record: Collection[int] = ()) -> Activations:
        """Map inputs (G, B, …) to the outputs of R replicates and the activations of the layers at depths `record`.

        A separate head predicts only if the layer that it reads is recorded.
        G = R gives every replicate its own batch. A smaller G shares batch g among the replicates
        g·R/G … (g+1)·R/G − 1.
        """

    @property
    def generators(self) -> Sequence[torch.Generator]:
        """The random streams from which training draws, those of dropout; one per replicate, or none."""
        return () if self.dropout is None else self.dropout._generators

    @abstractmethod
    def hidden_modules(self) -> dict[str, nn.Module]:
        """The modules that hold the parameters of each hidden layer, by its name."""

    def layer_weights(self) -> dict[str, Tensor]:
        """The weights of each hidden layer by its name, (R, weights), without biases."""
        return {name: weights_of(module) for name, module in self.hidden_modules().items()}

    def layer_parameters(self) -> dict[str, list[str]]:
        """The names of all parameters of each hidden layer and of the head, by the layer's name."""
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        modules = self.hidden_modules() | {"head": self.head}
        return {layer: [names[id(parameter)] for parameter in module.parameters()] for layer, module in modules.items()}

    def rescalable(self) -> Sequence[Connection] | None:
        """All weights and biases of the classifier, if its hidden units have a scale that is free; None otherwise.

        It is free if each unit's incoming weights and bias times c > 0, and its outgoing ones divided by c, give the
        same function.
        """
        return None

    def use_sparse_gradients(self) -> bool:
        """Make gradients of large tables sparse in training; True if the network has such tables."""
        return False

    @torch.no_grad()
    def classifier(self) -> Self:
        """A copy of the classification network, without the part that predicts activations."""
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
            read = features if head.reads is None else head.reads.units
            self.predict_from = 0 if head.reads is None else head.reads.depth
            hidden = ReplicatedLinear(replicates, read, head.hidden)
            prediction = ReplicatedLinear(replicates, head.hidden, head.predicted)
            hidden.initialize(streams)
            prediction.initialize(streams)
            self.separate_head = nn.Sequential(hidden, nn.ReLU(), prediction)

    def _read(self, features: Tensor, hidden: Mapping[int, Tensor]) -> Activations:
        """Let the head read the features (R, B, F)."""
        outputs = self.head(features)
        logits, prediction = outputs[..., : self.classes], None
        if self.separate_head is not None:
            # Without the layer that it reads there is no prediction.
            if not self.predict_from or self.predict_from in hidden:
                prediction = self.separate_head(hidden[self.predict_from] if self.predict_from else features)
        elif outputs.shape[2] > self.classes:
            prediction = outputs[..., self.classes :]
        return Activations(logits, prediction, features, hidden)


def chain(layers: Iterable[tuple[str, Tensor, Tensor | None]]) -> list[Connection]:
    """The connections of layers of which each reads the one before, given as name, weights and bias; the head is last.

    Weights are (R, outputs, inputs, …), biases (R, outputs).
    """
    found: list[Connection] = []
    *hidden, (_, weight, bias) = layers
    reads = None
    for name, of_layer, of_bias in (*hidden, (None, weight, bias)):
        found.append(Connection(of_layer, reads, name))
        if of_bias is not None:
            found.append(Connection(of_bias.unsqueeze(2), None, name))
        reads = name
    return found


def make_dropout(probability: float, seeds: Sequence[int]) -> ReplicatedDropout | None:
    """The dropout after every hidden layer; None for probability 0."""
    return ReplicatedDropout(probability, generators(seeds, "dropout")) if probability else None
