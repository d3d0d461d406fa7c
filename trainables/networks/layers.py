"""Layers with a leading replicate axis, initialised as PyTorch initialises its own."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.config import HOMOGENEOUS_ACTIVATIONS, ActivationFunction, Normalization

ACTIVATIONS: dict[ActivationFunction, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
}
# Those with f(c·x) = c·f(x) for c > 0.
HOMOGENEOUS = tuple(ACTIVATIONS[name] for name in HOMOGENEOUS_ACTIVATIONS)


# PyTorch's defaults for batch normalisation.
NORM_MOMENTUM, NORM_EPSILON = 0.1, 1e-5


class ReplicatedLinear(nn.Module):
    """R linear layers side by side: weight (R, outputs, inputs), bias (R, outputs)."""

    def __init__(self, replicates: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(replicates, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(replicates, outputs))

    @torch.no_grad()
    def initialize(self, generators: Sequence[torch.Generator], rows: Sequence[int] | None = None) -> None:
        """Draw PyTorch's default initialisation, U(±1/√inputs), for each replicate from its own generator.

        `rows` divides the outputs into blocks drawn one after the other, so that later blocks do not change the values
        of the first: a self-modeling network starts from the class weights of its baseline.
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


class ReplicatedHiddenLayers(nn.Module):
    """R stacks of fully connected layers; `sizes` lists the inputs and then the units of each layer."""

    def __init__(
        self,
        replicates: int,
        sizes: Sequence[int],
        activation: ActivationFunction,
        normalization: Normalization = "none",
    ):
        super().__init__()
        kind = ReplicatedLinear if normalization == "none" else ReplicatedNormalizedLinear
        self.layers = nn.ModuleList(kind(replicates, incoming, outgoing) for incoming, outgoing in pairwise(sizes))
        self._activation = ACTIVATIONS[activation]
        self._is_normalized = normalization != "none"

    @property
    def is_homogeneous(self) -> bool:
        """Whether a unit's weights and bias times c > 0 give c times its activation."""
        return self._activation in HOMOGENEOUS and not self._is_normalized

    @property
    def weights_and_biases(self) -> list[tuple[str, Tensor, Tensor]]:
        """The name of each layer, its weights (R, units, inputs) and biases (R, units)."""
        layers = [layer for layer in self.layers if isinstance(layer, ReplicatedLinear)]
        return [(f"hidden{number}", layer.weight, layer.bias) for number, layer in enumerate(layers, 1)]

    def initialize(self, generators: Sequence[torch.Generator]) -> None:
        """Draw PyTorch's default initialisation, layer by layer."""
        for layer in self.layers:
            assert isinstance(layer, ReplicatedLinear)
            layer.initialize(generators)

    def forward(
        self,
        features: Tensor,
        first_depth: int,
        record: Collection[int],
        hidden: dict[int, Tensor],
        dropout: "ReplicatedDropout | None",
    ) -> Tensor:
        """Map (G or R, B, inputs) to (R, B, units); put activations of depths `record` into `hidden`."""
        for depth, layer in enumerate(self.layers, first_depth):
            features = self._activation(layer(features))
            if depth in record:
                hidden[depth] = features
            if dropout is not None:
                features = dropout(features)
        return features


class ReplicatedConv2d(nn.Module):
    """The weights of R convolutions with square kernels: weight (R, outputs, inputs, k, k), bias (R, outputs) or none.

    It has no forward pass: a grouped convolution is slower than R convolutions in turn. Networks run their replicates
    one after the other, with the parameters from `unbind`.
    """

    def __init__(self, replicates: int, inputs: int, outputs: int, kernel: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(replicates, outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(replicates, outputs)) if bias else None

    @torch.no_grad()
    def initialize(self, generators: Sequence[torch.Generator]) -> None:
        """Draw PyTorch's default initialisation, U(±1/√(inputs·k²)), for each replicate from its own generator."""
        bound = 1 / math.sqrt(self.weight[0, 0].numel())
        for replicate, generator in enumerate(generators):
            self.weight[replicate].copy_(_uniform(self.weight.shape[1:], bound, generator))
            if self.bias is not None:
                self.bias[replicate].copy_(_uniform(self.bias.shape[1:], bound, generator))

    def unbind(self) -> list[tuple[Tensor, ...]]:
        """The parameters of each replicate."""
        parameters = (self.weight,) if self.bias is None else (self.weight, self.bias)
        return list(zip(*(parameter.unbind() for parameter in parameters), strict=True))


class ReplicatedNorm(nn.Module):
    """The scales and shifts of R normalisations of `units` units, (R, units): initially weight 1, bias 0."""

    def __init__(self, replicates: int, units: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(replicates, units))
        self.bias = nn.Parameter(torch.zeros(replicates, units))


class ReplicatedLayerNorm(ReplicatedNorm):
    """R layer normalisations: (R, B, units) to zero mean and unit variance of each sample, then scaled and shifted."""

    def forward(self, inputs: Tensor) -> Tensor:
        normalized = functional.layer_norm(inputs, inputs.shape[-1:])
        return torch.addcmul(self.bias.unsqueeze(1), normalized, self.weight.unsqueeze(1))


class ReplicatedBatchNorm(ReplicatedNorm):
    """R batch normalisations; networks with convolutions use its state alone, and run their replicates in turn.

    Running means and variances (R, units) are buffers, updated in training with PyTorch's momentum of 0.1.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, replicates: int, units: int):
        super().__init__(replicates, units)
        self.register_buffer("running_mean", torch.zeros(replicates, units))
        self.register_buffer("running_var", torch.ones(replicates, units))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (R, B, units) to the same shape: each unit over its batch in training, by running averages otherwise."""
        batch = inputs.shape[1]
        # Units of different replicates are different channels of one normalisation.
        normalized = functional.batch_norm(
            inputs.transpose(0, 1).reshape(batch, -1),
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            self.training,
            NORM_MOMENTUM,
            NORM_EPSILON,
        )
        return normalized.view(batch, *self.weight.shape).transpose(0, 1)


class ReplicatedNormalizedLinear(ReplicatedLinear):
    """R linear layers, each followed by its batch normalisation."""

    def __init__(self, replicates: int, inputs: int, outputs: int):
        super().__init__(replicates, inputs, outputs)
        self.norm = ReplicatedBatchNorm(replicates, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        normalized: Tensor = self.norm(super().forward(inputs))
        return normalized


class ReplicatedEmbedding(nn.Module):
    """R tables of a vector per token: weight (R, vocabulary, units), drawn from N(0, 1) as PyTorch does."""

    def __init__(self, replicates: int, vocabulary: int, units: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(replicates, vocabulary, units))
        self.sparse = False  # whether gradients are sparse in training; in evaluation they are dense

    @torch.no_grad()
    def initialize(self, generators: Sequence[torch.Generator]) -> None:
        """Draw PyTorch's default initialisation for each replicate from its own generator."""
        for replicate, generator in enumerate(generators):
            self.weight[replicate].copy_(torch.randn(self.weight.shape[1:], generator=generator))

    def mean(self, tokens: Tensor) -> Tensor:
        """Map tokens (G, B, longest), negative after a text's end, to the mean vector of each text, (R, B, units)."""
        vectors: Tensor = _EmbeddingMean.apply(self.weight, tokens, self.sparse and self.training)
        return vectors

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (G, B, longest), negative after a text's end, to their vectors, (R, B, longest, units)."""
        replicates, _, units = self.weight.shape
        each = tokens.clamp(min=0).repeat_interleave(replicates // len(tokens), dim=0).long()
        return functional.embedding(each + _first_rows(self.weight).view(-1, 1, 1), self.weight.view(-1, units))


class ReplicatedDropout(nn.Module):
    """Dropout that each of R replicates draws from a generator of its own.

    So a replicate drops the same units whether it is trained alone or with others. The generators draw on the CPU and
    are not copied: copies of a network are only measured, in evaluation mode.
    """

    def __init__(self, probability: float, generators: Sequence[torch.Generator]):
        super().__init__()
        self._probability = probability
        self._generators = generators

    def forward(self, inputs: Tensor, replicate: int | None = None) -> Tensor:
        """Drop units of (R, B, …), or of one replicate's (B, …); scale the kept units by 1/(1 − probability)."""
        if not self.training:
            return inputs
        if replicate is None:
            masks = torch.stack([self._mask(inputs.shape[1:], generator) for generator in self._generators])
        else:
            masks = self._mask(inputs.shape, self._generators[replicate])
        return inputs * masks.to(inputs.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ReplicatedDropout":
        copied = ReplicatedDropout(self._probability, self._generators)
        return copied.train(self.training)

    def _mask(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        kept = 1 - self._probability
        return torch.empty(shape).bernoulli_(kept, generator=generator) / kept


class _EmbeddingMean(torch.autograd.Function):
    """Mean of embedding vectors over the tokens of each text, with a sparse gradient if requested.

    PyTorch's own embedding_bag has sparse gradients for one table only, not for a stack of them.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor, sparse: bool) -> Tensor:
        replicates, _, units = weight.shape
        each = tokens.repeat_interleave(replicates // len(tokens), dim=0)
        present = each >= 0
        of_text = present.sum(dim=2)
        lengths = of_text.flatten()
        offsets = lengths.cumsum(0) - lengths
        flat = each[present].long() + _first_rows(weight).repeat_interleave(of_text.sum(dim=1))
        means = functional.embedding_bag(flat, weight.view(-1, units), offsets, mode="mean")
        ctx.save_for_backward(flat, lengths)
        ctx.shape, ctx.sparse = weight.shape, sparse
        return means.view(replicates, tokens.shape[1], units)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        flat, lengths = ctx.saved_tensors
        _, vocabulary, units = ctx.shape
        per_text = gradients[0].reshape(-1, units) / lengths.clamp(min=1).unsqueeze(1)
        per_token = per_text.repeat_interleave(lengths, dim=0)
        if ctx.sparse:
            where = torch.stack([flat // vocabulary, flat % vocabulary])
            return torch.sparse_coo_tensor(where, per_token, ctx.shape, check_invariants=False), None, None
        dense = per_token.new_zeros(ctx.shape)
        dense.view(-1, units).index_add_(0, flat, per_token)
        return dense, None, None


def numbered(prefix: str, modules: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """The modules as prefix1, prefix2, …"""
    return {f"{prefix}{number}": module for number, module in enumerate(modules, 1)}


def weights_of(module: nn.Module) -> Tensor:
    """All weights of a module, biases and normalisations left out, (R, weights)."""
    kinds = (ReplicatedLinear, ReplicatedConv2d, ReplicatedEmbedding)
    found = [each.weight.flatten(1) for each in module.modules() if isinstance(each, kinds)]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _first_rows(weight: Tensor) -> Tensor:
    """The first row of each of the R tables, laid one below the other, (R,)."""
    replicates, vocabulary = weight.shape[:2]
    return torch.arange(replicates, device=weight.device) * vocabulary


def _uniform(shape: Sequence[int], bound: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
