"""Passes of networks over a split."""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from trainables.networks import Activations, ReplicatedNetwork
from trainables.tasks import Split


def passes(
    network: ReplicatedNetwork, split: Split, record: Collection[int] = ()
) -> Iterator[tuple[Activations, Tensor, Tensor]]:
    """The network's activations on the split, with the inputs (1, B, …) and labels (B,)."""
    assert not network.training, "networks are measured in evaluation mode"
    for inputs, labels in split.batches(network.evaluation_batch):
        shared = inputs.unsqueeze(0)
        yield network(shared, record), shared, labels


@torch.no_grad()
def accuracy(network: ReplicatedNetwork, split: Split) -> Tensor:
    """Share of the split's samples that are classified correctly, (R,)."""
    correct = torch.zeros(network.replicates, device=split.inputs.device)
    for activations, _, labels in passes(network, split):
        correct += (activations.logits.argmax(dim=2) == labels).sum(dim=1)
    return correct / len(split)
