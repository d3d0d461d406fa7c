"""How near the rlct comes to truths that are known, and how often its 95 % interval holds them.

Tables:

- **coverage**: each case many times, with other chains. The truth is E[nβ·ΔL] at the settings' nβ and γ, by quadrature
  or in closed form; the interval is the estimate ± Student's t · the standard error over chains. A share of 95 % is
  right; the bias is the mean difference from the truth, and the ratio is the standard deviation of the estimates over
  the root mean square of their standard errors, 1 if the errors are what they say.
- **linear**: deep linear networks of two to six layers, against λ (Aoyagi 2024), λ around their weights w0, and what
  the curvatures at w0 give after as many draws.
- **million**: one such network of a million weights and low rank, at two temperatures; five minutes of one core.

    python benchmarks/known_truths.py
    python benchmarks/known_truths.py --repetitions 200 --weights 1000 10000 100000
    python benchmarks/known_truths.py --tables million
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
from scipy import linalg, stats

from benchmarks.machine import hardware
from tests.trainables.landscapes import (
    Landscape,
    circle,
    cusp,
    deep_linear,
    deep_linear_lambda,
    deep_linear_lambda_at_start,
    deep_linear_layers,
    expected_of_quadratic,
    monomial,
    quadratic,
    quadratic_after_draws,
    tanh_network,
)
from tests.trainables.test_verdict_cases import estimate_of_logistic, expected_of_logistic
from trainables import RlctConfig
from trainables.rlct import RlctEstimate

NBETA, GAMMA = 100.0, 10.0
# The published number of chains and draws.
CHAINS, DRAWS = 4, 1000


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--weights", type=int, nargs="*", default=[1_000, 10_000], help="sizes of the linear networks")
    parser.add_argument(
        "--tables", nargs="+", choices=("coverage", "linear", "million"), default=["coverage", "linear"]
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=140)
    console.print(f"{hardware('cpu')}, torch {torch.__version__}, one thread", soft_wrap=True)
    if "coverage" in arguments.tables:
        console.print(coverage_table(arguments.repetitions))
    if "linear" in arguments.tables:
        console.print(linear_table([network for count in arguments.weights for network in networks(count)], LINEAR))
    if "million" in arguments.tables:
        for settings in (WARM, COLD):
            console.print(linear_table([((500,) * 5, 50)], settings))


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


LINEAR = RlctConfig(
    step_size=1e-7, nbeta=1e5, localization=1.0, chains=CHAINS, draws=8000, batch_size=2, burn_in_fraction=0.75
)
# A step of a chain takes a twentieth of a second: fewer of them, twice as long.
WARM = LINEAR.model_copy(update={"step_size": 2e-7, "chains": 2, "draws": 2500, "burn_in_fraction": 0.8})
# So cold that the chains stay where the loss is quadratic: what they find is then known after any number of draws.
COLD = WARM.model_copy(update={"step_size": 2e-9, "nbeta": 1e7, "draws": 600})


def networks(weights: int) -> list[tuple[tuple[int, ...], int]]:
    """The units of every layer, and the rank, of linear networks of about so many weights."""
    found = []
    for layers in (2, 3, 4, 6):
        units = round(math.sqrt(weights / layers))
        hidden = max(1, round(0.8 * units))
        found.append(((units, *(hidden for _ in range(layers - 1)), units), units // 2))
    return found


def linear_table(cases: Sequence[tuple[Sequence[int], int]], settings: RlctConfig) -> Table:
    """A row per network, given by the units of every layer and the rank: λ, what is expected, and the estimate."""
    title = f"Deep linear networks, nβ = {settings.nbeta:g}, γ = {settings.localization:g}, {settings.chains} chains × "
    table = Table(title=f"{title}{settings.draws} draws of step {settings.step_size:g}", title_justify="left")
    for column in ("weights", "layers", "units", "rank", "λ", "m", "λ at w0", "quadratic", "estimate", "excess", "s"):
        table.add_column(column, justify="right")
    for sizes, rank in cases:
        known, multiplicity = deep_linear_lambda(sizes, rank)
        began = time.perf_counter()
        result = deep_linear(sizes, rank).estimate(settings)
        table.add_row(
            f"{sum(a * b for a, b in pairwise(sizes)):,}",
            str(len(sizes) - 1),
            f"{sizes[0]}, {sizes[1]}",
            str(rank),
            f"{known:,g}",
            str(multiplicity),
            f"{deep_linear_lambda_at_start(sizes, rank):,g}",
            f"{expected_of_quadratic_at_start(sizes, rank, settings):,.5g}",
            f"{result.estimate[0]:,.5g} ± {result.standard_error[0]:.2g}",
            f"{result.diagnostics.excess[0] / known:.1%}",
            f"{time.perf_counter() - began:.0f}",
        )
    return table


def expected_of_quadratic_at_start(sizes: Sequence[int], rank: int, settings: RlctConfig, steps: int = 100) -> float:
    """E[nβ·ΔL] over the kept draws if the loss had the same curvatures everywhere as at w0.

    The curvatures are those of the map v → Σ_l A·Aᵀ·v·Bᵀ·B, of as many dimensions as the product has entries, A and B
    the products of the other layers. The sum over them is found by stochastic Lanczos quadrature (Golub and Meurant
    2010, Matrices, Moments and Quadrature): from random directions, without their list.
    """
    layers = [torch.from_numpy(layer) for layer in deep_linear_layers(sizes, rank)]
    sides = []
    for index in range(len(layers)):
        after, before = torch.eye(sizes[-1], dtype=torch.float64), torch.eye(sizes[0], dtype=torch.float64)
        for layer in reversed(layers[index + 1 :]):
            after = after @ layer
        for layer in layers[:index]:
            before = layer @ before
        sides.append((after @ after.T, before.T @ before))
    generator, total = torch.Generator().manual_seed(0), 0.0
    # Their relative error is at most √(2 / (directions · dimensions)): one percent.
    probes = max(2, 20_000 // (sizes[0] * sizes[-1]))
    for _ in range(probes):
        vector = torch.randn(sizes[-1], sizes[0], generator=generator, dtype=torch.float64)
        basis, diagonal, beside = [vector / vector.norm()], [], []
        for _ in range(min(steps, vector.numel())):
            moved = sum((left @ basis[-1] @ right for left, right in sides), torch.zeros_like(vector))
            diagonal.append(float((moved * basis[-1]).sum()))
            for earlier in basis:
                moved = moved - (moved * earlier).sum() * earlier
            beside.append(float(moved.norm()))
            if beside[-1] < 1e-10:
                break
            basis.append(moved / beside[-1])
        nodes, vectors = linalg.eigh_tridiagonal(diagonal, beside[: len(diagonal) - 1])
        values = quadratic_after_draws(nodes.clip(min=0), settings)
        total += vector.numel() * float((vectors[0] ** 2 * values).sum()) / probes
    return total


if __name__ == "__main__":
    main()
