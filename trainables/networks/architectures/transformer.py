"""A small transformer that classifies texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Architecture, Head, Layer, Size
from trainables.networks.architectures.sizes import NOTHING, dense, normalisation, readout, table
from trainables.tasks.base import InputSpec

if TYPE_CHECKING:
    from trainables.networks.transformer import ReplicatedTransformer


class Transformer(Architecture):
    """Tokens and positions → block1 → … → head. A block is self-attention and a perceptron."""

    name = "transformer"
    summary = "hidden_layers blocks of self-attention over context_length tokens, width units each"
    fields = ("hidden_layers", "width", "attention_head_units", "expansion", "context_length")

    def refusal(self, config: NetworkConfig, inputs: InputSpec) -> str | None:
        if not inputs.is_text:
            return "reads text alone"
        if config.hidden_layers < 1:
            return "needs hidden_layers 1 or more"
        if config.width % config.attention_head_units:
            return f"needs a width that is a multiple of {config.attention_head_units}, its attention_head_units"
        return None

    def describe(self, config: NetworkConfig, inputs: InputSpec) -> tuple[Layer, ...]:
        last = config.hidden_layers
        return tuple(Layer(f"block{n}", n, (config.width,), n == last) for n in range(1, last + 1))

    def size(self, config: NetworkConfig, inputs: InputSpec, head: Head) -> Size:
        """The size for a text of full length."""
        assert inputs.vocabulary is not None
        width, places = config.width, inputs.shape[0]
        longest = min(config.context_length, places)
        embedding = table(inputs.vocabulary, width, places) + table(longest, width, places)
        blocks = sum((_block_size(width, config.expansion, longest) for _ in range(config.hidden_layers)), NOTHING)
        return embedding + blocks + normalisation(width) + readout(width, head)

    def network_class(self) -> type[ReplicatedTransformer]:
        from trainables.networks.transformer import ReplicatedTransformer

        return ReplicatedTransformer


def _block_size(units: int, expansion: int, tokens: int) -> Size:
    of_token = (
        dense(units, 3 * units)  # queries, keys and values
        + dense(units, units)
        + dense(units, expansion * units)
        + dense(expansion * units, units)
        + normalisation(units)
        + normalisation(units)
    )
    # The product of each token's query with every key, and the sum of all values with those weights.
    attention = 2 * tokens**2 * units
    return Size(tokens * of_token.multiply_adds + attention, of_token.parameters)
