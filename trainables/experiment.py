"""One trial: build R networks, train them, measure them. Start reading here."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from trainables.auxiliary import ActivationTargets, Setting, get_auxiliary_task
from trainables.checkpoint import Checkpoint
from trainables.config import RlctConfig
from trainables.measures.table import CHAIN_ERROR_SUFFIX
from trainables.networks import ReplicatedNetwork, get_architecture
from trainables.networks.balance import balanced
from trainables.observer import observe
from trainables.outcomes import StatusName, worst_status
from trainables.rlct import DrawCallback, RlctEstimate, estimate_rlct
from trainables.snapshot import SnapshotFile, Snapshots
from trainables.states import State
from trainables.tasks import Splits, TaskData, get_task
from trainables.training import train
from trainables.trial import TrialConfig

# An accuracy counts as learning if it is more than this many standard errors above chance.
CHANCE_MARGIN = 3.0
# A network is impaired if its accuracy is less than this share of the way from chance to the recipe's baseline's.
IMPAIRED_SHARE = 1 / 3
# A network has diverged if its training loss is more than this times the loss of guessing by class frequencies.
DIVERGED_RATIO = 2.0

# Given an epoch's number and its measures, each (R,); returns True to stop the trial there.
EpochCallback = Callable[[int, dict[str, np.ndarray]], bool | None]


@dataclass(frozen=True)
class ExperimentResult:
    """The results of one trial: R replicates, E epochs."""

    config: TrialConfig
    history: dict[str, np.ndarray]  # the measures of every epoch, each (E, R)
    # Final values of these, measures taken at the end, and the rlct's standard error over chains as `rlct_chain_se`,
    # each (R,).
    measurements: dict[str, np.ndarray]
    statuses: tuple[StatusName, ...]  # per replicate
    rlct: RlctEstimate
    further_rlcts: dict[str, RlctEstimate]  # by the name of the measure: of the balanced network, and of single layers
    network: ReplicatedNetwork  # as trained, with the self-model's rows
    seconds: dict[str, float]  # wall time of "training", "rlct" and "observer"

    @property
    def status(self) -> StatusName:
        """The worst status of the replicates."""
        return worst_status(self.statuses)


class StoppedEarly(Exception):  # noqa: N818
    """A trial was stopped after an epoch because `on_epoch` has asked for it."""

    def __init__(self, config: TrialConfig, history: dict[str, np.ndarray], seconds: dict[str, float]):
        super().__init__("the trial was stopped early")
        self.config = config
        self.history = history  # the measures of every epoch until then, each (E, R)
        self.seconds = seconds


def run_experiment(
    config: TrialConfig,
    data: TaskData,
    device: torch.device | str = "cpu",
    on_epoch: EpochCallback | None = None,
    on_draw: DrawCallback | None = None,
    snapshot_file: SnapshotFile | None = None,
) -> ExperimentResult:
    """Train and measure all replicates of one trial.

    Args:
        config: the trial.
        data: the task's data, as `load_task` gives it.
        device: where to compute.
        on_epoch: called after each epoch with its number, from 1, and its measures, each (R,); if it returns True, the
            trial ends there. A trial that goes on from a snapshot first calls it for the epochs that were done before.
        on_draw: called after each draw of the rlct sampler with the number of draws done.
        snapshot_file: a trial whose worker has died goes on from its newest snapshot, and keeps new ones there. On a
            CPU the result equals that of a trial that nothing has disturbed, bit for bit.

    Raises:
        ValueError: the data belongs to another task, or a batch is larger than the training split.
        StoppedEarly: `on_epoch` has returned True.
    """
    if data.task != config.task:
        raise ValueError(f"the trial's task is {config.task!r}, the data's {data.task!r}")
    snapshots = Snapshots(config, str(device), snapshot_file)
    clock = _Clock(snapshots.restored("seconds"))
    snapshots.include("seconds", clock.state)
    with clock.running("training"):
        network, splits, epochs, stopped = _trained(config, data, device, on_epoch, snapshots)
    if stopped:
        raise StoppedEarly(config, _stacked(epochs), clock.seconds)
    classifier = network.classifier().eval()
    with clock.running("rlct"):
        rlct = estimate_rlct(classifier, splits.train, config.rlct, config.seeds[0], on_draw, snapshots=snapshots)
        further = dict(_further_rlcts(classifier, splits, config, on_draw, snapshots))
    observed = {name: np.full(config.replicates, math.nan) for name in ("observer_r2", "observer_agreement")}
    with clock.running("observer"):
        if config.observer.epochs:
            seen = observe(
                classifier,
                config.observed_depths,
                data.shape.inputs,
                splits,
                config.observer,
                config.seeds,
                snapshots,
            )
            observed = {"observer_r2": seen.r2, "observer_agreement": seen.agreement}

    final = epochs[-1] | {"rlct": rlct.estimate, "rlct_chain_se": rlct.standard_error} | observed
    final["rlct_balanced"] = np.full(config.replicates, math.nan)
    for name, estimate in further.items():
        final |= {name: estimate.usable, f"{name}{CHAIN_ERROR_SUFFIX}": estimate.standard_error}
    return ExperimentResult(
        config=config,
        history=_stacked(epochs),
        measurements=final,
        statuses=_statuses(final, splits, config),
        rlct=rlct,
        further_rlcts=further,
        network=network,
        seconds=clock.seconds,
    )


def _further_rlcts(
    classifier: ReplicatedNetwork,
    splits: Splits,
    config: TrialConfig,
    on_draw: DrawCallback | None,
    snapshots: Snapshots,
) -> Iterator[tuple[str, RlctEstimate]]:
    """The estimates that `rlct.with_balanced` and `rlct.with_layers` ask for, by the name of their measure."""
    wanted: list[tuple[str, ReplicatedNetwork, list[str] | None]] = []
    if config.rlct.with_balanced:
        network = balanced(classifier)
        assert network is not None, "the trial's configuration refuses networks without free scales"
        wanted.append(("rlct_balanced", network, None))
    if config.rlct.with_layers:
        wanted += [(f"rlct_of_{layer}", classifier, part) for layer, part in classifier.layer_parameters().items()]
    for name, network, part in wanted:
        yield (
            name,
            estimate_rlct(
                network, splits.train, config.rlct, config.seeds[0], on_draw, snapshots=snapshots, part=part, name=name
            ),
        )


def _trained(
    config: TrialConfig,
    data: TaskData,
    device: torch.device | str,
    on_epoch: EpochCallback | None,
    snapshots: Snapshots,
) -> tuple[ReplicatedNetwork, Splits, list[dict[str, np.ndarray]], bool]:
    """The trained network in evaluation mode, the data it was trained on, and the measures of every epoch.

    The last value is whether `on_epoch` has stopped the training.
    """
    splits = _splits(config, data, device)
    inputs, task = data.shape.inputs, get_task(config.task)
    setting = Setting(config.network, inputs, config.seeds, device)
    targets = ActivationTargets(config.self_model, config.layers)
    auxiliary = get_auxiliary_task(config.self_model.control)(targets, setting)
    architecture = get_architecture(config.network.architecture)
    head = auxiliary.head(data.classes)
    network = architecture.build(config.network, inputs, head, config.seeds, auxiliary.dropout)
    network = network.to(device)

    epochs = _epochs(snapshots.restored("history"))
    for epoch, metrics in enumerate(epochs, 1):
        if on_epoch is not None and on_epoch(epoch, metrics):
            return network, splits, epochs[:epoch], True
    snapshots.include("history", lambda: _history(epochs))
    if weights := snapshots.restored("trained"):
        network.load_state_dict(weights)
        network.eval()
    else:
        for metrics in train(network, auxiliary, splits, task, config.training, config.seeds, snapshots, config.rlct):
            epochs.append(metrics)
            if on_epoch is not None and on_epoch(len(epochs), metrics):
                return network, splits, epochs, True
    snapshots.include("trained", network.state_dict)
    return network, splits, epochs, False


def _splits(config: TrialConfig, data: TaskData, device: torch.device | str) -> Splits:
    training = config.training
    return data.split(
        training.validation_fraction,
        config.split_seed,
        device,
        train_samples=training.train_samples,
        label_noise=training.label_noise,
    )


def _stacked(epochs: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The measures of every epoch, each (E, R)."""
    return {name: np.stack([epoch[name] for epoch in epochs]) for name in epochs[0]}


def _history(epochs: list[dict[str, np.ndarray]]) -> State:
    """The measures of every epoch, each (E, R), named with their position: a file does not keep the order."""
    return {
        f"{position}/{name}": torch.from_numpy(values)
        for position, (name, values) in enumerate((_stacked(epochs) if epochs else {}).items())
    }


def _epochs(history: State) -> list[dict[str, np.ndarray]]:
    """The epochs of a `_history`."""
    measures = {}
    for key in sorted(history, key=lambda key: int(key.partition("/")[0])):
        measures[key.partition("/")[2]] = history[key].clone().numpy()
    done = len(next(iter(measures.values()), ()))
    return [{name: values[epoch] for name, values in measures.items()} for epoch in range(done)]


class _Clock:
    """Wall time of the parts of a trial, that before an interruption included: what a snapshot has, it has seen."""

    def __init__(self, state: State):
        self._before = dict.fromkeys(("training", "rlct", "observer"), 0.0)
        self._before |= {part: float(seconds) for part, seconds in state.items()}
        self._running: tuple[str, float] | None = None

    @contextmanager
    def running(self, part: str) -> Iterator[None]:
        """Add the time of this context to a part's."""
        self._running = part, time.perf_counter()
        yield
        self._before, self._running = self.seconds, None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each part until now."""
        seconds = dict(self._before)
        if self._running is not None:
            part, since = self._running
            seconds[part] += time.perf_counter() - since
        return seconds

    def state(self) -> State:
        """The seconds, for a snapshot."""
        return {part: torch.tensor(seconds, dtype=torch.float64) for part, seconds in self.seconds.items()}


def estimate_rlct_again(
    checkpoint: Checkpoint,
    data: TaskData,
    config: RlctConfig,
    device: torch.device | str = "cpu",
    on_draw: DrawCallback | None = None,
) -> RlctEstimate:
    """Estimate the rlct of a trained trial with other settings; the trial's settings give its estimate again.

    Args:
        checkpoint: of the trial; loading it has checked the digest of `data`.
        data: the data that the trial was trained on.
        config: the settings of this estimate.
        device: where to compute.
        on_draw: called after each draw with the number of draws done.

    Raises:
        ValueError: the sampler's batch is larger than the training split.
    """
    trial = checkpoint.config
    splits = _splits(trial, data, device)
    classifier = checkpoint.network.to(device).classifier()
    return estimate_rlct(classifier, splits.train, config, trial.seeds[0], on_draw)


def _statuses(final: dict[str, np.ndarray], splits: Splits, config: TrialConfig) -> tuple[StatusName, ...]:
    """The status of each replicate.

    Diverged: the loss is not finite, or far above the loss of guessing. Collapsed: the accuracy is within noise of
        always answering one class. Impaired: the accuracy is far below that of the recipe's baseline. Not
        reached: the loss never came down to `until_loss`.
    """
    frequencies = splits.train.labels.bincount().double() / len(splits.train)
    loss_of_guessing = float(torch.special.entr(frequencies).sum())
    held_out = splits.held_out
    accuracy = final["test_accuracy" if splits.validation is None else "val_accuracy"]
    chance = float(held_out.labels.bincount().max()) / len(held_out)
    threshold = chance + CHANCE_MARGIN * math.sqrt(chance * (1 - chance) / len(held_out))
    published, until_loss = get_task(config.task).recipe.accuracy, config.training.until_loss
    floor = 0.0 if published is None else chance + IMPAIRED_SHARE * (published - chance)

    def status(loss: float, share_correct: float) -> StatusName:
        if not math.isfinite(loss) or loss > DIVERGED_RATIO * loss_of_guessing:
            return "diverged"
        if share_correct <= threshold:
            return "collapsed"
        if share_correct < floor:
            return "impaired"
        return "not_reached" if until_loss is not None and loss > until_loss else "ok"

    return tuple(status(loss, share) for loss, share in zip(final["train_loss"], accuracy, strict=True))
