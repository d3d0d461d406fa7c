"""Stop each replicate once its loss has come down to a value, while the others train on."""

import numpy as np
import torch
from torch import Tensor

from trainables.networks import ReplicatedNetwork
from trainables.states import State


class LossStop:
    """Keeps each replicate's weights and measures of the epoch in which its loss first came down to `until_loss`."""

    def __init__(self, network: ReplicatedNetwork, until_loss: float):
        self._network = network
        self._until_loss = until_loss
        self._weights: dict[int, dict[str, Tensor]] = {}
        self._measures: dict[int, dict[str, float]] = {}

    @property
    def all_stopped(self) -> bool:
        """Whether all replicates have stopped."""
        return len(self._weights) == self._network.replicates

    def keep(self, measures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The measures (R,) of an epoch; a stopped replicate keeps those of the epoch in which it stopped."""
        for replicate, loss in enumerate(measures["train_loss"]):
            if replicate not in self._weights and loss <= self._until_loss:
                state = self._network.state_dict()
                self._weights[replicate] = {name: tensor[replicate].clone() for name, tensor in state.items()}
                self._measures[replicate] = {name: float(values[replicate]) for name, values in measures.items()}
        kept = {name: values.copy() for name, values in measures.items()}
        for replicate, of_replicate in self._measures.items():
            for name, value in of_replicate.items():
                kept[name][replicate] = value
        return kept

    def state(self) -> dict[str, Tensor]:
        """The weights and measures of the replicates that have stopped."""
        weights = {f"{r}/weights/{name}": value for r, kept in self._weights.items() for name, value in kept.items()}
        measures = {
            f"{r}/measures/{name}": torch.tensor(value, dtype=torch.float64)
            for r, kept in self._measures.items()
            for name, value in kept.items()
        }
        return weights | measures

    def go_on_from(self, state: State) -> None:
        """Take up an earlier `state`."""
        for name, tensor in state.items():
            replicate, kind, of = name.split("/", 2)
            if kind == "weights":
                self._weights.setdefault(int(replicate), {})[of] = tensor.clone()
            else:
                self._measures.setdefault(int(replicate), {})[of] = float(tensor)

    @torch.no_grad()
    def restore(self) -> None:
        """Give every stopped replicate the weights it had when it stopped."""
        state = self._network.state_dict()
        for replicate, weights in self._weights.items():
            for name, tensor in weights.items():
                state[name][replicate].copy_(tensor)
