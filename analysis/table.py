"""The record as tidy tables: one row per replicate, one row per trial."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from analysis.description import Description
from analysis.dimensions import columns_of_trials, without_what_a_trial_lacks
from analysis.errors import AnalysisError
from analysis.freshness import ReportSource
from analysis.layout import (
    CHAIN_ERROR_SUFFIX,
    ERROR_SUFFIX,
    ESTIMATED,
    NO_ESTIMATE,
    SEEDS,
    STOPPED_EARLY,
    TARGET_DEPTHS,
    Level,
    Tag,
)
from analysis.record import CAVEATS, STATUS, VERDICT, StudyRecord
from analysis.reestimates import CHAIN_ERROR, reestimates_with, settings_columns
from analysis.statistics import quantile
from analysis.tracking import description_of, open_study, runs_at, typed
from analysis.values import as_value, sortable, tidy

# The target of a trial without targets.
NO_TARGET = "none"


# How a trial ended: columns of the table of trials.
ENDS = (STATUS, VERDICT, CAVEATS, "seconds", "run_id")


def read_record(tracking_uri: str, study: str, rlct: str | None = None) -> StudyRecord:
    """Read a study's finished trials; of a trial that got more replicates, the run that has all of them.

    Args:
        tracking_uri: the tracking store.
        study: name of the study.
        rlct: key of settings, or several as 'a+b'; estimates made again with these replace the trials' own. A trial
            without such an estimate then has no rlct.

    Raises:
        AnalysisError: the store cannot be read; the study is not in it, has no finished trial or no estimate with these
            settings; or an objective is not described.
    """
    client, runs = open_study(tracking_uri, study)
    study_runs = runs_at(runs, Level.STUDY)
    finished = {run.info.run_id: run for run in runs_at(runs, Level.TRIAL) if run.info.status == "FINISHED"}
    if not finished or not study_runs:
        raise AnalysisError(f"the study {study!r} has no finished trial yet: run it, then analyse it.")
    tags = study_runs[0].data.tags
    objectives = json.loads(tags[Tag.OBJECTIVES])
    description = description_of(client, runs)
    _check_objectives(objectives, description)
    of_replicates = [run for run in runs_at(runs, Level.REPLICATE) if run.data.tags.get(Tag.PARENT) in finished]
    replicates = _replicate_table(study, of_replicates, description, objectives)
    ends = _ends_of(finished.values())
    settings = _protocol_settings(tags)
    if rlct is not None:
        replicates, verdicts, settings = _with_reestimates(replicates, client, runs, rlct)
        ends = ends.drop(columns=CAVEATS, errors="ignore")
        ends[VERDICT] = [verdicts.get(key, NO_ESTIMATE) for key in ends.index]
    trials = trial_table(replicates, description, ends)
    times = {str(run_id): finished[run_id].info.end_time for run_id in trials["run_id"]}
    source = ReportSource(times, objectives, tags.get(Tag.QUESTION, ""), rlct)
    digests = {
        (run.data.tags[Tag.TASK], run.data.tags[Tag.DATA_DIGEST])
        for run in finished.values()
        if {Tag.TASK, Tag.DATA_DIGEST} <= run.data.tags.keys()
    }
    return StudyRecord(study, tags, objectives, replicates, trials, settings, description, source, frozenset(digests))


def _check_objectives(objectives: Mapping[str, str], description: Description) -> None:
    for name in objectives:
        if description.measure(name) is None:
            known = ", ".join(measure.name for measure in description.measures)
            raise AnalysisError(f"the record does not describe its objective {name!r}; it describes {known}.")


def _protocol_settings(tags: Mapping[str, str]) -> dict[str, str]:
    """The settings of the rlct that all trials share."""
    prefix = f"{ESTIMATED}."
    protocol = json.loads(tags[Tag.PROTOCOL])
    # A setting that differs between the tasks of a study is a mapping.
    shared = {name: value for name, value in protocol.items() if not isinstance(value, dict)}
    return {name.removeprefix(prefix): str(value) for name, value in shared.items() if name.startswith(prefix)}


def _ends_of(runs: Iterable[Run]) -> pd.DataFrame:
    """How each trial ended, by its key: status, verdict, seconds and the id of its run."""
    rows = [
        {
            "trial_key": run.data.tags[Tag.TRIAL_KEY],
            STATUS: run.data.tags[Tag.STATUS],
            VERDICT: run.data.tags[Tag.VERDICT],
            "seconds": run.data.metrics.get("seconds", np.nan),
            "run_id": run.info.run_id,
        }
        | ({CAVEATS: run.data.tags[Tag.CAVEATS]} if Tag.CAVEATS in run.data.tags else {})
        for run in runs
    ]
    return pd.DataFrame(rows).set_index("trial_key")


def _replicate_table(
    study: str, runs: Sequence[Run], description: Description, objectives: Mapping[str, str]
) -> pd.DataFrame:
    table = pd.DataFrame([_replicate_row(study, run, description) for run in runs])
    return arranged(table, description, objectives)


def arranged(table: pd.DataFrame, description: Description, objectives: Iterable[str]) -> pd.DataFrame:
    """A table of replicates with its columns and rows in order: measures last, rows by dimensions."""
    order = [dimension.name for dimension in description.dimensions]
    table = without_what_a_trial_lacks(table, description)
    table = table.assign(**{name: tidy(table[name]) for name in order})
    # An objective is a column even if no replicate has a finite value.
    measured = description.measures_among(dict.fromkeys([*table.columns, *objectives]))
    errors = [name for name in table.columns if name.endswith(CHAIN_ERROR_SUFFIX)]
    others = [name for name in table.columns if name not in (*measured, *errors)]
    table = table.reindex(columns=[*others, *measured, *errors])
    return table.sort_values([*order, "trial_key", "replicate"], key=sortable, ignore_index=True)


def _replicate_row(study: str, run: Run, description: Description) -> dict[str, Any]:
    tags, params = run.data.tags, {name: as_value(typed(value)) for name, value in run.data.params.items()}
    params.pop(SEEDS, None)
    depths = params.pop(TARGET_DEPTHS, "")
    identity = {
        "study": study,
        "trial_key": tags[Tag.TRIAL_KEY],
        "replicate": int(tags[Tag.REPLICATE]),
        STATUS: tags[Tag.STATUS],
        VERDICT: tags[Tag.VERDICT],
        "run_id": run.info.run_id,
    }
    # Runs from before a dimension was introduced have its default.
    dimensions = {
        dimension.name: params.pop(dimension.name, as_value(dimension.default)) for dimension in description.dimensions
    }
    dimensions[description.target.name] = depths or NO_TARGET
    # Of a trial that was stopped early, they are of an early epoch: not to be compared with those of a trained network.
    measured = {} if tags[Tag.STATUS] == STOPPED_EARLY else run.data.metrics
    metrics = {name: measured[name] for name in description.measures_among(measured)}
    return identity | dimensions | params | metrics | _chain_errors(measured, description)


def _chain_errors(metrics: Mapping[str, float], description: Description) -> dict[str, float]:
    """The standard errors of a replicate's values, under names different from those of errors over replicates."""
    errors = {}
    for measure in description.measures:
        # Older runs use the name that trials use for the error over replicates.
        names = (measure.error, measure.name + ERROR_SUFFIX) if measure.error else ()
        found = [metrics[name] for name in names if name in metrics]
        if found:
            errors[measure.name + CHAIN_ERROR_SUFFIX] = found[0]
    return errors


def _with_reestimates(
    replicates: pd.DataFrame, client: MlflowClient, runs: list[Run], key: str
) -> tuple[pd.DataFrame, dict[str, str], dict[str, str]]:
    """The replicates with the rlct replaced by other estimates, the trials' verdicts, and the settings."""
    estimates = reestimates_with(client, runs_at(runs, Level.ESTIMATE), key)
    replaced = [ESTIMATED, CHAIN_ERROR, VERDICT]
    joined = replicates.drop(columns=replaced, errors="ignore").merge(
        estimates[["trial_key", "replicate", *replaced]], on=["trial_key", "replicate"], how="left"
    )
    joined[VERDICT] = joined[VERDICT].fillna(NO_ESTIMATE)
    columns = [*replicates.columns, *(name for name in replaced if name not in replicates.columns)]
    verdicts = dict(zip(estimates["trial_key"], estimates["trial_verdict"], strict=True))
    shared = [name for name in settings_columns(estimates) if estimates[name].astype(str).nunique() == 1]
    settings = {name: str(estimates[name].iloc[0]) for name in shared}
    return joined[columns], verdicts, settings


def trial_table(replicates: pd.DataFrame, description: Description, ends: pd.DataFrame) -> pd.DataFrame:
    """One row per trial: dimensions, means over replicates with their errors, and how it ended.

    Args:
        replicates: one row per replicate.
        description: of the record.
        ends: status, verdict, seconds and run_id by trial key.
    """
    measures = description.measures_among(replicates.columns)
    by_trial = replicates.groupby("trial_key", sort=False)
    count = by_trial.size()
    # A mean over some of the replicates would look like a mean over all.
    complete = by_trial[measures].count().eq(count, axis=0)
    means = by_trial[measures].mean().where(complete)
    errors = by_trial[measures].sem().where(complete)
    half_widths = errors.mul(quantile(count.to_numpy() - 1), axis=0)
    statistics = [means, errors.add_suffix(ERROR_SUFFIX), half_widths.add_suffix("_ci95")]
    columns = [f"{name}{suffix}" for name in measures for suffix in ("", ERROR_SUFFIX, "_ci95")]
    of_trials = replicates.drop_duplicates("trial_key").set_index("trial_key")
    dimensions = columns_of_trials(description, of_trials)
    parts = [
        of_trials[dimensions],
        count.rename("replicates"),
        pd.concat(statistics, axis=1)[columns],
        ends.loc[count.index, [*(name for name in ENDS if name in ends)]],
    ]
    return pd.concat(parts, axis=1).reset_index().sort_values(dimensions, key=sortable, ignore_index=True)
