"""The text classifier of the published study: the mean of a text's token vectors, hidden layers, a linear head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Architecture, Head, Layer, Size
from trainables.networks.architectures.sizes import dense_stack, readout, table
from trainables.tasks.base import InputSpec

if TYPE_CHECKING:
    from trainables.networks.embedding_bag import ReplicatedEmbeddingBag


class EmbeddingBag(Architecture):
    """Tokens → embedding → hidden1 → … → head."""

    name = "embedding_bag"
    summary = "mean of token vectors of embedding_units units, then hidden_layers layers of width units"
    fields = ("hidden_layers", "width", "activation", "embedding_units")
    layers_can_scale = True

    def refusal(self, config: NetworkConfig, inputs: InputSpec) -> str | None:
        if not inputs.is_text:
            return "reads text alone"
        return "needs hidden_layers 1 or more" if config.hidden_layers < 1 else None

    def describe(self, config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
        last = config.hidden_layers
        return (
            Layer("embedding", 1, (config.embedding_units,)),
            *(Layer(f"hidden{n}", n + 1, (config.width,), n == last) for n in range(1, last + 1)),
        )

    def size(self, config: NetworkConfig, inputs: InputSpec, head: Head) -> Size:
        assert inputs.vocabulary is not None
        embedding = table(inputs.vocabulary, config.embedding_units, places=inputs.shape[0])
        hidden = [config.width] * config.hidden_layers
        return embedding + dense_stack([config.embedding_units, *hidden]) + readout(config.width, head)

    def network_class(self) -> type[ReplicatedEmbeddingBag]:
        from trainables.networks.embedding_bag import ReplicatedEmbeddingBag

        return ReplicatedEmbeddingBag
