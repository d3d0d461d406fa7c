"""Which settings of the rlct sampler can be trusted, from estimates of the same networks under a grid of them.

A step must be small enough for the curvature and large enough to get anywhere; where both hold, the estimate does not
depend on it. So settings are stable if the verdicts are sound and a neighbouring step size, sound as well, gives the
same values. Localisation γ and inverse temperature nβ are part of what is measured: the estimate may change with them,
but the order of the trials should not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.estimates import SETTINGS, estimates_of, trace_of
from analysis.statistics import Concordance, kendall_tau
from analysis.table import open_study

# Share of the networks whose verdict must be sound.
SOUND_SHARE = 0.9
# Change of the typical estimate from one step size to the next that still counts as none.
SAME = 0.1
# What spans the grid.
GRID = ("step_size", "localization", "nbeta")


@dataclass(frozen=True)
class Calibration:
    """Estimates of T trials of R replicates under each settings of a grid."""

    study: str
    cells: pd.DataFrame  # a row per settings, as `judge_settings` gives it
    networks: pd.DataFrame  # a row per settings, trial and replicate
    reference: str  # key of the settings whose order of trials the others are held against
    repeat: Concordance  # of the reference with itself under another seed: what noise alone leaves of the order
    proposed: str | None  # key of the settings to use; None if none is stable
    trial: str  # key of the trial whose traces are shown
    traces: dict[str, pd.DataFrame]  # by settings, of that trial

    @property
    def stable(self) -> pd.DataFrame:
        """The cells that are stable."""
        return self.cells[self.cells["stable"]]


def read_calibration(
    tracking_uri: str, study: str, keys: Sequence[str], reference: str, repeat: str, trials: Sequence[str]
) -> Calibration:
    """Read the estimates of some trials under the settings of a grid, and judge each settings.

    Args:
        tracking_uri: the tracking store.
        study: name of the study.
        keys: of the settings that are the grid.
        reference: the key among them to hold the order of the trials against.
        repeat: key of the reference's settings with another seed.
        trials: keys of the trials.

    Raises:
        AnalysisError: the store cannot be read, or has no estimates for one of the keys.
    """
    client, runs = open_study(tracking_uri, study)
    of_trials = [run for run in runs if run.data.tags["level"] == "estimate" and run.data.tags["trial_key"] in trials]
    networks = pd.concat([estimates_of(client, of_trials, key) for key in keys], ignore_index=True)
    means = _means(networks, reference)
    again = _means(estimates_of(client, of_trials, repeat), repeat)
    trial = str(means.sort_values().index[len(means) // 2])
    run_of = networks[networks["trial_key"] == trial].set_index("settings")["run_id"].groupby(level=0).first()
    cells = judge_settings(networks, reference)
    return Calibration(
        study=study, cells=cells, networks=networks, reference=reference, repeat=kendall_tau(means, again),
        proposed=propose(cells), trial=trial, traces={str(key): trace_of(client, run) for key, run in run_of.items()},
    )  # fmt: skip


def judge_settings(networks: pd.DataFrame, reference: str) -> pd.DataFrame:
    """A row per settings of how sound and how stable its estimates are, and how they order the trials.

    Columns: settings (the key), SETTINGS, nbeta_value, trials, networks, sound_share, trouble (the commonest other
    verdict), rlct (mean), relative_se (median), change (to the next step size), stable, tau, tau_low, tau_high.
    """
    cells = pd.DataFrame([_cell(rows) for _, rows in networks.groupby("settings", sort=False)])
    values = networks.pivot_table(index=["trial_key", "replicate"], columns="settings", values="rlct")
    cells["change"] = [_change(cell, cells, values) for _, cell in cells.iterrows()]
    cells["stable"] = (cells["sound_share"] >= SOUND_SHARE) & (cells["change"] <= SAME)
    order = [kendall_tau(_means(networks, key), _means(networks, reference)) for key in cells["settings"]]
    for name in ("tau", "low", "high"):
        cells[name if name == "tau" else f"tau_{name}"] = [getattr(each, name) for each in order]
    return cells.sort_values(list(GRID), key=_sortable, ignore_index=True)


def propose(cells: pd.DataFrame) -> str | None:
    """The stable settings with the smallest standard error for the same work; None if no settings are stable."""
    stable = cells[cells["stable"]]
    return None if stable.empty else str(stable.sort_values("relative_se")["settings"].iloc[0])


def _cell(rows: pd.DataFrame) -> dict[str, object]:
    broken = rows[rows["rlct_verdict"] != "sound"]["rlct_verdict"]
    return {name: rows[name].iloc[0] for name in ("settings", *SETTINGS, "nbeta_value")} | {
        "trials": rows["trial_key"].nunique(),
        "networks": len(rows),
        "sound_share": float((rows["rlct_verdict"] == "sound").mean()),
        # The commonest of the other verdicts.
        "trouble": broken.mode().iloc[0] if len(broken) else "",
        "rlct": float(rows["rlct"].mean()),
        "relative_se": float((rows["rlct_se"] / rows["rlct"].abs()).median()),
    }


def _change(cell: pd.Series, cells: pd.DataFrame, values: pd.DataFrame) -> float:
    """Median change of a network's estimate to the neighbouring step size where it changes least; NaN without one.

    Only neighbours that are sound themselves count: beyond the edge of what works, values must differ.
    """
    fixed = [name for name in SETTINGS if name != "step_size"]
    row = cells[(cells[fixed] == cell[fixed]).all(axis=1)].sort_values("step_size", ignore_index=True)
    place = int(row.index[row["settings"] == cell["settings"]][0])
    neighbours = row.iloc[[i for i in (place - 1, place + 1) if 0 <= i < len(row)]]
    sound = neighbours[neighbours["sound_share"] >= SOUND_SHARE]["settings"]
    own = values[cell["settings"]]
    changes = [float((values[other] / own - 1).abs().median()) for other in sound]
    return min(changes, default=math.nan)


def _sortable(column: pd.Series) -> pd.Series:
    # nβ may be a word.
    return column.astype(str) if column.dtype == object else column


def _means(networks: pd.DataFrame, settings: str) -> pd.Series:
    """The mean over replicates of each trial under some settings, by trial key."""
    return networks[networks["settings"] == settings].groupby("trial_key")["rlct"].mean()
