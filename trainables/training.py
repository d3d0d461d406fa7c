"""Training of R replicates at once, with the measurements of every epoch."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.auxiliary import AuxiliaryTask
from trainables.config import RlctConfig, TrainingConfig
from trainables.measures.epoch import EpochView, measure_epoch
from trainables.networks import ReplicatedNetwork
from trainables.seeds import generators
from trainables.snapshot import Snapshots
from trainables.states import (
    State,
    generator_states,
    integer,
    optimizer_state,
    prefixed,
    restore_generators,
    restore_optimizer,
    under,
)
from trainables.stopping import LossStop
from trainables.tasks import Split, Splits, Task


def train(
    network: ReplicatedNetwork,
    auxiliary: AuxiliaryTask,
    splits: Splits,
    task: Task,
    config: TrainingConfig,
    seeds: Sequence[int],
    snapshots: Snapshots | None = None,
    rlct: RlctConfig | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Train in place; yield the measures of each epoch, each (R,), NaN where a measure does not apply.

    Run the generator to its end: only then does a replicate that stopped at `until_loss` get back its weights of that
    epoch. With snapshots, epochs that an earlier worker has done are left out. `rlct` is for estimates in training.
    """
    snapshots = snapshots or Snapshots()
    optimizer = make_optimizer(network, config)
    stop = LossStop(network, -math.inf if config.until_loss is None else config.until_loss)
    orders = sample_orders(len(splits.train), config, seeds)
    augmentations = _augmentations(len(splits.train), task, config, seeds)
    run = _Run(network, auxiliary, optimizer, stop)
    if state := snapshots.restored("training"):
        run.go_on_from(state)
    snapshots.include("training", run.state)
    # Orders and changes follow from the seeds and the number of the epoch: they are drawn again, not kept.
    epochs = enumerate(zip(orders, augmentations, strict=False), 1)
    for epoch, (order, changes) in islice(epochs, run.epochs, None):
        network.train()
        losses = _train_epoch(run, splits.train, task, order, changes, config.batch_size, snapshots)
        network.eval()
        measures = stop.keep(measure_epoch(EpochView(network, auxiliary, splits, epoch, losses, seeds, rlct)))
        run.begin_after(epoch)
        yield measures
        if stop.all_stopped:
            break
    stop.restore()
    snapshots.exclude("training")


def loss_per_replicate(auxiliary: AuxiliaryTask, network: ReplicatedNetwork, inputs: Tensor, labels: Tensor) -> Tensor:
    """CE(classes) + aux_weight · auxiliary loss, and CE alone, for inputs (R, B, …): (2, R)."""
    activations = network(inputs, auxiliary.record)
    entropy = cross_entropy(activations.logits, labels)
    added = auxiliary.loss(network, activations, inputs)
    total = entropy if added is None else entropy + auxiliary.weight * added
    return torch.stack([total, entropy.detach()])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (R, B, classes) and labels (R, B), (R,)."""
    return functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(dim=1)


def sample_orders(samples: int, config: TrainingConfig, seeds: Sequence[int]) -> Iterator[Tensor]:
    """For every epoch the order (R, n) in which each replicate sees the samples."""
    streams = generators(seeds, "sample_order")

    def draw() -> Tensor:
        return torch.stack([torch.randperm(samples, generator=stream) for stream in streams])

    first = draw()
    for epoch in range(config.epochs):
        yield first if epoch == 0 or config.shuffle == "once" else draw()


def make_optimizer(network: ReplicatedNetwork, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of all replicates at once."""
    # "fused" computes the same in one pass over the parameters.
    if config.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    # PyTorch cannot combine sparse gradients with momentum or with fused steps.
    # A GPU adds up a whole table faster than it sorts the rows of a sparse one; the steps are the same.
    on_cpu = next(network.parameters()).device.type == "cpu"
    sparse = on_cpu and config.momentum == 0 and network.use_sparse_gradients()
    return torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        fused=not sparse,
    )


class _Run:
    """A training and how far it has come."""

    def __init__(
        self,
        network: ReplicatedNetwork,
        auxiliary: AuxiliaryTask,
        optimizer: torch.optim.Optimizer,
        stop: LossStop,
    ):
        self.network, self.auxiliary, self.optimizer, self._stop = network, auxiliary, optimizer, stop
        self.begin_after(0)

    def begin_after(self, epoch: int) -> None:
        """This many epochs are done and measured, and nothing of the next one."""
        self.epochs = epoch
        self.seen = 0  # samples of the epoch
        # Cross-entropy of the samples that were seen, (R,).
        self.total = torch.zeros(self.network.replicates, device=next(self.network.parameters()).device)

    def state(self) -> State:
        """Everything that training goes on from, at the end of a batch."""
        return {
            "epochs": integer(self.epochs),
            "seen": integer(self.seen),
            "total": self.total,
            **prefixed("weights", self.network.state_dict()),
            **prefixed("optimizer", optimizer_state(self.optimizer)),
            **prefixed("dropout", generator_states(self.network.generators)),
            **prefixed("control", generator_states(self.auxiliary.generators)),
            **prefixed("stopped", self._stop.state()),
        }

    def go_on_from(self, state: State) -> None:
        """Take up an earlier `state`."""
        self.begin_after(int(state["epochs"]))
        self.seen = int(state["seen"])
        self.total.copy_(state["total"])
        self.network.load_state_dict(under("weights", state))
        restore_optimizer(self.optimizer, under("optimizer", state))
        restore_generators(self.network.generators, under("dropout", state))
        restore_generators(self.auxiliary.generators, under("control", state))
        self._stop.go_on_from(under("stopped", state))


def _train_epoch(
    run: _Run,
    split: Split,
    task: Task,
    order: Tensor,
    changes: Tensor | None,
    batch_size: int,
    snapshots: Snapshots,
) -> Tensor:
    """The rest of a pass in the given order (R, n); the mean cross-entropy of its samples, (R,)."""
    network, auxiliary, optimizer, device = run.network, run.auxiliary, run.optimizer, split.inputs.device
    order = order.to(device)
    changes = None if changes is None else changes.to(device)
    for start in range(run.seen, order.shape[1], batch_size):
        snapshots.save_if_due()
        indices = order[:, start : start + batch_size]
        inputs = split.inputs[indices]
        if changes is not None:
            of_batch = torch.take_along_dim(changes, indices.unsqueeze(2), dim=1)
            inputs = task.augment(inputs.flatten(0, 1), of_batch.flatten(0, 1)).view_as(inputs)
        optimizer.zero_grad(set_to_none=True)
        losses, entropy = loss_per_replicate(auxiliary, network, inputs, split.labels[indices])
        # The replicates share no parameter: the gradient of the summed loss is that of each replicate's own loss.
        losses.sum().backward()
        optimizer.step()
        run.total += entropy.detach() * indices.shape[1]
        run.seen += indices.shape[1]
    return run.total / order.shape[1]


def _augmentations(samples: int, task: Task, config: TrainingConfig, seeds: Sequence[int]) -> Iterator[Tensor | None]:
    """For every epoch the random changes (R, n, k) of each replicate's samples; None without augmentation."""
    streams = generators(seeds, "augmentation")
    for _ in range(config.epochs):
        yield torch.stack([task.augmentation(samples, stream) for stream in streams]) if config.augment else None
