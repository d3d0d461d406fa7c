"""The pictures and the page of a calibration."""

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.calibration import SAME, SOUND_SHARE, Calibration
from analysis.errors import AnalysisError
from analysis.figures import COLORS, STYLE, smooth_chains
from analysis.report import as_data_uri, render

# Background of a cell's panel: stable, sound alone, neither.
STABLE, SOUND, BROKEN = "#E3F4E8", "#FFFFFF", "#FBE9E3"


@dataclass(frozen=True)
class CalibrationReport:
    """What was written."""

    folder: Path
    page: Path


def write_calibration(calibration: Calibration, folder: Path, command: str) -> CalibrationReport:
    """Write calibration.html, its figures (PNG and PDF) and its tables (CSV) into `folder`.

    Raises:
        AnalysisError: the folder cannot be written.
    """
    figures = {"grid": draw_grid(calibration), "order": draw_order(calibration)}
    proposed = calibration.cells[calibration.cells["settings"] == calibration.proposed]
    context = {
        "study": calibration.study,
        "trials": calibration.networks["trial_key"].nunique(),
        "networks": len(calibration.networks.drop_duplicates(["trial_key", "replicate"])),
        "trial": calibration.trial,
        "cells": calibration.cells.to_dict("records"),
        "reference": calibration.reference,
        "proposed": proposed.to_dict("records")[0] if len(proposed) else None,
        "conclusions": conclusions(calibration),
        "same": SAME,
        "sound_share": SOUND_SHARE,
        "images": {name: as_data_uri(figure) for name, figure in figures.items()},
        "command": command,
    }
    page = folder / "calibration.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png")
            figure.savefig(folder / f"{name}.pdf")
        calibration.cells.to_csv(folder / "settings.csv", index=False)
        calibration.networks.to_csv(folder / "estimates.csv", index=False)
        page.write_text(render("calibration.html.j2", context), encoding="utf-8")
    except OSError as error:
        raise AnalysisError(f"the calibration cannot be written to {folder}: {error.strerror}.") from error
    return CalibrationReport(folder, page)


def conclusions(calibration: Calibration) -> list[str]:
    """What the calibration says, in sentences."""
    stable, cells = calibration.stable, calibration.cells
    lines = [f"{len(stable)} of {len(cells)} settings are stable."]
    if calibration.proposed is None:
        sound = int((cells["sound_share"] >= SOUND_SHARE).sum())
        if sound:
            lines.append(f"{sound} are sound, but none has a sound neighbour that agrees: add step sizes between.")
        else:
            trouble = cells["trouble"].mode().iloc[0]
            change = {"diverged": "smaller step sizes", "not_a_minimum": "networks that were trained longer"}
            lines.append(f"None is sound, most are {trouble}: try {change.get(trouble, 'more draws')}.")
    else:
        best = cells[cells["settings"] == calibration.proposed].iloc[0]
        lines.append(
            f"Proposed: step_size {best['step_size']:g}, localization {best['localization']:g}, nbeta {best['nbeta']} "
            f"(rlct {best['rlct']:.3g} on the average, standard error {best['relative_se']:.1%})."
        )
    others = stable[stable["settings"] != calibration.reference]
    if len(others):
        worst = others.sort_values("tau").iloc[0]
        lines.append(
            f"The order of the trials under stable settings against the study's own: Kendall's τ from "
            f"{with_limits(worst['tau'], worst['tau_low'], worst['tau_high'])} up to {others['tau'].max():.2f}."
        )
    again = calibration.repeat
    lines.append(
        "The study's own settings with another seed, which is what noise alone does: "
        f"τ = {with_limits(again.tau, again.low, again.high)} over {again.trials} trials."
    )
    return lines


def with_limits(value: float, low: float, high: float) -> str:
    """'0.79 (0.43 to 1.00)'."""
    return f"{value:.2f}" if math.isnan(low) else f"{value:.2f} ({low:.2f} to {high:.2f})"


def draw_grid(calibration: Calibration) -> Figure:
    """A panel per settings with the chains of one trial's first replicate: step sizes across, γ and nβ down.

    Green panels are stable, white ones sound, red ones neither; the proposed settings have a thick frame.
    """
    cells = calibration.cells
    steps = sorted(cells["step_size"].unique())
    rows = list(dict.fromkeys(zip(cells["localization"], cells["nbeta"].astype(str), strict=True)))
    with matplotlib.rc_context(STYLE | {"font.size": 8}):
        figure = Figure(figsize=(1.2 + 2.3 * len(steps), 0.8 + 1.7 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), len(steps), sharex=True, sharey="row", squeeze=False)
        for axes in panels.ravel():
            axes.set_visible(False)
        chains = {str(cell["settings"]): _chains_of(cell, calibration) for _, cell in cells.iterrows()}
        for _, cell in cells.iterrows():
            row = rows.index((cell["localization"], str(cell["nbeta"])))
            axes = panels[row, steps.index(cell["step_size"])]
            axes.set_visible(True)
            _draw_cell(axes, cell, chains[cell["settings"]], proposed=cell["settings"] == calibration.proposed)
        for number, (localization, nbeta) in enumerate(rows):
            shown = cells[(cells["localization"] == localization) & (cells["nbeta"].astype(str) == nbeta)]
            panels[number, 0].set_ylabel(f"γ {localization:g}, nβ {nbeta}")
            _frame_row(panels[number, 0], shown, chains)
        for axes, step in zip(panels[-1], steps, strict=True):
            axes.set_xlabel(f"draw\nstep size {step:g}")
        figure.suptitle("nβ · (loss − loss of the trained weights), a line per chain; mean estimate of all networks")
    return figure


def draw_order(calibration: Calibration) -> Figure:
    """Kendall's τ of every settings' order of the trials against that of the reference, with 95 % intervals."""
    cells = calibration.cells.sort_values("tau", ignore_index=True)
    names = [f"step {c['step_size']:g}, γ {c['localization']:g}, nβ {c['nbeta']}" for _, c in cells.iterrows()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 1.2 + 0.27 * len(cells)), layout="constrained")
        axes = figure.subplots()
        for place, (_, cell) in enumerate(cells.iterrows()):
            color = COLORS[2] if cell["stable"] else "#999999"
            axes.plot(cell["tau"], place, "o", color=color, markersize=5)
            axes.plot([cell["tau_low"], cell["tau_high"]], [place, place], color=color, linewidth=1.2)
        axes.axvline(calibration.repeat.tau, color=COLORS[1], linestyle="--", linewidth=1, label="another seed alone")
        axes.set_yticks(range(len(cells)), labels=names)
        axes.set_xlim(-1.05, 1.05)
        axes.set_xlabel("Kendall's τ with the order under the study's own settings; green: stable")
        axes.legend(loc="lower left")
    return figure


def _draw_cell(axes: Axes, cell: pd.Series, chains: pd.DataFrame, proposed: bool) -> None:
    axes.set_facecolor(STABLE if cell["stable"] else SOUND if cell["sound_share"] >= SOUND_SHARE else BROKEN)
    for number, chain in enumerate(chains.columns):
        axes.plot(chains.index, chains[chain], color=COLORS[number % len(COLORS)], linewidth=0.7)
    axes.axvspan(0, int(cell["draws"] * cell["burn_in_fraction"]), color="#999999", alpha=0.15, lw=0)
    verdicts = f"{cell['sound_share']:.0%} sound" + (f", {cell['trouble']}" if cell["trouble"] else "")
    axes.set_title(f"{cell['rlct']:.3g} ± {cell['relative_se']:.0%}\n{verdicts}", fontsize=7)
    if proposed:
        for side in axes.spines.values():
            side.set(visible=True, linewidth=2.5, edgecolor=COLORS[2])


def _chains_of(cell: pd.Series, calibration: Calibration) -> pd.DataFrame:
    """The rise of the loss in units of the rlct, a column per chain of the shown replicate, as a running mean."""
    trace = calibration.traces[cell["settings"]]
    first = trace[trace["replicate"] == 0]
    rise = first.assign(rise=cell["nbeta_value"] * (first["loss"] - first["start_loss"]))
    return smooth_chains(rise, "rise")


def _frame_row(axes: Axes, cells: pd.DataFrame, chains: dict[str, pd.DataFrame]) -> None:
    """Frame what works: chains whose steps are too large lie far above."""
    working = cells[cells["trouble"] != "diverged"]
    framed = working if len(working) else cells
    top = max(float(np.nanmax(chains[key].to_numpy())) for key in framed["settings"])
    if math.isfinite(top) and top > 0:
        axes.set_ylim(-0.1 * top, 1.1 * top)
