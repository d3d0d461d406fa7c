"""Which settings of the rlct sampler can be trusted, from estimates of the same networks under a grid of them.

A step must be small enough for the curvature, and large enough that the chains settle. Between these limits the
estimate does not depend on the step. So settings are stable if their verdicts are sound and a neighbouring step size,
also sound, gives the same values. Localisation γ and inverse temperature nβ are part of what is measured: the estimate
may change with them, but the order of the trials should not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.description import Outcome
from analysis.layout import ESTIMATED, Level, Tag
from analysis.reestimates import CHAIN_ERROR, reestimates_with, settings_columns, trace_of
from analysis.statistics import Concordance, kendall_tau
from analysis.tracking import description_of, open_study, runs_at

VERDICT = Tag.VERDICT.value
# Settings are sound if at least this share of the networks has the best verdict.
SOUND_SHARE = 0.9
# Estimates agree if the typical change from one step size to the next is at most this.
SAME = 0.1
# The settings that span the grid.
GRID = ("step_size", "localization", "nbeta")


@dataclass(frozen=True)
class Calibration:
    """Estimates of T trials of R replicates under all settings of a grid."""

    study: str
    settings: pd.DataFrame  # one row per settings, from `judge_settings`
    networks: pd.DataFrame  # one row per settings, trial and replicate
    verdicts: tuple[Outcome, ...]  # all possible verdicts, from best to worst
    reference: str  # key of the settings with whose order of trials the others are compared
    repeat: Concordance  # of the reference with its repeat under another seed: the effect of noise alone on the order
    proposed: str | None  # key of the settings to use; None if none is stable
    trial: str  # key of the trial with the traces
    traces: dict[str, pd.DataFrame]  # of this trial, by key of the settings

    @property
    def stable(self) -> pd.DataFrame:
        """The settings that are stable."""
        return self.settings[self.settings["stable"]]


def read_calibration(
    tracking_uri: str, study: str, keys: Sequence[str], reference: str, repeat: str, trials: Sequence[str]
) -> Calibration:
    """Read the estimates of some trials under the settings of a grid, and judge the settings.

    Args:
        tracking_uri: the tracking store.
        study: name of the study.
        keys: of the settings of the grid.
        reference: the one of these keys with whose order of trials the others are compared.
        repeat: key of the reference's settings with another seed.
        trials: keys of the trials.

    Raises:
        AnalysisError: the store cannot be read, or has no estimates for one of the keys.
    """
    client, runs = open_study(tracking_uri, study)
    verdicts = description_of(client, runs).verdicts
    estimates = [run for run in runs_at(runs, Level.ESTIMATE) if run.data.tags[Tag.TRIAL_KEY] in trials]
    networks = pd.concat([reestimates_with(client, estimates, key) for key in keys], ignore_index=True)
    means = _means(networks, reference)
    again = _means(reestimates_with(client, estimates, repeat), repeat)
    trial = str(means.sort_values().index[len(means) // 2])
    run_of = networks[networks["trial_key"] == trial].groupby("settings_key")["run_id"].first()
    settings = judge_settings(networks, reference, best=verdicts[0].name)
    return Calibration(
        study=study,
        settings=settings,
        networks=networks,
        verdicts=verdicts,
        reference=reference,
        repeat=kendall_tau(means, again),
        proposed=propose(settings),
        trial=trial,
        traces={str(key): trace_of(client, run) for key, run in run_of.items()},
    )


def judge_settings(networks: pd.DataFrame, reference: str, best: str) -> pd.DataFrame:
    """One row per settings: how sound and how stable the estimates are, and how they order the trials.

    `best` is the verdict of a sound estimate. Columns: settings_key, the settings, nbeta_value, trials, networks,
    sound_share, trouble (the commonest other verdict), rlct (mean), relative_se (median), change (to the next step
    size), stable, tau, tau_low, tau_high.
    """
    rows = [_judge_soundness(of_settings, best) for _, of_settings in networks.groupby("settings_key", sort=False)]
    table = pd.DataFrame(rows)
    fixed = [name for name in settings_columns(networks) if name != "step_size"]
    values = networks.pivot_table(index=["trial_key", "replicate"], columns="settings_key", values=ESTIMATED)
    table["change"] = [_change(settings, table, fixed, values) for _, settings in table.iterrows()]
    table["stable"] = (table["sound_share"] >= SOUND_SHARE) & (table["change"] <= SAME)
    orders = [kendall_tau(_means(networks, key), _means(networks, reference)) for key in table["settings_key"]]
    table["tau"] = [order.tau for order in orders]
    table["tau_low"] = [order.low for order in orders]
    table["tau_high"] = [order.high for order in orders]
    return table.sort_values(list(GRID), key=_sortable, ignore_index=True)


def propose(settings: pd.DataFrame) -> str | None:
    """The stable settings with the smallest standard error for the same work; None if no settings are stable."""
    stable = settings[settings["stable"]]
    return None if stable.empty else str(stable.sort_values("relative_se")["settings_key"].iloc[0])


def _judge_soundness(networks: pd.DataFrame, best: str) -> dict[str, object]:
    """The row for one set of settings, from its networks."""
    others = networks[networks[VERDICT] != best][VERDICT]
    common = ("settings_key", *settings_columns(networks), "nbeta_value")
    return {name: networks[name].iloc[0] for name in common} | {
        "trials": networks["trial_key"].nunique(),
        "networks": len(networks),
        "sound_share": float((networks[VERDICT] == best).mean()),
        "trouble": others.mode().iloc[0] if len(others) else "",
        ESTIMATED: float(networks[ESTIMATED].mean()),
        "relative_se": float((networks[CHAIN_ERROR] / networks[ESTIMATED].abs()).median()),
    }


def _change(settings: pd.Series, table: pd.DataFrame, fixed: list[str], values: pd.DataFrame) -> float:
    """Median change of a network's estimate to the neighbouring step size with the smaller change; NaN if no neighbour.

    Only sound neighbours count: values for a step size that does not work differ in any case.
    """
    alike = (table[fixed].astype(str) == settings[fixed].astype(str)).all(axis=1)
    steps = table[alike].sort_values("step_size", ignore_index=True)
    position = int(steps.index[steps["settings_key"] == settings["settings_key"]][0])
    neighbours = steps.iloc[[i for i in (position - 1, position + 1) if 0 <= i < len(steps)]]
    sound = neighbours[neighbours["sound_share"] >= SOUND_SHARE]["settings_key"]
    here = values[settings["settings_key"]]
    return min((float((values[other] / here - 1).abs().median()) for other in sound), default=math.nan)


def _sortable(column: pd.Series) -> pd.Series:
    # nβ may be a word: sort as text.
    return column.astype(str) if column.dtype == object else column


def _means(networks: pd.DataFrame, key: str) -> pd.Series:
    """The mean over replicates of each trial under some settings, by trial key."""
    return networks[networks["settings_key"] == key].groupby("trial_key")[ESTIMATED].mean()
