"""How much work a trial is, before it is run: for plans and for the time that is left."""

from itertools import pairwise
from time import perf_counter

import torch

from trainables.config import TrialConfig
from trainables.experiment import run_experiment
from trainables.networks import layers_of
from trainables.self_model import SelfModel
from trainables.tasks import TaskData

# Multiply-adds that take as long as the fixed cost of one step, and as the noise for one weight of one chain:
# measured on a CPU core.
STEP_OVERHEAD = 2e7
NOISE_PER_WEIGHT = 150


def work(config: TrialConfig, data: TaskData) -> float:
    """Multiply-adds of a trial, overheads converted into them: proportional to its time on one device."""
    training, rlct, replicates = config.training, config.rlct, config.replicates
    layers = layers_of(config.network)
    outputs = sum(SelfModel(config.self_model, layers, data.classes).head_rows)
    sizes = [data.features, *(layer.units for layer in layers)]
    hidden_weights = sum(a * b for a, b in pairwise(sizes))
    weights, classifier_weights = hidden_weights + sizes[-1] * outputs, hidden_weights + sizes[-1] * data.classes
    samples = data.training_size(training.validation_fraction)
    held_out = len(data.train_labels) - samples + len(data.test_labels)
    steps = -(-samples // training.batch_size)
    epoch = steps * STEP_OVERHEAD + (3 * samples + held_out) * replicates * weights
    copies = replicates * rlct.chains
    draw = STEP_OVERHEAD + (3 * rlct.batch_size + NOISE_PER_WEIGHT) * copies * classifier_weights
    # Before sampling: gradient and curvature of the trained weights, over all training samples.
    start = 2 * 3 * samples * replicates * classifier_weights
    return training.epochs * epoch + start + rlct.draws * draw


def seconds_per_work(config: TrialConfig, data: TaskData, device: torch.device | str = "cpu") -> float:
    """Time two small pieces of a trial on one CPU thread or the device; their difference is free of fixed costs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The first run pays for imports.
        run_experiment(_piece(config, epochs=1, draws=8), data, device)
        (small, small_work), (large, large_work) = (
            _timed(_piece(config, epochs=epochs, draws=10 * epochs), data, device) for epochs in (1, 4)
        )
        # On a busy machine the larger piece can come out faster: then count its whole time.
        return (large - small) / (large_work - small_work) if large > small else large / large_work
    finally:
        torch.set_num_threads(threads)


def _piece(config: TrialConfig, epochs: int, draws: int) -> TrialConfig:
    return config.model_copy(
        update={
            "seeds": config.seeds[:1],
            "training": config.training.model_copy(update={"epochs": epochs}),
            "rlct": config.rlct.model_copy(update={"draws": draws}),
        }
    )


def _timed(config: TrialConfig, data: TaskData, device: torch.device | str) -> tuple[float, float]:
    started = perf_counter()
    run_experiment(config, data, device)
    return perf_counter() - started, work(config, data)
