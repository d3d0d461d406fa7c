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
from analysis.pages import render, save_csv, save_figure
from analysis.style import COLORS, GREY, STYLE
from analysis.text import with_limits
from analysis.traces import smooth_chains

# Background of a panel: settings are stable, only sound, or neither.
STABLE, SOUND, BROKEN = "#E3F4E8", "#FFFFFF", "#FBE9E3"


@dataclass(frozen=True)
class CalibrationReport:
    """The files that were written."""

    folder: Path
    page: Path


def write_calibration(calibration: Calibration, folder: Path, command: str) -> CalibrationReport:
    """Write calibration.html, its figures (PNG and PDF) and its tables (CSV) into `folder`.

    Raises:
        AnalysisError: the folder cannot be written.
    """
    figures = {"grid": draw_grid(calibration), "order": draw_order(calibration)}
    settings, networks = calibration.settings, calibration.networks
    proposed = settings[settings["settings_key"] == calibration.proposed]
    context = {
        "study": calibration.study,
        "trials": networks["trial_key"].nunique(),
        "networks": len(networks.drop_duplicates(["trial_key", "replicate"])),
        "trial": calibration.trial,
        "settings": settings.to_dict("records"),
        "best_verdict": calibration.verdicts[0].name,
        "reference": calibration.reference,
        "proposed": proposed.to_dict("records")[0] if len(proposed) else None,
        "conclusions": conclusions(calibration),
        "same": SAME,
        "sound_share": SOUND_SHARE,
        "command": command,
    }
    page = folder / "calibration.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        images = {name: save_figure(figure, folder, name) for name, figure in figures.items()}
        save_csv(settings, folder / "settings.csv")
        save_csv(networks, folder / "estimates.csv")
        page.write_text(render("calibration.html.j2", context | {"images": images}), encoding="utf-8")
    except OSError as error:
        raise AnalysisError(f"the calibration cannot be written to {folder}: {error.strerror}.") from error
    return CalibrationReport(folder, page)


def conclusions(calibration: Calibration) -> list[str]:
    """The results of the calibration, in sentences."""
    stable, settings = calibration.stable, calibration.settings
    lines = [f"{len(stable)} of {len(settings)} settings are stable.", _proposal(calibration)]
    others = stable[stable["settings_key"] != calibration.reference]
    if len(others):
        worst = others.sort_values("tau").iloc[0]
        lines.append(
            f"The order of the trials under stable settings against the study's own: Kendall's τ from "
            f"{with_limits(worst['tau'], worst['tau_low'], worst['tau_high'])} up to {others['tau'].max():.2f}."
        )
    again = calibration.repeat
    lines.append(
        "The study's own settings with another seed, the effect of noise alone: "
        f"τ = {with_limits(again.tau, again.low, again.high)} over {again.trials} trials."
    )
    return lines


def _proposal(calibration: Calibration) -> str:
    """Which settings to use, or what to try if none are stable."""
    settings, best_verdict = calibration.settings, calibration.verdicts[0].name
    if calibration.proposed is not None:
        best = settings[settings["settings_key"] == calibration.proposed].iloc[0]
        return (
            f"Proposed: step_size {best['step_size']:g}, localization {best['localization']:g}, nbeta {best['nbeta']} "
            f"(rlct {best['rlct']:.3g} on the average, standard error {best['relative_se']:.1%})."
        )
    sound = int((settings["sound_share"] >= SOUND_SHARE).sum())
    if sound:
        return f"{sound} are {best_verdict}, but none has such a neighbour that agrees: add step sizes between."
    trouble = settings["trouble"].mode().iloc[0]
    advice = {verdict.name: verdict.advice for verdict in calibration.verdicts}.get(trouble, "")
    return f"None is {best_verdict}, most are {trouble}. {advice}".rstrip()


def draw_grid(calibration: Calibration) -> Figure:
    """One panel per settings, with the chains of one trial's first replicate: step sizes across, γ and nβ down.

    Green panels are stable, white ones sound, red ones neither; the proposed settings have a thick frame.
    """
    table = calibration.settings
    steps = sorted(table["step_size"].unique())
    rows = list(dict.fromkeys(zip(table["localization"], table["nbeta"].astype(str), strict=True)))
    with matplotlib.rc_context(STYLE | {"font.size": 8}):
        figure = Figure(figsize=(1.2 + 2.3 * len(steps), 0.8 + 1.7 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), len(steps), sharex=True, sharey="row", squeeze=False)
        for axes in panels.ravel():
            axes.set_visible(False)
        chains = {str(settings["settings_key"]): _chains_of(settings, calibration) for _, settings in table.iterrows()}
        for _, settings in table.iterrows():
            row = rows.index((settings["localization"], str(settings["nbeta"])))
            axes = panels[row, steps.index(settings["step_size"])]
            axes.set_visible(True)
            _draw_chains(axes, settings, chains[settings["settings_key"]], calibration)
        for number, (localization, nbeta) in enumerate(rows):
            in_row = table[(table["localization"] == localization) & (table["nbeta"].astype(str) == nbeta)]
            panels[number, 0].set_ylabel(f"γ {localization:g}, nβ {nbeta}")
            _frame_row(panels[number, 0], in_row, chains, worst_verdict=calibration.verdicts[-1].name)
        for axes, step in zip(panels[-1], steps, strict=True):
            axes.set_xlabel(f"draw\nstep size {step:g}")
        figure.suptitle("nβ · (loss − loss of the trained weights), a line per chain; mean estimate of all networks")
    return figure


def draw_order(calibration: Calibration) -> Figure:
    """Kendall's τ between the reference's order of the trials and that of all other settings, with 95 % intervals."""
    table = calibration.settings.sort_values("tau", ignore_index=True)
    names = [f"step {row['step_size']:g}, γ {row['localization']:g}, nβ {row['nbeta']}" for _, row in table.iterrows()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 1.2 + 0.27 * len(table)), layout="constrained")
        axes = figure.subplots()
        for height, (_, settings) in enumerate(table.iterrows()):
            color = COLORS[2] if settings["stable"] else GREY
            axes.plot(settings["tau"], height, "o", color=color, markersize=5)
            axes.plot([settings["tau_low"], settings["tau_high"]], [height, height], color=color, linewidth=1.2)
        axes.axvline(calibration.repeat.tau, color=COLORS[1], linestyle="--", linewidth=1, label="another seed alone")
        axes.set_yticks(range(len(table)), labels=names)
        axes.set_xlim(-1.05, 1.05)
        axes.set_xlabel("Kendall's τ with the order under the study's own settings; green: stable")
        axes.legend(loc="lower left")
    return figure


def _draw_chains(axes: Axes, settings: pd.Series, chains: pd.DataFrame, calibration: Calibration) -> None:
    sound = settings["sound_share"] >= SOUND_SHARE
    axes.set_facecolor(STABLE if settings["stable"] else SOUND if sound else BROKEN)
    for number, chain in enumerate(chains.columns):
        axes.plot(chains.index, chains[chain], color=COLORS[number % len(COLORS)], linewidth=0.7)
    axes.axvspan(0, int(settings["draws"] * settings["burn_in_fraction"]), color=GREY, alpha=0.15, lw=0)
    verdicts = f"{settings['sound_share']:.0%} {calibration.verdicts[0].name}"
    verdicts += f", {settings['trouble']}" if settings["trouble"] else ""
    axes.set_title(f"{settings['rlct']:.3g} ± {settings['relative_se']:.0%}\n{verdicts}", fontsize=7)
    if settings["settings_key"] == calibration.proposed:
        for side in axes.spines.values():
            side.set(visible=True, linewidth=2.5, edgecolor=COLORS[2])


def _chains_of(settings: pd.Series, calibration: Calibration) -> pd.DataFrame:
    """The rise of the loss in units of the rlct, a column per chain of the first replicate, as a running mean."""
    trace = calibration.traces[settings["settings_key"]]
    first = trace[trace["replicate"] == 0]
    rise = first.assign(rise=settings["nbeta_value"] * (first["loss"] - first["start_loss"]))
    return smooth_chains(rise, "rise")


def _frame_row(axes: Axes, in_row: pd.DataFrame, chains: dict[str, pd.DataFrame], worst_verdict: str) -> None:
    """Frame the chains that work: those with the worst verdict (steps too large) lie far above."""
    working = in_row[in_row["trouble"] != worst_verdict]
    framed = working if len(working) else in_row
    top = max(float(np.nanmax(chains[key].to_numpy())) for key in framed["settings_key"])
    if math.isfinite(top) and top > 0:
        axes.set_ylim(-0.1 * top, 1.1 * top)
