"""The work of a trial, before it runs: for plans and for the time left.

Work is counted from the sizes of a trial, without building its networks. Timing one small piece of a trial shows how
long a unit of work takes on a machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trainables.config import CURVATURE_ITERATIONS, CURVATURE_SAMPLES, MEASURED_SAMPLES
from trainables.networks import Head, get_architecture
from trainables.tasks import DataShape, TaskData
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    import torch

# In multiply-adds that take the same time, measured on a CPU core: the fixed cost of one step; the noise for one weight
# of one chain, if the network fits the processor's cache and if it does not.
STEP_OVERHEAD = 2e7
NOISE_PER_WEIGHT, NOISE_BEYOND_CACHE = 150, 500
# To move a pixel of an image to another place.
AUGMENTATION_PER_PIXEL = 60
CACHED_WEIGHTS = 1_000_000
# Approximate work of a CPU core per second: for costs that are stated without timing.
WORK_PER_SECOND = 1e10
# An estimate of the rlct begins with a pass over all samples and these over some of them. After the draws come three
# runs of iterations over some samples, to find curvatures, and their loss at a few places.
START_PASSES, END_PASSES = 2, 3 * CURVATURE_ITERATIONS + 6
# Epochs and draws that are timed after the first of each, and the approximate work of a timed epoch.
TIMED = 3
EPOCH_WORK = 1e9


def work(config: TrialConfig, shape: DataShape) -> float:
    """Multiply-adds of a trial, overheads included as multiply-adds: proportional to its time on one device."""
    return _parts(config, shape).total(config)


def work_of_timing(config: TrialConfig, shape: DataShape) -> float:
    """The work that `seconds_per_work` does."""
    piece = _piece(config, shape)
    # It ends with the last draw.
    return work(piece.config, piece.shape) - _parts(piece.config, piece.shape).end


def seconds_per_work(config: TrialConfig, data: TaskData, device: torch.device | str = "cpu") -> float:
    """Seconds per unit of a trial's work, on one CPU thread or on the device.

    One replicate is trained for a few epochs on a part of the data, and its rlct is sampled for a few draws. The time
    of the trial is then its number of epochs times the median epoch, and its number of draws times the median draw.
    Imports and the first epoch and draw, which are slower, do not count.
    """
    import torch

    from trainables.experiment import run_experiment

    piece = _piece(config, data.shape)
    epochs, draws = _Stopwatch(device), _Stopwatch(device)

    def on_draw(draw: int) -> None:
        draws.lap()
        if draw == piece.config.rlct.draws:
            raise _LastDraw

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.suppress(_LastDraw):
            run_experiment(piece.config, _part_of(data, piece.shape), device, lambda *_: epochs.lap(), on_draw)
    finally:
        torch.set_num_threads(threads)
    epoch, draw = epochs.median() / piece.share_of_epoch, draws.median()
    alone = config.model_copy(update={"seeds": config.seeds[:1]})
    parts = _parts(alone, data.shape)
    # What the rlct does beside its draws is timed as draws of the same work, the observer as epochs of the same work.
    seconds = (
        config.training.epochs * epoch
        + parts.estimates * (config.rlct.draws + (parts.start + parts.end) / parts.draw) * draw
    )
    seconds += config.observer.epochs * parts.observation / parts.epoch * epoch
    return seconds / parts.total(alone)


class _Parts(NamedTuple):
    """Work of the parts of a trial, all replicates together."""

    epoch: float
    start: float  # what the rlct does before its first draw
    end: float  # and after its last one
    draw: float
    observation: float  # an epoch of the observer
    estimates: int  # of the rlct

    def total(self, config: TrialConfig) -> float:
        return (
            config.training.epochs * self.epoch
            + self.estimates * (self.start + config.rlct.draws * self.draw + self.end)
            + config.observer.epochs * self.observation
        )


def _parts(config: TrialConfig, shape: DataShape) -> _Parts:
    training, rlct, replicates = config.training, config.rlct, config.replicates
    architecture = get_architecture(config.network.architecture)
    trained = architecture.size(config.network, shape.inputs, config.head(shape.classes)).multiply_adds
    classifier = architecture.size(config.network, shape.inputs, Head(shape.classes))
    classifying, parameters = classifier.multiply_adds, classifier.parameters
    samples = shape.training_size(training.validation_fraction, training.train_samples)
    # Two passes of this size: over the held-out split, and over as many training samples.
    held_out = shape.validation_size(training.validation_fraction)
    measured = 2 * held_out + shape.test_samples
    if config.self_model.aux_weight > 0:
        # The gradients of the auxiliary loss.
        measured += 3 * min(samples, held_out or shape.test_samples, MEASURED_SAMPLES)
    epoch = _steps(samples, training.batch_size) * STEP_OVERHEAD + (3 * samples + measured) * replicates * trained
    if training.augment:
        epoch += samples * replicates * math.prod(shape.inputs.shape[-2:]) * AUGMENTATION_PER_PIXEL
    some = min(samples, CURVATURE_SAMPLES)
    start = 3 * (samples + START_PASSES * some) * replicates * classifying
    end = 3 * END_PASSES * some * replicates * classifying
    noise = NOISE_PER_WEIGHT if parameters <= CACHED_WEIGHTS else NOISE_BEYOND_CACHE
    draw = STEP_OVERHEAD + (3 * rlct.batch_size * classifying + noise * parameters) * replicates * rlct.chains
    observation = _steps(samples, config.observer.batch_size) * STEP_OVERHEAD + samples * replicates * classifying
    layers = len(config.layers) + 1 if rlct.with_layers else 0
    estimates = 1 + rlct.with_balanced + layers + len(rlct.epochs)
    return _Parts(epoch, start, end, draw, observation, estimates)


def _steps(samples: int, batch_size: int) -> int:
    return math.ceil(samples / batch_size)


class _Piece(NamedTuple):
    """A small trial, its data, and the size of its epochs as a share of the original trial's."""

    config: TrialConfig
    shape: DataShape
    share_of_epoch: float


def _piece(config: TrialConfig, shape: DataShape) -> _Piece:
    """A trial of one replicate that takes about a second and is timed in place of this one."""
    training, rlct = config.training, config.rlct
    samples, batch_size = shape.training_size(training.validation_fraction, training.train_samples), training.batch_size
    small = config.model_copy(
        update={
            "seeds": config.seeds[:1],
            "training": training.model_copy(update={"epochs": 1 + TIMED, "until_loss": None}),
            "rlct": rlct.of_one_estimate().model_copy(update={"draws": 1 + TIMED, "burn_in_fraction": 0.0}),
            "observer": config.observer.model_copy(update={"epochs": 0}),
        }
    )
    wanted = EPOCH_WORK / _parts(small, shape).epoch * samples
    kept = _steps(max(round(wanted), rlct.batch_size), batch_size) * batch_size
    if kept >= samples:
        return _Piece(small, shape, 1.0)
    # The piece has no validation split, so an epoch passes over the test samples twice. With this number of test
    # samples, evaluation is the same share of an epoch as in the original trial.
    held_out = shape.validation_size(training.validation_fraction)
    evaluated = 2 * held_out + shape.test_samples if held_out else 2 * shape.test_samples
    tested = max(1, round(kept / samples * evaluated / 2))
    without_validation = small.training.model_copy(update={"validation_fraction": 0.0, "train_samples": None})
    piece = small.model_copy(update={"training": without_validation})
    part = dataclasses.replace(shape, train_samples=kept, test_samples=tested)
    return _Piece(piece, part, _parts(piece, part).epoch / _parts(small, shape).epoch)


def _part_of(data: TaskData, shape: DataShape) -> TaskData:
    """As many samples as the shape says, spread evenly over the data, which may be sorted."""
    train = np.arange(shape.train_samples) * len(data.train_labels) // shape.train_samples
    test = np.arange(shape.test_samples) * len(data.test_labels) // shape.test_samples
    return dataclasses.replace(
        data,
        train_inputs=data.train_inputs[train],
        train_labels=data.train_labels[train],
        test_inputs=data.test_inputs[test],
        test_labels=data.test_labels[test],
    )


class _LastDraw(Exception):  # noqa: N818
    """Ends a piece of a trial after its last draw, before the diagnostics, which take a second to import."""


class _Stopwatch:
    """Times from the end of one lap to the end of the next; the first lap is not timed."""

    def __init__(self, device: torch.device | str):
        self._device = device
        self._ends: list[float] = []

    def lap(self) -> None:
        import torch

        if torch.device(self._device).type == "cuda":
            # A GPU works after the call has returned: wait until the lap is really over.
            torch.cuda.synchronize(self._device)
        self._ends.append(perf_counter())

    def median(self) -> float:
        return float(np.median(np.diff(self._ends)))
