"""The picture of the rlct sampler's chains."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from analysis.style import COLORS, GREY, STYLE


def draw_rlct_trace(
    trace: pd.DataFrame,
    path: Path,
    estimates: Sequence[float],
    errors: Sequence[float],
    verdicts: Sequence[str],
) -> None:
    """Save the loss traces of the rlct sampler: a panel per replicate, a line per chain, the burn-in shaded.

    `trace` has the columns draw, replicate, chain, loss (nats, of one batch) and kept; `errors` are standard errors
    over chains.
    """
    replicates = sorted(trace["replicate"].unique())
    columns = min(5, len(replicates))
    rows = -(-len(replicates) // columns)
    burn_in = int((~trace["kept"]).groupby(trace["draw"]).first().sum())
    with matplotlib.rc_context(STYLE | {"font.size": 8}):
        width, height = 2.9 * columns, 2.2 * rows
        figure = Figure(figsize=(width, height))
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        # Margins set by hand: a layout engine takes longer than the drawing, and this runs after every trial.
        figure.subplots_adjust(
            left=0.7 / width, right=1 - 0.1 / width, bottom=0.5 / height, top=1 - 0.3 / height, wspace=0.08, hspace=0.2
        )
        for axes, replicate in zip(panels, replicates, strict=False):
            smooth = smooth_chains(trace[trace["replicate"] == replicate], "loss")
            for number, chain in enumerate(smooth.columns):
                axes.plot(smooth.index, smooth[chain], color=COLORS[number % len(COLORS)], linewidth=0.8)
            axes.axvspan(0, burn_in, color=GREY, alpha=0.12, lw=0)
            axes.set_title(
                f"replicate {replicate}: {estimates[replicate]:.3g} ± {errors[replicate]:.2g}, {verdicts[replicate]}",
                fontsize=8,
            )
        for axes in panels[len(replicates) :]:
            axes.set_visible(False)
        figure.supxlabel("draw (shaded: burn-in)", fontsize=8)
        figure.supylabel("batch loss, nats", fontsize=8)
        figure.savefig(path)


def smooth_chains(trace: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of one replicate's trace, smoothed: one row per draw, one column per chain.

    A batch's loss is noisy: a running mean shows where the chain is.
    """
    chains = trace.pivot(index="draw", columns="chain", values=column)
    return chains.rolling(max(1, len(chains) // 40), min_periods=1).mean()
