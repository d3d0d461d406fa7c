"""The size of a network, counted on the network itself."""

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import NetworkConfig
from trainables.networks.architectures.base import Architecture, Head, Size
from trainables.networks.layers import ReplicatedEmbedding
from trainables.tasks.base import InputSpec


@lru_cache
def counted_size(architecture: Architecture, config: NetworkConfig, inputs: InputSpec, head: Head) -> Size:
    """Build one network, and count the operations of a forward pass of one sample."""
    network = architecture.build(config, inputs, head, seeds=(0,))
    sample = torch.zeros((1, 1, *inputs.shape), dtype=torch.int32 if inputs.is_text else torch.float32)
    with FlopCounterMode(display=False) as counter:
        network.eval().requires_grad_(False)(sample, () if head.reads is None else (head.reads.depth,))
    # PyTorch counts no operations for token look-ups: count one per position of the text and unit.
    tables = (module for module in network.modules() if isinstance(module, ReplicatedEmbedding))
    lookups = sum(inputs.shape[0] * table.weight.shape[2] for table in tables)
    # Two operations are one multiply-add.
    multiply_adds = counter.get_total_flops() // 2 + lookups
    return Size(multiply_adds, sum(parameter.numel() for parameter in network.parameters()))
