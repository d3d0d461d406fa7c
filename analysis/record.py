"""A study read from its record: what identifies a trial, what was measured, which values count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from analysis.description import Description
from analysis.dimensions import differs_in, is_default, shown_dimensions
from analysis.freshness import ReportSource
from analysis.layout import Tag
from analysis.values import as_text, groups, is_missing

# Columns of both tables.
STATUS = Tag.STATUS.value
VERDICT, CAVEATS = Tag.VERDICT.value, Tag.CAVEATS.value


@dataclass(frozen=True)
class StudyRecord:
    """The finished trials of a study, or of several. The meaning of columns and words is in `description`."""

    study: str  # its name; of several 'a+b'
    tags: dict[str, str]  # of the study's run: question, task, protocol, versions, …
    objectives: dict[str, str]  # name to "maximize" or "minimize"
    replicates: pd.DataFrame  # one row per replicate of a finished trial: dimensions, params, status, verdict, measures
    trials: pd.DataFrame  # one row per finished trial: dimensions, status, verdict; <measure>, _se, _ci95 per measure
    rlct_settings: dict[str, str]  # with which the rlct was estimated
    description: Description
    source: ReportSource
    data: frozenset[tuple[str, str]] = frozenset()  # each task of the trials with the digest of its data

    @property
    def measures(self) -> list[str]:
        """The measures that some replicate has, in the order of display."""
        return self.description.measures_among(self.replicates.columns)

    @cached_property
    def dimensions(self) -> list[str]:
        """The dimensions of interest in these trials: those that differ, and those that are always shown."""
        return shown_dimensions(self.description, self.trials)

    @cached_property
    def differing(self) -> list[str]:
        """The dimensions that differ between these trials."""
        dimensions = [dimension for dimension in self.description.dimensions if dimension.name in self.trials]
        return [dimension.name for dimension in dimensions if differs_in(self.trials, dimension)]

    @cached_property
    def distinguishing(self) -> list[str]:
        """The dimensions that tell trials apart: those that differ within a task, and the task if there are several.

        Tasks have recipes of their own: many settings differ between tasks alone.
        """
        within = {name for record in self.by_task().values() for name in record.differing}
        return [name for name in self.differing if name in within or name in self.description.names_of("task")]

    @property
    def conditions(self) -> list[str]:
        """The columns in which a trial agrees with its baseline: task, network and settings."""
        return [name for name in self.description.names_of("task", "network", "setting") if name in self.trials]

    @property
    def variants(self) -> list[str]:
        """The columns in which a trial may differ from its baseline, apart from the weight."""
        return [name for name in self.description.names_of("auxiliary", "target", "option") if name in self.trials]

    def by_task(self) -> dict[str, "StudyRecord"]:
        """By each task the record of its trials alone; the whole record if there is one task."""
        column = next((name for name in self.description.names_of("task") if name in self.trials), None)
        if column is None:
            return {self.tags.get(Tag.TASK, ""): self}
        return {str(trials[column].iloc[0]): self._with(trials) for trials in groups(self.trials, [column])}

    @property
    def weight(self) -> str:
        """The column of the auxiliary task's weight."""
        return self.description.weight.name

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Which way each objective is better, in their order."""
        return ["maximize" if direction == "maximize" else "minimize" for direction in self.objectives.values()]

    @property
    def performance(self) -> str | None:
        """The first described measure of performance that has values; None if there is none."""
        return next((name for name in self._measures_that("performance") if self.trials[name].notna().any()), None)

    @property
    def complexities(self) -> list[str]:
        """The measures of a whole network by which one is simpler than another."""
        return self._measures_that("simpler")

    def usable(self, trials: pd.DataFrame, *measures: str) -> pd.DataFrame:
        """The trials for which these measures count.

        A network that learned nothing is broken, not simple. An estimate with a bad verdict is no estimate.
        """
        count = trials[STATUS].isin(self.description.usable_statuses)
        if self.needs_verdict(*measures):
            count &= trials[VERDICT].isin(self.description.usable_verdicts)
        return trials[count]

    def needs_verdict(self, *measures: str) -> bool:
        """Whether the value of one of these measures counts only with a usable verdict."""
        found = (self.description.measure(name) for name in measures)
        return any(measure is not None and measure.needs_verdict for measure in found)

    def is_baseline(self, trials: pd.DataFrame) -> pd.Series:
        """Which trials are baselines: auxiliary task and weight have their defaults."""
        auxiliary, weight = self.description.auxiliary, self.description.weight
        is_usual = trials[auxiliary.name].map(lambda value: is_default(auxiliary, value)).astype(bool)
        return is_usual & trials[weight.name].eq(weight.default)

    def network_of(self, trial: Mapping[Any, Any]) -> str:
        """The network of a trial in words, '1×32, architecture convnet': its size, and what else tells it apart."""
        size = self.description.size_of_network
        of_network = self.description.names_of("network")
        others = [name for name in of_network if name in self.distinguishing and name not in size]
        parts = ["×".join(as_text(trial[name]) for name in size if not is_missing(trial[name])), *named(trial, others)]
        return ", ".join(part for part in parts if part)

    def label_of(self, name: str) -> str:
        """The axis label of a measure or dimension, with its unit."""
        measure = self.description.measure(name)
        if measure is not None:
            layer = f" {name.removeprefix(measure.name)}" if measure.per_layer else ""
            return f"{measure.label}{layer}" + (f", {measure.unit}" if measure.unit else "")
        labels = {dimension.name: dimension.label for dimension in self.description.dimensions}
        return labels.get(name) or name

    def _with(self, trials: pd.DataFrame) -> "StudyRecord":
        """The record of some of the trials."""
        replicates = self.replicates[self.replicates["trial_key"].isin(trials["trial_key"])]
        return replace(self, trials=trials.reset_index(drop=True), replicates=replicates.reset_index(drop=True))

    def _measures_that(self, quality: Literal["performance", "simpler"]) -> list[str]:
        return [
            measure.name
            for measure in self.description.measures
            if getattr(measure, quality) and not measure.per_layer and measure.name in self.replicates.columns
        ]


def named(trial: Mapping[Any, Any], names: Sequence[str]) -> list[str]:
    """'name value' of each dimension that has a value for the trial."""
    return [f"{name} {as_text(trial[name])}" for name in names if not is_missing(trial[name])]
