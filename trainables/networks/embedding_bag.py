"""The text classifier of the published study: the mean of a text's token vectors, hidden layers, a linear head."""

from collections.abc import Collection, Sequence
from typing import Self

from torch import Tensor, nn

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Head
from trainables.networks.base import Activations, Connection, ReplicatedNetwork, chain, make_dropout
from trainables.networks.layers import ReplicatedEmbedding, ReplicatedHiddenLayers, numbered
from trainables.seeds import generators
from trainables.tasks.base import InputSpec


class ReplicatedEmbeddingBag(ReplicatedNetwork):
    """R networks: tokens → embedding (mean of their vectors) → hidden1 → … → head."""

    embedding: ReplicatedEmbedding
    hidden: ReplicatedHiddenLayers

    @classmethod
    def build(
        cls, config: NetworkConfig, inputs: InputSpec, head: Head, seeds: Sequence[int], dropout: float = 0.0
    ) -> Self:
        assert inputs.vocabulary is not None
        network = cls(head.classes)
        streams = generators(seeds, "initialisation")
        network.embedding = ReplicatedEmbedding(len(seeds), inputs.vocabulary, config.embedding_units)
        network.embedding.initialize(streams)
        sizes = [config.embedding_units, *(config.width for _ in range(config.hidden_layers))]
        network.hidden = ReplicatedHiddenLayers(len(seeds), sizes, config.activation)
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

    def rescalable(self) -> list[Connection] | None:
        if not self.hidden.is_homogeneous:
            return None
        embedding = ("embedding", self.embedding.weight.transpose(1, 2), None)
        return chain([embedding, *self.hidden.weights_and_biases, ("head", self.head.weight, self.head.bias)])

    def hidden_modules(self) -> dict[str, nn.Module]:
        return {"embedding": self.embedding} | numbered("hidden", self.hidden.layers)

    def use_sparse_gradients(self) -> bool:
        self.embedding.sparse = True
        return True
