"""Networks whose parameters carry a leading replicate axis.

R networks live in one module: a parameter of shape (…) is stored as (R, …). The replicates share no parameter, so
the gradient of the sum of their losses is each one's own gradient, and one optimizer trains all of them at once.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from trainables.config import NetworkConfig


class Layer(NamedTuple):
    """A hidden layer that a self-model can target."""

    name: str
    depth: int
    units: int


class Activations(NamedTuple):
    """What a forward pass gives: head outputs (R, B, O) and each hidden layer's activations (R, B, units)."""

    outputs: Tensor
    hidden: tuple[Tensor, ...]


class ReplicatedLinear(nn.Module):
    """R linear layers side by side: weight (R, outputs, inputs), bias (R, outputs)."""

    def __init__(self, replicates: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(replicates, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(replicates, outputs))

    @torch.no_grad()
    def initialize(self, generators: Sequence[torch.Generator], rows: Sequence[int] | None = None) -> None:
        """Draw PyTorch's default initialisation, U(±1/√inputs), for each replicate from its own generator.

        `rows` cuts the outputs into blocks drawn one after the other, so that the first block's values do not depend
        on whether others follow: a self-modeling network starts from the class weights of its baseline.
        """
        outputs, inputs = self.weight.shape[1:]
        bound = 1 / math.sqrt(inputs)
        for replicate, generator in enumerate(generators):
            start = 0
            for count in rows or (outputs,):
                block = slice(start, start + count)
                self.weight[replicate, block].copy_(_uniform((count, inputs), bound, generator))
                self.bias[replicate, block].copy_(_uniform((count,), bound, generator))
                start += count

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (G, B, inputs) to (R, B, outputs), R a multiple of G.

        G = R gives every replicate its own batch. A smaller G shares batch g among the replicates
        g·R/G … (g+1)·R/G − 1, in one larger matrix product.
        """
        replicates, outputs, features = self.weight.shape
        groups, batch, _ = inputs.shape
        if groups == replicates:
            return torch.baddbmm(self.bias.unsqueeze(1), inputs, self.weight.transpose(1, 2))
        together = replicates // groups * outputs
        weight = self.weight.reshape(groups, together, features).transpose(1, 2)
        grouped = torch.baddbmm(self.bias.reshape(groups, 1, together), inputs, weight)
        return grouped.view(groups, batch, -1, outputs).transpose(1, 2).reshape(replicates, batch, outputs)


class ReplicatedModule(nn.Module):
    """R models of one shape in one module.

    Every parameter and buffer has a leading replicate axis. A subclass that keeps its replicates apart (as modules that
    run one after the other) says so by `stackable = False` and overrides what reads the axis.
    """

    stackable: ClassVar[bool] = True

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
    """R classifiers of one architecture in one module; `head` is their final linear layer."""

    architecture: ClassVar[str]
    head: ReplicatedLinear

    @staticmethod
    @abstractmethod
    def describe(config: NetworkConfig) -> tuple[Layer, ...]:
        """The hidden layers that such a network has, in order of depth."""

    @classmethod
    @abstractmethod
    def build(cls, config: NetworkConfig, features: int, head_rows: Sequence[int], seeds: Sequence[int]) -> Self:
        """Build and initialise one replicate per seed; `head_rows` are the sizes of the head's blocks of outputs."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> Activations:
        """Inputs (G, B, features) to outputs (R, B, O) and hidden activations; G is R, or fewer to share batches."""

    @torch.no_grad()
    def with_head_rows(self, rows: int) -> Self:
        """A copy whose head keeps its first `rows` outputs: the classifier without the self-model's rows."""
        cut = copy.deepcopy(self)
        cut.head.weight = nn.Parameter(cut.head.weight[:, :rows].clone())
        cut.head.bias = nn.Parameter(cut.head.bias[:, :rows].clone())
        return cut


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
