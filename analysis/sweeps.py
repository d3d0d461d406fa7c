"""Sweeps within a study: sets of trials that differ only in the weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.description import Dimension
from analysis.record import StudyRecord
from analysis.table import NO_TARGET

# Fewer weights make no sweep.
FEWEST_WEIGHTS = 3


@dataclass(frozen=True)
class Sweep:
    """Trials of one network, auxiliary task, target and options at different weights, with their baseline."""

    record: StudyRecord
    label: str
    trials: pd.DataFrame

    def included(self, measure: str) -> pd.DataFrame:
        """The trials that a curve of this measure is fitted to."""
        return self.record.usable(self.trials, measure)


def find_sweeps(record: StudyRecord) -> list[Sweep]:
    """All sets of trials that differ only in the weight, with at least FEWEST_WEIGHTS different weights."""
    description, weight = record.description, record.weight
    kinds = [description.auxiliary.name, description.target.name, *description.names_of("option")]
    sweeps = []
    for _, of_network in record.trials.groupby(list(description.names_of("network")), dropna=False):
        is_baseline = record.is_baseline(of_network)
        weighted = of_network[~is_baseline & (of_network[weight] > 0)]
        for _, alike in weighted.groupby(kinds, dropna=False):
            trials = pd.concat([of_network[is_baseline], alike]).sort_values(weight, ignore_index=True)
            if trials[weight].nunique() >= FEWEST_WEIGHTS:
                sweeps.append(Sweep(record, describe_trial(record, alike.iloc[0].to_dict()), trials))
    return sweeps


def describe_trial(record: StudyRecord, trial: Mapping[Any, Any]) -> str:
    """A trial in words, without its weight: network, auxiliary task and options, '1×32, target 2, head separate'."""
    return f"{record.network_of(trial)}, {_kind_of(record, trial)}"


def _kind_of(record: StudyRecord, trial: Mapping[Any, Any]) -> str:
    description = record.description
    auxiliary, target = description.auxiliary, description.target.name
    is_default = trial[auxiliary.name] == auxiliary.default
    if is_default and trial[target] == NO_TARGET:
        return "baseline"
    parts = [] if is_default else [str(trial[auxiliary.name])]
    if trial[target] != NO_TARGET:
        parts.append(f"{target} {trial[target]}")
    parts += [
        f"{option.name} {trial[option.name]}"
        for option in description.dimensions
        if option.role == "option" and not _is_default(option, trial[option.name])
    ]
    return ", ".join(parts)


def _is_default(dimension: Dimension, value: Any) -> bool:
    # A missing value may be NaN in a table.
    return bool(pd.isna(value)) if dimension.default is None else value == dimension.default
