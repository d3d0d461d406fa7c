"""E[nβ·(L − L0)] by NUTS, for models of too many weights for an integral: what the chains of the rlct should find.

The No-U-Turn sampler (Hoffman and Gelman 2014) draws from exp(−nβ·L(w) − γ‖w − w0‖²/2) with the whole data, and
corrects for its steps: they leave no bias. It is BlackJAX's, and the losses are written again in JAX, so that it
shares nothing with the project's sampler but the data. Some means are known otherwise too: they show that NUTS is
right. The chains start at draws of exp(−γ‖w − w0‖²/2); the standard error is that over chains.
`tests/trainables/references.py` keeps the results. All of them take two and a half minutes of one core.

    .venv/bin/uv pip install --python .venv/bin/python blackjax
    python benchmarks/references.py
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import hardware
from tests.trainables.references import TANH_GAMMA, TANH_NBETA, tanh_start, tanh_task
from tests.trainables.test_rlct_known import (
    REDUCED_RANK,
    REDUCED_RANK_GAMMA,
    REDUCED_RANK_NBETA,
    reduced_rank_with_no_true_map,
)
from tests.trainables.test_verdict_cases import FULL, GAMMA, expected_of_logistic, logistic

Loss = Callable[[Any], Any]  # of weights (d,), in JAX


@dataclass(frozen=True)
class Model:
    """A loss around its weights w0."""

    loss: Loss
    start: np.ndarray  # (d,), w0
    nbeta: float
    gamma: float
    exact: float | None = None  # the mean, where it is known otherwise


def main() -> None:
    """Sample every model and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=1000, help="steps that find the step size and the scales")
    parser.add_argument("--draws", type=int, default=4000, help="per chain, after those")
    arguments = parser.parse_args()
    try:
        import blackjax
        import jax
    except ImportError as error:
        parser.error(f"{error}: .venv/bin/uv pip install --python .venv/bin/python blackjax")
    jax.config.update("jax_enable_x64", True)
    console = Console(width=160)
    console.print(f"{hardware('cpu')}, jax {jax.__version__}, blackjax {blackjax.__version__}", soft_wrap=True)
    table = Table(title=f"NUTS, {arguments.chains} chains × {arguments.draws} draws", title_justify="left")
    for column in ("model", "weights", "nβ", "γ", "known", "by NUTS", "R-hat", "effective", "divergent", "s"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, model in models().items():
        began = time.perf_counter()
        rises, divergent = sampled(model, arguments.chains, arguments.warmup, arguments.draws)
        means = rises.mean(axis=1)
        r_hat, effective = convergence(rises)
        table.add_row(
            name,
            str(len(model.start)),
            f"{model.nbeta:.4g}",
            f"{model.gamma:g}",
            "" if model.exact is None else f"{model.exact:.4f}",
            f"{means.mean():.4f} ± {means.std(ddof=1) / np.sqrt(len(means)):.4f}",
            f"{r_hat:.3f}",
            f"{effective:,.0f}",
            f"{divergent:.2%}",
            f"{time.perf_counter() - began:.0f}",
        )
    console.print(table)


def models() -> dict[str, Model]:
    """The models, by name."""
    found = {}
    for sizes in REDUCED_RANK:
        inputs, outputs, hidden, rank = sizes
        loss, start = reduced_rank(*sizes)
        exact = None if rank else reduced_rank_with_no_true_map(REDUCED_RANK_NBETA, REDUCED_RANK_GAMMA, *sizes[:3])
        name = f"reduced-rank regression, {inputs} → {hidden} → {outputs}, true rank {rank}"
        found[name] = Model(loss, start, REDUCED_RANK_NBETA, REDUCED_RANK_GAMMA, exact)
    loss, start = tanh_network()
    found["tanh network, 1 → 4 → 1, true units 1"] = Model(loss, start, TANH_NBETA, TANH_GAMMA)
    loss, start = logistic_regression()
    found["logistic regression, 7 features"] = Model(loss, start, FULL, GAMMA, expected_of_logistic(FULL))
    return found


def reduced_rank(inputs: int, outputs: int, hidden: int, rank: int) -> tuple[Loss, np.ndarray]:
    """‖BA − T‖²/2, T of this rank, at weights whose hidden units beyond the true rank are 0."""
    import jax.numpy as jnp

    first, second = np.eye(hidden, inputs), np.eye(outputs, hidden)
    first[rank:], second[:, rank:] = 0, 0
    truth, cut = second @ first, hidden * inputs

    def loss(weights: Any) -> Any:
        a, b = weights[:cut].reshape(hidden, inputs), weights[cut:].reshape(outputs, hidden)
        return jnp.square(b @ a - truth).sum() / 2

    return loss, np.concatenate([first.ravel(), second.ravel()])


def tanh_network() -> tuple[Loss, np.ndarray]:
    """Half the mean squared error of Σ bᵢ·tanh(aᵢ·x)."""
    import jax.numpy as jnp

    points, targets = (jnp.asarray(values) for values in tanh_task())

    def loss(weights: Any) -> Any:
        slopes, heights = weights.reshape(2, -1)
        return jnp.square(jnp.tanh(jnp.outer(points, slopes)) @ heights - targets).mean() / 2

    return loss, tanh_start()


def logistic_regression() -> tuple[Loss, np.ndarray]:
    """The mean cross-entropy."""
    import jax

    features, labels, start = logistic()
    inputs, signs = jax.numpy.asarray(features.double().numpy()), jax.numpy.asarray(2.0 * labels.numpy() - 1)

    def loss(weights: Any) -> Any:
        return -jax.nn.log_sigmoid(signs * (inputs @ weights)).mean()

    return loss, start


def sampled(model: Model, chains: int, warmup: int, draws: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """nβ·(L − L0) of every draw, (chains, draws), and the share of divergent ones."""
    import blackjax
    import jax

    start, lowest = jax.numpy.asarray(model.start), model.loss(model.start)

    def rise(weights: Any) -> Any:
        return model.nbeta * (model.loss(weights) - lowest)

    def log_density(weights: Any) -> Any:
        return -rise(weights) - model.gamma / 2 * jax.numpy.square(weights - start).sum()

    def chain(key: Any) -> Any:
        begin, adapt, draw = jax.random.split(key, 3)
        position = start + jax.random.normal(begin, start.shape) / model.gamma**0.5
        adaptation = blackjax.window_adaptation(blackjax.nuts, log_density, target_acceptance_rate=0.9)
        (state, parameters), _ = adaptation.run(adapt, position, num_steps=warmup)
        step = blackjax.nuts(log_density, **parameters).step

        def once(state: Any, key: Any) -> Any:
            state, info = step(key, state)
            return state, (rise(state.position), info.is_divergent)

        return jax.lax.scan(once, state, jax.random.split(draw, draws))[1]

    rises, divergent = jax.jit(lambda keys: jax.lax.map(chain, keys))(jax.random.split(jax.random.key(seed), chains))
    return np.asarray(rises), float(divergent.mean())


def convergence(rises: np.ndarray) -> tuple[float, float]:
    """R-hat over the chains, and the number of independent draws that all are worth (Vehtari et al. 2021)."""
    from arviz_stats.base.array import array_stats

    r_hat = array_stats.rhat(rises, chain_axis=0, draw_axis=1)
    return float(r_hat), float(array_stats.ess(rises, chain_axis=0, draw_axis=1, method="mean"))


if __name__ == "__main__":
    main()
