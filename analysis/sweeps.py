"""Sweeps within a study: sets of trials that differ only in the weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.dimensions import is_default
from analysis.record import StudyRecord, named
from analysis.table import NO_TARGET
from analysis.values import groups

# Fewer weights make no sweep.
FEWEST_WEIGHTS = 3


@dataclass(frozen=True)
class Sweep:
    """Trials that agree in all but the weight, with their baseline."""

    record: StudyRecord
    label: str
    trials: pd.DataFrame

    def included(self, measure: str) -> pd.DataFrame:
        """The trials that a curve of this measure is fitted to."""
        return self.record.usable(self.trials, measure)


def find_sweeps(record: StudyRecord) -> list[Sweep]:
    """All sets of trials that differ only in the weight, with at least FEWEST_WEIGHTS different weights."""
    weight = record.weight
    sweeps = []
    for alike in groups(record.trials, record.conditions):
        is_baseline = record.is_baseline(alike)
        weighted = alike[~is_baseline & (alike[weight] > 0)]
        for variant in groups(weighted, record.variants):
            trials = pd.concat([alike[is_baseline], variant]).sort_values(weight, ignore_index=True)
            if trials[weight].nunique() >= FEWEST_WEIGHTS:
                sweeps.append(Sweep(record, describe_trial(record, variant.iloc[0].to_dict()), trials))
    return sweeps


def describe_trial(record: StudyRecord, trial: Mapping[Any, Any]) -> str:
    """A trial in words, without its weight: '1×32, target 2, head separate'.

    It names the network, the auxiliary task and its target; and the task, options and settings that tell trials apart,
    of the options those that are not at their default.
    """
    description, distinguishing = record.description, record.distinguishing
    tasks = [str(trial[name]) for name in description.names_of("task") if name in distinguishing]
    settings = [name for name in description.names_of("setting") if name in distinguishing]
    return ", ".join([*tasks, record.network_of(trial), _kind_of(record, trial), *named(trial, settings)])


def _kind_of(record: StudyRecord, trial: Mapping[Any, Any]) -> str:
    description = record.description
    auxiliary, target = description.auxiliary, description.target.name
    is_usual = is_default(auxiliary, trial[auxiliary.name])
    if is_usual and trial[target] == NO_TARGET:
        return "baseline"
    parts = [] if is_usual else [str(trial[auxiliary.name])]
    if trial[target] != NO_TARGET:
        parts.append(f"{target} {trial[target]}")
    options = [
        dimension.name
        for dimension in description.dimensions
        if dimension.role == "option"
        and dimension.name in record.distinguishing
        and not is_default(dimension, trial[dimension.name])
    ]
    return ", ".join([*parts, *named(trial, options)])
