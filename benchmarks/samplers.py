"""How soon each sampler finds the front of a simulated study, against drawing at random.

The landscape is made up, and has the shape of this project's problem. Nothing is trained. Its parameters are the weight
of self-modeling (a logarithmic range, or 0: the baseline, which has neither weight nor target), the width, the depth of
the target layer and the learning rate; its objectives validation accuracy (higher is better), the standard deviation
of the weights and the rlct (lower is better). A weight that is large for the width makes the network collapse: its
weights and rlct are low, its accuracy is that of guessing, and the trial is infeasible. What a sampler is told are
means over five replicates, with noise.

Measured is the hypervolume of the points that a sampler has tried, from their values without noise: the share of the
unit cube that they dominate, between the worst values of interest and the best. Infeasible points count nothing. Every
sampler is made anew for each trial, as a study makes it, and trials run one after the other.

Samplers marked "fixed space" are told a weight and a target for the baseline as well, which it does not use. Samplers
that learn only from the parameters that all trials have are otherwise blind to them.

    python benchmarks/samplers.py
    python benchmarks/samplers.py --processes 4 --figure docs/samplers.png
"""

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

# GPSampler's docs: the thread pools of NumPy and PyTorch hinder each other. It is read at import.
os.environ["OMP_NUM_THREADS"] = "1"

import matplotlib.pyplot as plt
import numpy as np
import optuna
from optuna.trial import create_trial
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.machine import hardware
from study.search.samplers import make_sampler
from study.spec.sampler import SamplerConfig

REPLICATES = 5
# The standard deviation of one replicate's accuracy, weight_std and rlct: of the accuracy absolute, of the others
# relative.
NOISE = np.array([0.006, 0.03, 0.08])
# Values worse than these dominate nothing, values better than these do not occur.
WORST = np.array([0.93, 0.07, 30.0])
BEST = np.array([0.99, 0.01, 2.0])
GUESSING = 0.1
WEIGHTS, WIDTHS, RATES, DEPTHS = (0.1, 100.0), (8, 512), (1e-4, 1e-1), (1, 3)


class Contestant(NamedTuple):
    """A sampler, whether every trial is told every parameter, and limits for one that takes seconds a suggestion."""

    sampler: Mapping[str, Any]
    fixed_space: bool = False
    most_trials: int = 10_000
    most_seeds: int = 10_000

    @property
    def label(self) -> str:
        return f"{SamplerConfig.model_validate(self.sampler)}{', fixed space' if self.fixed_space else ''}"


RANDOM = Contestant({"name": "random"})
CONTESTANTS = (
    RANDOM,
    Contestant({"name": "qmc"}, fixed_space=True),
    Contestant({"name": "tpe"}),
    Contestant({"name": "tpe"}, fixed_space=True),
    Contestant({"name": "tpe", "multivariate": True, "group": True}),
    Contestant({"name": "nsga2"}, fixed_space=True),
    Contestant({"name": "nsga2", "population_size": 20}),
    Contestant({"name": "nsga2", "population_size": 20}, fixed_space=True),
    Contestant({"name": "nsga3", "population_size": 20}, fixed_space=True),
    Contestant({"name": "gp"}, fixed_space=True, most_trials=25, most_seeds=10),
)


class Run(NamedTuple):
    """One search: its hypervolume after each trial, and the CPU seconds that its suggestions took together."""

    hypervolumes: np.ndarray
    seconds: float


def main() -> None:
    """Measure, print one table and draw one figure."""
    arguments = parse()
    runs: dict[str, list[Run]] = {}
    with ProcessPoolExecutor(arguments.processes) as pool:
        for contestant in CONTESTANTS:
            search = partial(searched, contestant, min(arguments.trials, contestant.most_trials))
            runs[contestant.label] = list(pool.map(search, range(min(arguments.seeds, contestant.most_seeds))))
            print(f"{contestant.label}: {sum(run.seconds for run in runs[contestant.label]):.0f} s", file=sys.stderr)
    report(arguments, runs)
    if arguments.figure is not None:
        draw({label: stacked(each) for label, each in runs.items()}, arguments.figure)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Compare samplers on a simulated study.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, help="searches of every sampler")
    parser.add_argument("--trials", type=int, default=100, help="trials of every search")
    parser.add_argument("--processes", type=int, default=1, help="searches at the same time")
    parser.add_argument("--figure", type=Path, help="where to write the figure; none if not given")
    return parser.parse_args()


def searched(contestant: Contestant, trials: int, seed: int) -> Run:
    """Search the landscape once."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = SamplerConfig.model_validate(contestant.sampler)
    noise = np.random.default_rng(seed)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    truths: list[np.ndarray | None] = []
    seconds = 0.0
    for number in range(trials):
        started = time.process_time()
        study.sampler = make_sampler(sampler, seed, number, attempt=0)
        trial = study.ask()
        truth, feasible = landscape(**suggested(trial, contestant.fixed_space))
        seconds += time.process_time() - started
        deviation = NOISE * np.array([1, truth[1], truth[2]]) / np.sqrt(REPLICATES)
        trial.set_constraint("learned", float(not feasible))
        study.tell(trial, (truth + deviation * noise.standard_normal(3)).tolist())
        truths.append(truth if feasible else None)
    return Run(hypervolumes(truths), seconds)


def suggested(trial: optuna.Trial, fixed_space: bool) -> dict[str, Any]:
    """The parameters of a trial: a weight and a target only if it is no baseline, or for every one."""
    chosen = {
        "width": trial.suggest_int("width", *WIDTHS, log=True),
        "rate": trial.suggest_float("learning_rate", *RATES, log=True),
    }
    modeling = trial.suggest_categorical("self_modeling", [False, True])
    if not (modeling or fixed_space):
        return chosen | {"weight": 0.0, "depth": 1}
    weight = trial.suggest_float("aux_weight", *WEIGHTS, log=True)
    depth = trial.suggest_int("target_depth", *DEPTHS)
    return chosen | {"weight": weight if modeling else 0.0, "depth": depth if modeling else 1}


def landscape(weight: float, width: int, depth: int, rate: float) -> tuple[np.ndarray, bool]:
    """Accuracy, standard deviation of the weights and rlct without noise, and whether the network learned."""
    # A target near the input presses on fewer layers; a wide network shares the pressure among more units.
    pressure = np.log1p(weight * depth**0.7 * (64 / width) ** 0.4)
    if pressure > 3.7:
        return np.array([GUESSING, 0.015, 2.0]), False
    size = np.log2(width / WIDTHS[0])  # 0 to 6
    best_rate = -2.0 - 0.12 * size
    slowness = max(0.0, best_rate - np.log10(rate))  # in decades below the best rate, and above it
    haste = max(0.0, np.log10(rate) - best_rate)
    accuracy = 0.985 - 0.11 * np.exp(-0.7 * size) - 0.03 * slowness**2 - 0.08 * haste**2
    # A little pressure regularises, and costs accuracy when it is large.
    accuracy += 0.006 * pressure * np.exp(-pressure) - 0.002 * pressure**2.2
    weight_std = 0.11 * 2 ** (-0.28 * size) * np.exp(-0.22 * pressure) * (1 + 0.25 * haste - 0.1 * slowness)
    rlct = 8 * 2 ** (0.5 * size) * np.exp(-0.3 * pressure * depth**-0.2) * np.exp(-0.35 * slowness)
    return np.array([accuracy, weight_std, rlct]), True


def hypervolumes(truths: list[np.ndarray | None]) -> np.ndarray:
    """The share of the unit cube that the first n points dominate, for every n; None is an infeasible point."""
    study = optuna.create_study(directions=["minimize"] * 3)
    for truth in truths:
        # 0 is best and 1 worst; an infeasible point is as bad as the reference point.
        losses = np.ones(3) if truth is None else np.clip((truth - BEST) / (WORST - BEST), 0, 1)
        study.add_trial(create_trial(values=losses.tolist()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        figure = optuna.visualization.plot_hypervolume_history(study, reference_point=[1.0, 1.0, 1.0])
    return np.asarray(figure.data[0].y, dtype=float)


def interval(values: np.ndarray) -> np.ndarray:
    """Half the width of the 95 % interval of the mean over the first axis, by Student's t."""
    count = len(values)
    return np.asarray(stats.t.ppf(0.975, count - 1) * values.std(axis=0, ddof=1) / np.sqrt(count))


def report(arguments: argparse.Namespace, runs: dict[str, list[Run]]) -> None:
    """Print hardware, versions and the table: under each mean, in brackets, its difference from random."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"hardware  {hardware('cpu')}, {arguments.processes} process(es) of one thread")
    console.print(
        f"versions  python {platform.python_version()}, optuna {version('optuna')}, torch {version('torch')}, "
        f"scipy {version('scipy')}"
    )
    console.print(
        f"settings  hypervolume, mean ± 95 % interval over n searches (minus random, same seeds), up to "
        f"{arguments.trials} trials, means of {REPLICATES} replicates",
        highlight=False,
    )
    checkpoints = [number for number in (25, 50, 100, 200, 400) if number <= arguments.trials]
    table = Table("sampler", "n", *(f"{number} trials" for number in checkpoints), "CPU s per\nsuggestion")
    for column in table.columns[1:]:
        column.justify = "right"
    at_random = stacked(runs[RANDOM.label])
    for label, each in runs.items():
        found = stacked(each)
        reached = [number for number in checkpoints if number <= found.shape[1]]
        table.add_row(
            label,
            str(len(found)),
            *(
                cell(found[:, n - 1], None if label == RANDOM.label else at_random[: len(found), n - 1])
                for n in reached
            ),
            *([""] * (len(checkpoints) - len(reached))),
            f"{np.mean([run.seconds for run in each]) / found.shape[1]:.3f}",
        )
    console.print(table)


def stacked(runs: list[Run]) -> np.ndarray:
    """The hypervolumes of all searches `(searches, trials)`."""
    return np.stack([run.hypervolumes for run in runs])


def cell(found: np.ndarray, at_random: np.ndarray | None) -> str:
    """Mean and 95 % interval; below, those of the difference from drawing at random with the same seeds."""
    mean = f"{found.mean():.3f} ± {interval(found):.3f}"
    if at_random is None:
        return mean
    gain = found - at_random
    return f"{mean}\n({gain.mean():+.3f} ± {interval(gain):.3f})"


def draw(found: dict[str, np.ndarray], path: Path) -> None:
    """Draw the mean hypervolume against the number of trials, a panel per kind of sampler, random in each."""
    kinds = {"tpe": "TPE", "nsga": "NSGA-II and NSGA-III", "gp": "Gaussian process", "qmc": "quasi-random"}
    figure, panels = plt.subplots(1, len(kinds), figsize=(14, 3.8), sharey=True, layout="constrained")
    for panel, (prefix, title) in zip(panels, kinds.items(), strict=True):
        for label, runs in found.items():
            if not label.startswith((RANDOM.label, prefix)):
                continue
            trials, mean, half = np.arange(1, runs.shape[1] + 1), runs.mean(axis=0), interval(runs)
            color = "0.5" if label == RANDOM.label else None
            (line,) = panel.plot(trials, mean, label=f"{label} (n = {len(runs)})", color=color)
            panel.fill_between(trials, mean - half, mean + half, alpha=0.2, color=line.get_color(), linewidth=0)
        panel.set(title=title, xlabel="trials")
        panel.legend(loc="lower right", fontsize=7)
    panels[0].set_ylabel("hypervolume, mean and 95 % interval")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
