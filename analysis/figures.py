"""The pictures of a study. Each function draws one and gives the figure back, or saves it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.scaling import Fit, Sweep, usable
from analysis.table import StudyRecord

LABELS = {
    "weight_std": "std of final-layer weights",
    "rlct": "rlct (local learning coefficient)",
    "val_accuracy": "validation accuracy",
    "test_accuracy": "test accuracy",
    "aux_weight": "self-modeling weight (aux_weight)",
}
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe and Ito: colour-blind safe
STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "font.size": 10, "legend.frameon": False, "figure.dpi": 110,
}  # fmt: skip


def draw_complexity(record: StudyRecord, sweeps: Sequence[Sweep], fits: Sequence[Fit]) -> Figure:
    """Weight_std, rlct and accuracy against aux_weight: means with 95 % intervals, and the fitted curves.

    Trials outside the sweeps are grey dots; broken ones are crosses, and no curve sees them.
    """
    measures = ("weight_std", "rlct", record.accuracy)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.5, 4.2), layout="constrained")
        panels = figure.subplots(1, len(measures))
        for axes, measure in zip(panels, measures, strict=True):
            _draw_other_trials(axes, record, sweeps, measure)
            for number, sweep in enumerate(sweeps):
                color = COLORS[number % len(COLORS)]
                _draw_sweep(axes, sweep, measure, color)
                for fit in fits:
                    if fit.sweep == sweep.label and fit.measure == measure:
                        axes.plot(fit.curve["aux_weight"], fit.curve["value"], color=color, linewidth=1.6)
                        axes.fill_between(
                            fit.curve["aux_weight"], fit.curve["low"], fit.curve["high"], color=color, alpha=0.15, lw=0
                        )
            _weight_axis(axes, record.trials["aux_weight"])
            axes.set_ylabel(LABELS[measure])
            _frame_sweeps(axes, record, sweeps, measure)
        handles, labels = panels[0].get_legend_handles_labels()
        by_label = dict(zip(labels, handles, strict=True))
        figure.legend(by_label.values(), by_label.keys(), loc="outside upper center", ncols=min(4, len(by_label)))
    return figure


def draw_tradeoff(record: StudyRecord, front: set[str]) -> Figure:
    """Accuracy against each complexity, coloured by aux_weight; trials on the Pareto front are ringed."""
    shown = usable(record.trials)
    weight = shown["aux_weight"].to_numpy(float)
    on_front = shown["trial_key"].isin(front).to_numpy()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 4.0), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, measure in zip(panels, ("weight_std", "rlct"), strict=True):
            # An rlct that is none has no place on its axis.
            known = usable(record.trials, measure)["trial_key"]
            x = shown[measure].where(shown["trial_key"].isin(known)).to_numpy(float)
            y = shown[record.accuracy].to_numpy(float)
            axes.errorbar(
                x, y, xerr=shown[f"{measure}_ci95"], yerr=shown[f"{record.accuracy}_ci95"],
                fmt="none", ecolor="#999999", elinewidth=0.6, zorder=1,
            )  # fmt: skip
            dots = axes.scatter(x, y, c=np.log10(1 + weight), cmap="viridis", s=36, zorder=2)
            axes.scatter(
                x[on_front], y[on_front], s=110, facecolors="none", edgecolors=COLORS[1], linewidths=1.4,
                zorder=3, label="Pareto-optimal",
            )  # fmt: skip
            axes.set_xlabel(LABELS[measure])
        panels[0].set_ylabel(LABELS[record.accuracy])
        panels[0].legend(loc="lower right")
        bar = figure.colorbar(dots, ax=panels, label="aux_weight")
        ticks = [value for value in (0, 1, 3, 10, 30, 100) if value <= max(weight, default=0)]
        bar.set_ticks(np.log10(1 + np.array(ticks)).tolist(), labels=[str(tick) for tick in ticks])
    return figure


def draw_rlct_trace(
    trace: pd.DataFrame,
    path: Path,
    estimates: Sequence[float],
    errors: Sequence[float],
    verdicts: Sequence[str],
) -> None:
    """Save the loss traces of the rlct sampler: a panel per replicate, a line per chain, the burn-in shaded.

    `trace` has the columns draw, replicate, chain, loss (nats, of one batch) and kept.
    """
    replicates = sorted(trace["replicate"].unique())
    columns = min(5, len(replicates))
    rows = -(-len(replicates) // columns)
    burn_in = int((~trace["kept"]).groupby(trace["draw"]).first().sum())
    with matplotlib.rc_context(STYLE | {"font.size": 8}):
        width, height = 2.9 * columns, 2.2 * rows
        figure = Figure(figsize=(width, height))
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        # Margins by hand: a layout engine takes longer than all the drawing, and this runs after every trial.
        figure.subplots_adjust(
            left=0.7 / width, right=1 - 0.1 / width, bottom=0.5 / height, top=1 - 0.3 / height, wspace=0.08, hspace=0.2
        )
        for axes, replicate in zip(panels, replicates, strict=False):
            smooth = smooth_chains(trace[trace["replicate"] == replicate], "loss")
            for number, chain in enumerate(smooth.columns):
                axes.plot(smooth.index, smooth[chain], color=COLORS[number % len(COLORS)], linewidth=0.8)
            axes.axvspan(0, burn_in, color="#999999", alpha=0.12, lw=0)
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
    """A column of one replicate's trace, as a row per draw and a column per chain.

    A batch's loss is noisy: a running mean shows where the chain is.
    """
    chains = trace.pivot(index="draw", columns="chain", values=column)
    return chains.rolling(max(1, len(chains) // 40), min_periods=1).mean()


def _draw_sweep(axes: Axes, sweep: Sweep, measure: str, color: str) -> None:
    ok = sweep.included(measure)
    axes.errorbar(
        ok["aux_weight"], ok[measure], yerr=ok[f"{measure}_ci95"], fmt="o", color=color, markersize=4.5,
        capsize=2, linewidth=1, label=sweep.label,
    )  # fmt: skip
    broken = sweep.trials[~sweep.trials["trial_key"].isin(ok["trial_key"])]
    if not broken.empty:
        axes.plot(broken["aux_weight"], broken[measure], "x", color=color, markersize=6, label="broken, in no curve")


def _draw_other_trials(axes: Axes, record: StudyRecord, sweeps: Sequence[Sweep], measure: str) -> None:
    shown = {key for sweep in sweeps for key in sweep.trials["trial_key"]}
    other = record.trials[~record.trials["trial_key"].isin(shown)]
    if not other.empty:
        axes.plot(other["aux_weight"], other[measure], "o", color="#BBBBBB", markersize=3.5, label="other trials")


def _weight_axis(axes: Axes, weights: pd.Series) -> None:
    positive = weights[weights > 0]
    # Linear near the baseline, logarithmic above it: 0 has its place on the axis.
    threshold = float(positive.min()) if len(positive) else 1.0
    axes.set_xscale("symlog", linthresh=threshold)
    axes.set_xlim(left=-0.06 * threshold)
    ticks = [
        0,
        *[tick for tick in (0.1, 1, 10, 100, 1000) if len(positive) and positive.min() <= tick <= positive.max()],
    ]
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_xlabel(LABELS["aux_weight"])


def _frame_sweeps(axes: Axes, record: StudyRecord, sweeps: Sequence[Sweep], measure: str) -> None:
    """Frame the sweeps, or all working trials where there is none: broken networks and other sizes lie far away."""
    tables = [sweep.included(measure) for sweep in sweeps] or [usable(record.trials, measure)]
    shown = pd.concat(tables)
    values = pd.concat([shown[measure] + sign * shown[f"{measure}_ci95"].fillna(0) for sign in (-1, 1)]).dropna()
    if len(values) > 2:
        low, high = float(values.min()), float(values.max())
        margin = 0.08 * (high - low or abs(high) or 1.0)
        axes.set_ylim(low - margin, high + margin)
