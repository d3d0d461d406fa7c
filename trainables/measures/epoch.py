"""Measuring R replicates after an epoch.

Networks are measured in evaluation mode: batch norm with its running statistics, no dropout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from trainables.auxiliary import AuxiliaryTask
from trainables.config import RlctConfig
from trainables.measures.gradients import (
    AuxiliaryGradients,
    GradientComparison,
    auxiliary_gradients,
    compare_with_decay,
    trunk_parameters,
)
from trainables.measures.held_out import HeldOut, look_at_held_out
from trainables.measures.passes import accuracy
from trainables.measures.table import epoch_measures
from trainables.networks import ReplicatedNetwork
from trainables.tasks import Split, Splits

# At most this many training samples are compared in accuracy with the held-out ones.
MOST_FOR_GAP = 10_000


@dataclass(frozen=True)
class EpochView:
    """What a measure can use: R replicates after an epoch, and passes that all measures share.

    A pass is made when a measure first asks for it. The held-out pass and the gradients may draw random targets from
    the random streams of training: if a measure drew more of them, it would change the later training.
    """

    network: ReplicatedNetwork  # in evaluation mode
    auxiliary: AuxiliaryTask
    splits: Splits
    epoch: int  # from 1
    train_loss: Tensor  # (R,), mean cross-entropy over the epoch's batches during training, nats
    seeds: Sequence[int]  # of the replicates
    rlct: RlctConfig | None = None  # for estimates in training

    @cached_property
    def held_out(self) -> HeldOut:
        """The results of a pass over the held-out split."""
        return look_at_held_out(self.network, self.auxiliary, self.splits.held_out)

    @cached_property
    def gradients(self) -> AuxiliaryGradients:
        """The gradients of the auxiliary loss, on training samples."""
        # The held-out pass always draws its targets first, whatever the order of the table.
        _ = self.held_out
        return auxiliary_gradients(self.network, self.auxiliary, self.training_samples)

    @cached_property
    def rows_against_decay(self) -> GradientComparison:
        """The auxiliary loss's gradient on the rows that predict against weight decay's."""
        gradient, rows = self.gradients.rows, self.prediction_rows
        return self._against_decay(None if gradient is None else [gradient], None if rows is None else [rows])

    @cached_property
    def trunk_against_decay(self) -> GradientComparison:
        """The auxiliary loss's gradient on the hidden layers against weight decay's."""
        return self._against_decay(self.gradients.trunk, trunk_parameters(self.network))

    def _against_decay(self, gradient: Sequence[Tensor] | None, weights: Sequence[Tensor] | None) -> GradientComparison:
        return compare_with_decay(gradient, weights, self.auxiliary.weight, self.network.replicates)

    @cached_property
    def test_accuracy(self) -> Tensor:
        """Accuracy on the test split, (R,)."""
        if self.splits.validation is None:
            return self.held_out.accuracy
        return accuracy(self.network, self.splits.test)

    @cached_property
    def training_accuracy(self) -> Tensor:
        """Accuracy on training samples, (R,), without augmentation and dropout."""
        return accuracy(self.network, self.training_samples)

    @property
    def training_samples(self) -> Split:
        """As many training samples as held-out ones, but at most MOST_FOR_GAP."""
        return self.splits.train.first(min(len(self.splits.held_out), MOST_FOR_GAP))

    @property
    def class_weights(self) -> Tensor:
        """The weights of the final layer that give the classes, (R, classes, F)."""
        return self.network.head.weight[:, : self.network.classes]

    @property
    def prediction_rows(self) -> Tensor | None:
        """The weights of the final layer that give the prediction, (R, N, F); None if no rows of it predict."""
        return self.auxiliary.targets.prediction_rows(self.network)

    def full(self, value: float) -> Tensor:
        """The same value for every replicate, (R,)."""
        return torch.full((self.network.replicates,), value, dtype=torch.float64)


@torch.no_grad()
def measure_epoch(view: EpochView) -> dict[str, np.ndarray]:
    """The per-epoch measures of MEASURES, each (R,); NaN where a measure does not apply.

    Raises:
        ValueError: a measure does not give one value for each replicate.
    """
    values: dict[str, Tensor] = {}
    for measure in epoch_measures():
        assert measure.compute is not None
        value = measure.compute(view)
        of_measure = value if isinstance(value, Mapping) else {"": value}
        values |= {f"{measure.name}{layer}": tensor for layer, tensor in of_measure.items()}
    for name, tensor in values.items():
        if tensor.shape != view.train_loss.shape:
            raise ValueError(f"measure {name!r} has the shape {tuple(tensor.shape)}: give one value for each replicate")
    return {name: tensor.detach().double().cpu().numpy() for name, tensor in values.items()}
