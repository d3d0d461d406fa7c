"""A small transformer that classifies texts."""

from collections.abc import Collection, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Head
from trainables.networks.base import Activations, ReplicatedNetwork, make_dropout
from trainables.networks.layers import ReplicatedEmbedding, ReplicatedLayerNorm, ReplicatedLinear, numbered
from trainables.seeds import generators
from trainables.tasks.base import InputSpec

# Standard deviation of the initial token and position vectors (Radford et al. 2018).
EMBEDDING_STD = 0.02


class ReplicatedTransformer(ReplicatedNetwork):
    """R networks: tokens and positions → block1 → … → head.

    Pre-normalised blocks (Xiong et al. 2020, arXiv 2002.04745) of self-attention over the first tokens of a text and a
    GELU perceptron. A block's activations are its outputs averaged over these tokens. For the last block this is after
    the final layer normalisation; the head reads them.
    """

    evaluation_batch: ClassVar[int] = 256
    tokens: ReplicatedEmbedding
    positions: ReplicatedEmbedding
    blocks: nn.ModuleList
    norm: ReplicatedLayerNorm

    @classmethod
    def build(
        cls, config: NetworkConfig, inputs: InputSpec, head: Head, seeds: Sequence[int], dropout: float = 0.0
    ) -> Self:
        assert inputs.vocabulary is not None
        network = cls(head.classes)
        streams, replicates = generators(seeds, "initialisation"), len(seeds)
        longest = min(config.context_length, inputs.shape[0])
        network.tokens = ReplicatedEmbedding(replicates, inputs.vocabulary, config.width)
        network.positions = ReplicatedEmbedding(replicates, longest, config.width)
        network.blocks = nn.ModuleList(_Block(replicates, config) for _ in range(config.hidden_layers))
        network.norm = ReplicatedLayerNorm(replicates, config.width)
        for module in (network.tokens, network.positions, *network.blocks):
            module.initialize(streams)
        with torch.no_grad():
            for table in (network.tokens, network.positions):
                table.weight.mul_(EMBEDDING_STD)
        network.dropout = make_dropout(dropout, seeds)
        network._add_head(config.width, head, seeds, streams)
        return network

    def forward(self, inputs: Tensor, record: Collection[int] = ()) -> Activations:
        tokens = inputs[..., : self.positions.weight.shape[1]]
        # The longest text of the batch: attention beyond it is not needed.
        tokens = tokens[..., : max(1, int((tokens >= 0).sum(dim=2).max()))]
        stream = self.tokens(tokens) + self.positions.weight[:, None, : tokens.shape[2]]
        present = (tokens >= 0).repeat_interleave(self.replicates // len(tokens), dim=0)
        hidden = {}
        for depth, block in enumerate(self.blocks, 1):
            stream = block(stream, present)
            if depth < len(self.blocks) and depth in record:
                hidden[depth] = _mean_over_tokens(stream, present)
            if self.dropout is not None:
                stream = self.dropout(stream)
        features = _mean_over_tokens(self.norm(stream.flatten(1, 2)).view_as(stream), present)
        if len(self.blocks) in record:
            hidden[len(self.blocks)] = features
        return self._read(features, hidden)

    def hidden_modules(self) -> dict[str, nn.Module]:
        return numbered("block", self.blocks)


class _Block(nn.Module):
    """R blocks: x + attention(norm(x)), then x + perceptron(norm(x))."""

    def __init__(self, replicates: int, config: NetworkConfig):
        super().__init__()
        units, expanded = config.width, config.expansion * config.width
        self._attention_head_units = config.attention_head_units
        self.attention_norm = ReplicatedLayerNorm(replicates, units)
        self.queries_keys_values = ReplicatedLinear(replicates, units, 3 * units)
        self.mixed = ReplicatedLinear(replicates, units, units)
        self.perceptron_norm = ReplicatedLayerNorm(replicates, units)
        self.expand = ReplicatedLinear(replicates, units, expanded)
        self.contract = ReplicatedLinear(replicates, expanded, units)

    def initialize(self, streams: Sequence[torch.Generator]) -> None:
        for layer in (self.queries_keys_values, self.mixed, self.expand, self.contract):
            layer.initialize(streams)

    def forward(self, stream: Tensor, present: Tensor) -> Tensor:
        """Stream (R, B, L, units); `present` (R, B, L) marks the tokens within a text."""
        shape = stream.shape
        flat = stream.flatten(1, 2)
        flat = flat + self.mixed(self._attend(self.attention_norm(flat).view(shape), present).view_as(flat))
        flat = flat + self.contract(functional.gelu(self.expand(self.perceptron_norm(flat))))
        summed: Tensor = flat
        return summed.view(shape)

    def _attend(self, stream: Tensor, present: Tensor) -> Tensor:
        replicates, batch, longest, units = stream.shape
        projected = self.queries_keys_values(stream.flatten(1, 2))
        shape = (replicates * batch, longest, 3, -1, self._attention_head_units)
        # Each (R·B, attention heads, L, units per head).
        queries, keys, values = projected.view(shape).permute(2, 0, 3, 1, 4)
        # An empty text attends to its first position: a softmax over no tokens would be NaN.
        seen = present.clone()
        seen[..., 0] = True
        mixed: Tensor = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen.view(-1, 1, 1, longest)
        )
        return mixed.transpose(1, 2).reshape(replicates, batch, longest, units)


def _mean_over_tokens(stream: Tensor, present: Tensor) -> Tensor:
    kept = present.unsqueeze(3)
    return (stream * kept).sum(dim=2) / kept.sum(dim=2).clamp(min=1)
