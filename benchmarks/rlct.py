"""How fast the rlct is estimated: all networks and chains in one stack, against devinterp's own `llc()`.

Whole calls are timed, for perceptrons on samples of MNIST's shape. Each of the `--repetitions` makes all calls in turn:

- `llc()` for one network: as documented, with a Hugging Face data set, and with a list in memory, to separate reading
  the data from sampling. Included are the loss of 32 batches before each chain and Python's garbage collection around
  it, which weighs more with few draws and with many imports;
- `estimate_rlct` for R networks with the same settings: the measures of the trained weights over all samples (a
  separate column has their share), the sampler and the diagnostics.

A chain-step is one step of one chain of one network, on one batch. Times are medians over the repetitions, with minimum
and maximum. "llc() / this" is the time per chain-step of `llc()` divided by that of the row, within each repetition:
above 1 the row is faster. The weights are untrained, and the data is random unless `--data` names the folder of MNIST:
speed depends on neither.

    python benchmarks/rlct.py
    python benchmarks/rlct.py --device cuda --replicates 1 3 10 30 --draws 1000
"""

import argparse
import contextlib
import io
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from devinterp.slt.llc import llc
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.machine import hardware, spread
from trainables import RlctConfig, load_task
from trainables.config import NetworkConfig
from trainables.networks import Head, ReplicatedLinear
from trainables.networks.mlp import ReplicatedMLP
from trainables.rlct import cross_entropies, estimate_rlct, resolve_nbeta
from trainables.rlct.diagnostics import flat_spread
from trainables.rlct.losses import SampledLoss, look_at_start
from trainables.tasks import TASKS, Split

MNIST = TASKS["mnist"].shape
DOCUMENTED, IN_MEMORY = "llc(), data set", "llc(), list"


def main() -> None:
    """Measure and print one table."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    split = load(arguments.data, arguments.device)
    settings = RlctConfig(chains=arguments.chains, draws=arguments.draws, batch_size=arguments.batch_size)
    networks = {count: build(arguments, count) for count in arguments.replicates}

    # The timed functions by name. They take settings, so that a short first call can warm them up.
    calls: dict[Any, Callable[[RlctConfig], object]] = {
        name: partial(reference, build(arguments, 1), split, data) for name, data in reference_data(len(split)).items()
    }
    for count, network in networks.items():
        calls[count] = partial(estimate_rlct, network, split, seed=0)
        calls["start", count] = partial(start, network, split)
    for call in calls.values():
        call(settings.model_copy(update={"draws": 8}))
    laps = [{name: seconds(call, settings) for name, call in calls.items()} for _ in range(arguments.repetitions)]
    times = {name: np.array([lap[name] for lap in laps]) for name in calls}
    report(arguments, times, settings)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Time the stacked rlct estimate against devinterp's llc().",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder that has MNIST; random data of its shape if not given")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute")
    parser.add_argument("--width", type=int, default=64, help="units of every hidden layer")
    parser.add_argument("--hidden-layers", type=int, default=1, help="number of hidden layers")
    parser.add_argument("--replicates", type=int, nargs="+", default=[1, 3, 10], help="networks in one stack")
    parser.add_argument("--chains", type=int, default=4, help="chains of every network, at least 2")
    parser.add_argument("--draws", type=int, default=200, help="sampler steps per chain")
    parser.add_argument("--batch-size", type=int, default=512, help="samples per sampler step")
    parser.add_argument("--repetitions", type=int, default=5, help="measurements of every call")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch on the CPU")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no CUDA device here: take --device cpu")
    return arguments


def load(data: Path | None, device: str) -> Split:
    """The training split of MNIST, or random data of its shape."""
    if data is not None:
        return load_task("mnist", data).split(validation_fraction=0.0, seed=0, device=device).train
    generator = torch.Generator().manual_seed(0)
    samples = MNIST.train_samples
    inputs = torch.rand(samples, *MNIST.inputs.shape, generator=generator) * 2 - 1
    return Split(inputs.to(device), torch.randint(MNIST.classes, (samples,), generator=generator).to(device))


def build(arguments: argparse.Namespace, replicates: int) -> ReplicatedMLP:
    """Untrained networks in one stack."""
    config = NetworkConfig(hidden_layers=arguments.hidden_layers, width=arguments.width)
    return ReplicatedMLP.build(config, MNIST.inputs, Head(MNIST.classes), range(replicates)).to(arguments.device)


def reference_data(samples: int) -> dict[str, Any]:
    """The numbers of the samples, as sequences of two tokens, which devinterp expects as data."""
    pairs = [[number, 0] for number in range(samples)]
    return {
        DOCUMENTED: Dataset.from_dict({"input_ids": pairs}).with_format("torch"),
        IN_MEMORY: [{"input_ids": pair} for pair in torch.tensor(pairs)],
    }


def reference(network: ReplicatedMLP, split: Split, data: Any, config: RlctConfig) -> None:
    """Estimate one network, built from PyTorch's layers, with devinterp's `llc()`."""
    layers: list[nn.Module] = [nn.Flatten()]
    for layer in (*network.hidden.layers, network.head):
        assert isinstance(layer, ReplicatedLinear)
        outputs, inputs = layer.weight.shape[1:]
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    plain = nn.Sequential(*layers[:-1])

    def losses(model: nn.Module, ids: Tensor) -> Tensor:
        index = ids[:, 0]
        return nn.functional.cross_entropy(model(split.inputs[index]), split.labels[index], reduction="none")[:, None]

    # No progress bars, which cost time; a temporary folder, so that no draws are left behind.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        llc(
            plain,
            data,
            {},
            lr=config.step_size,
            n_beta=resolve_nbeta(config, len(split)),
            localization=config.localization,
            loss_fn=losses,
            num_chains=config.chains,
            num_draws=config.draws,
            batch_size=config.batch_size,
            match_sampling_input_ids_across_chains=False,
            device=str(split.inputs.device),
            output_path=Path(folder) / "draws.zarr",
        )


def start(network: ReplicatedMLP, split: Split, config: RlctConfig) -> None:
    """The part of `estimate_rlct` that comes before the sampler."""
    look_at_start(SampledLoss.of(network, split, cross_entropies, None), flat_spread(config), config.batch_size)


def seconds(call: Callable[[RlctConfig], object], settings: RlctConfig) -> float:
    """Wall time of one call."""
    synchronize()
    started = time.perf_counter()
    call(settings)
    synchronize()
    return time.perf_counter() - started


def synchronize() -> None:
    """Wait until the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(arguments: argparse.Namespace, times: dict[Any, np.ndarray], settings: RlctConfig) -> None:
    """Print hardware, versions and the table; `times` in seconds, one per repetition."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"hardware  {hardware(arguments.device)}, {torch.get_num_threads()} thread(s) of PyTorch")
    console.print(
        f"versions  python {platform.python_version()}, torch {torch.__version__}, devinterp {version('devinterp')}"
    )
    console.print(
        f"settings  n = {arguments.repetitions}, {arguments.hidden_layers} × {arguments.width} hidden units, "
        f"{settings.draws} draws, batches of {settings.batch_size}",
        highlight=False,
    )
    table = Table()
    for heading in (
        "call",
        "networks\n× chains",
        "ms per chain-step",
        "samples/s",
        "measures\nof the start",
        "llc() / this",
        "llc() on a\nlist / this",
    ):
        table.add_column(heading, justify="left" if heading == "call" else "right")
    per_step = {
        name: taken / (settings.draws * settings.chains * (1 if isinstance(name, str) else name))
        for name, taken in times.items()
        if not isinstance(name, tuple)
    }
    for name, step in per_step.items():
        stacked = not isinstance(name, str)
        table.add_row(
            "estimate_rlct" if stacked else name,
            f"{name if stacked else 1} × {settings.chains}",
            spread(1000 * step, ".3f"),
            f"{settings.batch_size / np.median(step):,.0f}",
            f"{np.median(times['start', name] / times[name]):.0%}" if stacked else "",
            spread(per_step[DOCUMENTED] / step, ".2f"),
            spread(per_step[IN_MEMORY] / step, ".2f"),
        )
    console.print(table)


if __name__ == "__main__":
    main()
