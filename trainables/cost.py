"""How much work a trial is, before it is run: for plans and for the time that is left."""

import math
from functools import lru_cache
from time import perf_counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import NetworkConfig
from trainables.controls import get_control
from trainables.experiment import run_experiment
from trainables.networks import Head, get_architecture
from trainables.networks.layers import ReplicatedEmbedding
from trainables.self_model import SelfModel
from trainables.tasks import DataShape, InputSpec, TaskData
from trainables.trial import TrialConfig

# Multiply-adds that take as long as the fixed cost of one step, and as the noise for one weight of one chain, where a
# network fits a processor's cache and where it does not: measured on a CPU core.
STEP_OVERHEAD = 2e7
NOISE_PER_WEIGHT, NOISE_BEYOND_CACHE = 150, 500
CACHED_WEIGHTS = 1_000_000
# A CPU core does about so much in a second: for statements of cost that nothing is timed for.
WORK_PER_SECOND = 1e10
# Epochs and draws of the pieces that are timed.
PIECES = ((1, 8), (1, 10), (4, 40))
# The trained weights are looked at over all samples once, and six times over some of them.
START_PASSES, START_SAMPLES = 6, 4096


def work(config: TrialConfig, shape: DataShape) -> float:
    """Multiply-adds of a trial, overheads converted into them: proportional to its time on one device."""
    training, rlct, replicates = config.training, config.rlct, config.replicates
    control = get_control(config.self_model.control)
    head = SelfModel(config.self_model, config.layers).head(shape.classes) if control.predicts else Head(shape.classes)
    trained, _ = _size(config.network, shape.inputs, head)
    classifying, parameters = _size(config.network, shape.inputs, Head(shape.classes))
    samples = shape.training_size(training.validation_fraction)
    # The held-out split twice: once itself, once as many training samples.
    measured = 2 * (shape.train_samples - samples) + shape.test_samples
    epoch = _steps(samples, training.batch_size) * STEP_OVERHEAD + (3 * samples + measured) * replicates * trained
    noise = NOISE_PER_WEIGHT if parameters <= CACHED_WEIGHTS else NOISE_BEYOND_CACHE
    draw = STEP_OVERHEAD + (3 * rlct.batch_size * classifying + noise * parameters) * replicates * rlct.chains
    start = 3 * (samples + START_PASSES * min(samples, START_SAMPLES)) * replicates * classifying
    observation = _steps(samples, config.observer.batch_size) * STEP_OVERHEAD + samples * replicates * classifying
    return training.epochs * epoch + start + rlct.draws * draw + config.observer.epochs * observation


def work_of_timing(config: TrialConfig, shape: DataShape) -> float:
    """Work that `seconds_per_work` would do."""
    return sum(work(_piece(config, epochs, draws), shape) for epochs, draws in PIECES)


def seconds_per_work(config: TrialConfig, data: TaskData, device: torch.device | str = "cpu") -> float:
    """Time two small pieces of a trial on one CPU thread or the device; their difference is free of fixed costs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The first run pays for imports.
        _, (small, small_work), (large, large_work) = (
            _timed(_piece(config, epochs, draws), data, device) for epochs, draws in PIECES
        )
        # On a busy machine the larger piece can come out faster: then count its whole time.
        return (large - small) / (large_work - small_work) if large > small else large / large_work
    finally:
        torch.set_num_threads(threads)


@lru_cache
def _size(config: NetworkConfig, inputs: InputSpec, head: Head) -> tuple[float, int]:
    """Multiply-adds of one sample's forward pass, and parameters, of one network."""
    network = get_architecture(config.architecture).build(config, inputs, head, seeds=(0,))
    sample = torch.zeros((1, 1, *inputs.shape), dtype=torch.int32 if inputs.is_text else torch.float32)
    with FlopCounterMode(display=False) as counter:
        network.eval().requires_grad_(False)(sample)
    # Two operations are one multiply-add. Looking up tokens is none, but every place of a text is gone through.
    tables = (module for module in network.modules() if isinstance(module, ReplicatedEmbedding))
    lookups = sum(inputs.shape[0] * table.weight.shape[2] for table in tables)
    return counter.get_total_flops() / 2 + lookups, sum(parameter.numel() for parameter in network.parameters())


def _steps(samples: int, batch_size: int) -> int:
    return math.ceil(samples / batch_size)


def _piece(config: TrialConfig, epochs: int, draws: int) -> TrialConfig:
    return config.model_copy(
        update={
            "seeds": config.seeds[:1],
            "training": config.training.model_copy(update={"epochs": epochs}),
            "rlct": config.rlct.model_copy(update={"draws": draws}),
            "observer": config.observer.model_copy(update={"epochs": 0}),
        }
    )


def _timed(config: TrialConfig, data: TaskData, device: torch.device | str) -> tuple[float, float]:
    started = perf_counter()
    run_experiment(config, data, device)
    return perf_counter() - started, work(config, data.shape)
