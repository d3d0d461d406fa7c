"""The text classifier of the published study: the mean of a text's token vectors, hidden ReLU layers, a linear head."""

from collections.abc import Collection, Sequence
from typing import ClassVar, Self

from torch import Tensor

from trainables.config import NetworkConfig
from trainables.networks.base import Activations, Head, Layer, ReplicatedNetwork, make_dropout
from trainables.networks.layers import ReplicatedEmbedding, ReplicatedHiddenLayers, weights_by_name
from trainables.seeds import generators
from trainables.tasks.base import InputSpec

# Premakumar et al. (2024), arXiv 2407.10188.
EMBEDDING_UNITS = 64


class ReplicatedEmbeddingBag(ReplicatedNetwork):
    """R networks: tokens → embedding (mean of 64-dimensional vectors) → hidden1 → … → head, ReLU after hidden ones."""

    architecture: ClassVar[str] = "embedding_bag"
    embedding: ReplicatedEmbedding
    hidden: ReplicatedHiddenLayers
    summary: ClassVar[str] = (
        f"mean of {EMBEDDING_UNITS}-dimensional token vectors, then hidden_layers ReLU layers of width units"
    )

    @classmethod
    def refusal(cls, config: NetworkConfig, inputs: InputSpec) -> str | None:
        if not inputs.is_text:
            return "reads text alone"
        return "needs hidden_layers 1 or more" if config.hidden_layers < 1 else None

    @classmethod
    def describe(cls, config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
        last = config.hidden_layers
        return (
            Layer("embedding", 1, (EMBEDDING_UNITS,)),
            *(Layer(f"hidden{n}", n + 1, (config.width,), n == last) for n in range(1, last + 1)),
        )

    @classmethod
    def build(
        cls, config: NetworkConfig, inputs: InputSpec, head: Head, seeds: Sequence[int], dropout: float = 0.0
    ) -> Self:
        assert inputs.vocabulary is not None
        network = cls(head.classes)
        streams = generators(seeds, "initialisation")
        network.embedding = ReplicatedEmbedding(len(seeds), inputs.vocabulary, EMBEDDING_UNITS)
        network.embedding.initialize(streams)
        sizes = [EMBEDDING_UNITS, *(config.width for _ in range(config.hidden_layers))]
        network.hidden = ReplicatedHiddenLayers(len(seeds), sizes)
        network.hidden.initialize(streams)
        network.dropout = make_dropout(dropout, seeds)
        network._add_head(config.width, head, seeds, streams)
        return network

    def forward(self, inputs: Tensor, record: Collection[int] = ()) -> Activations:
        features = self.embedding.mean(inputs)
        hidden = {1: features} if 1 in record else {}
        if self.dropout is not None:
            features = self.dropout(features)
        features = self.hidden(features, 2, record, hidden, self.dropout)
        return self._read(features, hidden)

    def layer_weights(self) -> dict[str, Tensor]:
        return {"embedding": self.embedding.weight} | weights_by_name("hidden", self.hidden.layers)

    def use_sparse_gradients(self) -> bool:
        self.embedding.sparse = True
        return True
