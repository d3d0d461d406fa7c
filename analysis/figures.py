"""The figures of a study. Each public function draws one and returns it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.fits import CurveFits
from analysis.record import StudyRecord
from analysis.style import COLORS, GREY, STYLE
from analysis.sweeps import Sweep

PANELS_PER_ROW = 3
# Inches.
PANEL_WIDTH, PANEL_HEIGHT = 4.2, 3.6


def measures_against_weight(record: StudyRecord) -> list[str]:
    """The measures drawn against the weight: performance, objectives, and those that tell how simple a network is."""
    performance = [record.performance] if record.performance else []
    return list(dict.fromkeys([*performance, *record.objectives, *record.complexities]))


def draw_against_weight(record: StudyRecord, sweeps: Sequence[Sweep], fits: Sequence[CurveFits]) -> Figure:
    """A panel per measure of `measures_against_weight`: means with 95 % intervals, and the best curve of each sweep.

    Trials outside the sweeps are grey dots. Trials whose value does not count are crosses; curves are fitted without
    them.
    """
    measures = measures_against_weight(record)
    with _panels(len(measures)) as (figure, panels):
        for axes, measure in zip(panels, measures, strict=True):
            _draw_other_trials(axes, record, sweeps, measure)
            for number, sweep in enumerate(sweeps):
                color = COLORS[number % len(COLORS)]
                _draw_sweep(axes, sweep, measure, color)
                for of_measure in fits:
                    if (of_measure.sweep, of_measure.measure) == (sweep.label, measure):
                        _draw_curve(axes, of_measure.best.curve, color)
            _weight_axis(axes, record)
            axes.set_ylabel(record.label_of(measure))
            _frame_sweeps(axes, record, sweeps, measure)
        _legend(figure, panels, first=[sweep.label for sweep in sweeps])
    return figure


def draw_tradeoff(record: StudyRecord, front: set[str]) -> Figure:
    """The first objective against each of the others, coloured by weight; trials on the Pareto front are ringed.

    A single objective is drawn against the weight.
    """
    first, *others = record.objectives
    trials = record.usable(record.trials)
    on_front = trials["trial_key"].isin(front).to_numpy()
    y, y_error = _counted(record, trials, first)
    columns = others or [record.weight]
    colors = np.log10(1 + trials[record.weight].to_numpy(float))
    # One scale for all panels: a trial that one of them lacks must not change the colours of the others.
    scale = Normalize(0.0, max(colors, default=1.0) or 1.0)
    with _panels(len(columns), share_y=True) as (figure, panels):
        for axes, column in zip(panels, columns, strict=True):
            x, x_error = _counted(record, trials, column) if others else (trials[column].to_numpy(float), None)
            axes.errorbar(x, y, xerr=x_error, yerr=y_error, fmt="none", ecolor=GREY, elinewidth=0.6, zorder=1)
            dots = axes.scatter(x, y, c=colors, norm=scale, cmap="viridis", s=36, zorder=2)
            axes.scatter(
                x[on_front],
                y[on_front],
                s=110,
                facecolors="none",
                edgecolors=COLORS[1],
                linewidths=1.4,
                zorder=3,
                label="Pareto-optimal" if others else "best",
            )
            if others:
                axes.set_xlabel(record.label_of(column))
            else:
                _weight_axis(axes, record)
        for axes in panels[::PANELS_PER_ROW]:
            axes.set_ylabel(record.label_of(first))
        _legend(figure, panels, first=[])
        bar = figure.colorbar(dots, ax=panels, label=record.weight)
        ticks = _color_ticks(max(trials[record.weight], default=0.0))
        bar.set_ticks(np.log10(1 + np.array(ticks)).tolist(), labels=[f"{tick:g}" for tick in ticks])
    return figure


@contextmanager
def _panels(count: int, share_y: bool = False) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with that many panels, in rows."""
    columns = min(PANELS_PER_ROW, count)
    rows = -(-count // columns)
    with matplotlib.rc_context(STYLE):
        size = (PANEL_WIDTH * max(columns, 1.3), 0.6 + PANEL_HEIGHT * rows)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
        panels = figure.subplots(rows, columns, sharey=share_y, squeeze=False).ravel().tolist()
        for axes in panels[count:]:
            axes.remove()
        yield figure, panels[:count]


def _legend(figure: Figure, panels: Sequence[Axes], first: Sequence[str]) -> None:
    """One legend for all panels, above them, these labels first."""
    by_label = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label in dict.fromkeys([*first, *by_label]) if label in by_label]
    handles = [by_label[label] for label in labels]
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels) or 1))


def _color_ticks(largest: float) -> list[float]:
    """Weights to label on a colour bar that ends at the largest weight."""
    steps = [step for step in (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000) if step <= largest]
    # With more labels, those near 0 would overlap.
    return sorted({0.0, *(steps[-5:] or [largest])})


def _counted(record: StudyRecord, trials: pd.DataFrame, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """The values and interval half-widths of a measure; NaN where the value does not count: then it is not drawn."""
    counts = trials["trial_key"].isin(record.usable(trials, measure)["trial_key"])
    value, half_width = trials[measure].where(counts), trials[f"{measure}_ci95"].where(counts)
    return value.to_numpy(float), half_width.to_numpy(float)


def _draw_sweep(axes: Axes, sweep: Sweep, measure: str, color: str) -> None:
    weight = sweep.record.weight
    counted = sweep.included(measure)
    axes.errorbar(
        counted[weight],
        counted[measure],
        yerr=counted[f"{measure}_ci95"],
        fmt="o",
        color=color,
        markersize=4.5,
        capsize=2,
        linewidth=1,
        label=sweep.label,
    )
    others = sweep.trials[~sweep.trials["trial_key"].isin(counted["trial_key"])].dropna(subset=[measure])
    if not others.empty:
        axes.plot(others[weight], others[measure], "x", color=color, markersize=6, label="broken, in no curve")


def _draw_curve(axes: Axes, curve: pd.DataFrame, color: str) -> None:
    axes.plot(curve["weight"], curve["value"], color=color, linewidth=1.6)
    axes.fill_between(curve["weight"], curve["low"], curve["high"], color=color, alpha=0.15, lw=0)


def _draw_other_trials(axes: Axes, record: StudyRecord, sweeps: Sequence[Sweep], measure: str) -> None:
    in_sweeps = {key for sweep in sweeps for key in sweep.trials["trial_key"]}
    others = record.trials[~record.trials["trial_key"].isin(in_sweeps)]
    if not others.empty:
        axes.plot(others[record.weight], others[measure], "o", color="#BBBBBB", markersize=3.5, label="other trials")


def _weight_axis(axes: Axes, record: StudyRecord) -> None:
    weights = record.trials[record.weight]
    positive = weights[weights > 0]
    # Linear near the baseline, logarithmic above it, so that the axis has a 0.
    threshold = float(positive.min()) if len(positive) else 1.0
    axes.set_xscale("symlog", linthresh=threshold)
    axes.set_xlim(left=-0.06 * threshold)
    powers = [10.0**power for power in range(-6, 7)]
    ticks = [0, *(tick for tick in powers if len(positive) and positive.min() <= tick <= positive.max())]
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_xlabel(record.label_of(record.weight))


def _frame_sweeps(axes: Axes, record: StudyRecord, sweeps: Sequence[Sweep], measure: str) -> None:
    """Frame the sweeps, or without sweeps all trials that count: broken networks and other sizes lie far away."""
    tables = [sweep.included(measure) for sweep in sweeps] or [record.usable(record.trials, measure)]
    framed = pd.concat(tables)
    half_width = framed[f"{measure}_ci95"].fillna(0)
    values = pd.concat([framed[measure] - half_width, framed[measure] + half_width]).dropna()
    if len(values) > 2:
        low, high = float(values.min()), float(values.max())
        margin = 0.08 * (high - low or abs(high) or 1.0)
        axes.set_ylim(low - margin, high + margin)
