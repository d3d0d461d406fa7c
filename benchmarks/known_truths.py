"""How near the rlct comes to truths that are known, and how often its 95 % interval holds them.

Two tables:

- **coverage**: each case many times, with other chains. The truth is E[nβ·ΔL] at the settings' nβ and γ, by quadrature
  or in closed form; the interval is the estimate ± Student's t · the standard error over chains. A share of 95 % is
  right; the bias is the mean difference from the truth, and the ratio is the standard deviation of the estimates over
  the root mean square of their standard errors, 1 if the errors are what they say.
- **deep linear networks** of two to six layers, up to a million weights, against λ (Aoyagi 2024).

    python benchmarks/known_truths.py
    python benchmarks/known_truths.py --repetitions 200 --weights 1000 10000 100000 1000000
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.machine import hardware
from tests.trainables.landscapes import (
    Landscape,
    circle,
    cusp,
    deep_linear,
    deep_linear_lambda,
    expected_of_quadratic,
    monomial,
    quadratic,
    tanh_network,
)
from tests.trainables.test_verdict_cases import estimate_of_logistic, expected_of_logistic
from trainables import RlctConfig
from trainables.rlct import RlctEstimate

NBETA, GAMMA = 100.0, 10.0
# The published number of chains and draws.
CHAINS, DRAWS = 4, 1000


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--weights", type=int, nargs="*", default=[1_000, 10_000], help="sizes of the linear networks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=140)
    console.print(f"{hardware('cpu')}, torch {torch.__version__}, one thread", soft_wrap=True)
    console.print(coverage_table(arguments.repetitions))
    console.print(linear_table(arguments.weights))


@dataclass(frozen=True)
class Repeated:
    """A case that is estimated again and again."""

    estimate: Callable[[int], RlctEstimate]  # with so many chains; they are independent, and are repetitions in groups
    truth: float


def cases() -> dict[str, Repeated]:
    """The cases of the table of coverage."""
    curvatures = np.geomspace(0.1, 10, 20)
    found = {"quadratic, 20 weights": of(quadratic(curvatures), 1e-3, expected_of_quadratic(curvatures, NBETA, GAMMA))}
    for name, landscape in {
        "x⁴": monomial(4),
        "x⁶": monomial(6),
        "x²y²": monomial(2, 2),
        "x²y⁴": monomial(2, 4),
        "x⁴y⁴": monomial(4, 4),
        "cusp (x²−y³)²": cusp(),
    }.items():
        found[name] = of(landscape, 1e-3, landscape.expected_on_grid(NBETA, GAMMA))
    found["circle"] = of(circle(), 3e-4, circle().expected_on_grid(NBETA, GAMMA), draws=3 * DRAWS)
    for units in (2, 4):
        network = tanh_network(units)
        found[f"tanh network, {units} units"] = of(network, 1e-3, network.expected_by_prior(NBETA, GAMMA))
    for batch in (16, 500):
        found[f"logistic regression, batch {batch}"] = Repeated(
            lambda chains, batch=batch: estimate_of_logistic(batch, "dataset", 3e-4, 2500, chains),  # type: ignore[misc]
            expected_of_logistic(2000 / math.log(2000)),
        )
    return found


def of(landscape: Landscape, step: float, truth: float, draws: int = DRAWS) -> Repeated:
    """A landscape, estimated with this step."""
    settings = RlctConfig(step_size=step, nbeta=NBETA, localization=GAMMA, draws=draws, batch_size=2)
    return Repeated(lambda chains: landscape.estimate(settings.model_copy(update={"chains": chains})), truth)


def coverage_table(repetitions: int) -> Table:
    """A row per case: truth, bias, spread against its standard error, and coverage."""
    table = Table(title=f"{repetitions} repetitions of {CHAINS} chains", title_justify="left")
    for column in ("case", "truth", "mean", "bias", "excess", "sd / se", "coverage", "verdict"):
        table.add_column(column, justify="left" if column in ("case", "verdict") else "right")
    for name, case in cases().items():
        result = case.estimate(repetitions * CHAINS)
        chains = result.per_chain[0].reshape(repetitions, CHAINS)
        estimates, errors = chains.mean(axis=1), chains.std(axis=1, ddof=1) / math.sqrt(CHAINS)
        inside = np.abs(estimates - case.truth) <= stats.t.ppf(0.975, CHAINS - 1) * errors
        table.add_row(
            name,
            f"{case.truth:.3g}",
            f"{estimates.mean():.3g}",
            f"{estimates.mean() / case.truth - 1:+.1%}",
            f"{result.diagnostics.excess[0] / case.truth:.1%}",
            f"{estimates.std(ddof=1) / math.sqrt((errors**2).mean()):.2f}",
            f"{inside.mean():.1%}",
            result.verdicts[0],
        )
    return table


def linear_table(weights: Sequence[int]) -> Table:
    """A row per number of layers and of weights: λ, the estimate and their ratio."""
    table = Table(title="Deep linear networks, nβ = 100,000, γ = 1", title_justify="left")
    for column in ("weights", "layers", "units", "rank", "λ", "multiplicity", "estimate", "/ λ", "excess", "s"):
        table.add_column(column, justify="right")
    for count in weights:
        for layers in (2, 3, 4, 6):
            units = round(math.sqrt(count / layers))
            sizes, rank = (units, *(max(1, round(0.8 * units)) for _ in range(layers - 1)), units), units // 2
            known, multiplicity = deep_linear_lambda(sizes, rank)
            settings = RlctConfig(
                step_size=1e-7,
                nbeta=1e5,
                localization=1.0,
                chains=CHAINS,
                draws=8000,
                batch_size=2,
                burn_in_fraction=0.75,
            )
            began = time.perf_counter()
            result = deep_linear(sizes, rank).estimate(settings)
            estimate, error = result.estimate[0], result.standard_error[0]
            table.add_row(
                f"{sum(a * b for a, b in pairwise(sizes)):,}",
                str(layers),
                f"{sizes[0]}, {sizes[1]}",
                str(rank),
                f"{known:g}",
                str(multiplicity),
                f"{estimate:.4g} ± {error:.2g}",
                f"{estimate / known:.2f}",
                f"{result.diagnostics.excess[0] / known:.1%}",
                f"{time.perf_counter() - began:.0f}",
            )
    return table


if __name__ == "__main__":
    main()
