"""A study read from its record: what identifies a trial, what was measured, which values count."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from analysis.description import Description
from analysis.freshness import ReportSource
from analysis.layout import Tag

# Columns of both tables.
STATUS = Tag.STATUS.value
VERDICT = Tag.VERDICT.value


@dataclass(frozen=True)
class StudyRecord:
    """A study's finished trials. The meaning of columns, statuses and verdicts is in `description`."""

    study: str
    tags: dict[str, str]  # of the study's run: question, task, protocol, versions, …
    objectives: dict[str, str]  # name to "maximize" or "minimize"
    replicates: pd.DataFrame  # one row per replicate of a finished trial: dimensions, params, status, verdict, measures
    trials: pd.DataFrame  # one row per finished trial: dimensions, status, verdict; <measure>, _se, _ci95 per measure
    rlct_settings: dict[str, str]  # with which the rlct was estimated
    description: Description
    source: ReportSource

    @property
    def measures(self) -> list[str]:
        """The measures that some replicate has, in the order of display."""
        return self.description.measures_among(self.replicates.columns)

    @property
    def dimensions(self) -> list[str]:
        """The dimensions that differ between this study's trials; network, target and weight are always included."""
        always = {"network", "target", "weight"}
        return [
            dimension.name
            for dimension in self.description.dimensions
            if dimension.role in always or self.trials[dimension.name].nunique(dropna=False) > 1
        ]

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
        return trials[auxiliary.name].eq(auxiliary.default) & trials[weight.name].eq(weight.default)

    def network_of(self, trial: Mapping[Any, Any]) -> str:
        """The network of a trial: '1×32'."""
        return "×".join(str(trial[name]) for name in self.description.names_of("network"))

    def label_of(self, name: str) -> str:
        """The axis label of a measure or dimension, with its unit."""
        measure = self.description.measure(name)
        if measure is not None:
            layer = f" {name.removeprefix(measure.name)}" if measure.per_layer else ""
            return f"{measure.label}{layer}" + (f", {measure.unit}" if measure.unit else "")
        labels = {dimension.name: dimension.label for dimension in self.description.dimensions}
        return labels.get(name) or name

    def _measures_that(self, quality: Literal["performance", "simpler"]) -> list[str]:
        return [
            measure.name
            for measure in self.description.measures
            if getattr(measure, quality) and not measure.per_layer and measure.name in self.replicates.columns
        ]
