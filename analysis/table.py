"""The record as tidy tables: one row per replicate, one row per trial."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from analysis.errors import AnalysisError
from analysis.estimates import SETTINGS, estimates_of, typed
from analysis.statistics import interval_half_width, standard_error
from analysis.tracking import quieten_mlflow, search_all_runs

# Measured at the end of training, per replicate, in the order they are shown.
METRICS = (
    "val_accuracy",
    "test_accuracy",
    "weight_std",
    "rlct",
    "train_loss",
    "self_model_mse",
    "self_model_r2",
    "identity_distance",
    "epochs_trained",
    "generalization_gap",
    "gradient_norm_ratio",
    "gradient_cosine",
    "activation_norm",
    "dead_unit_share",
    "effective_rank",
    "observer_r2",
    "observer_agreement",
)
# Beside them, the spread of the weights of each hidden layer: this and the layer's name.
LAYER_WEIGHT_STD = "weight_std_"
# How a prediction is made, where something is predicted.
PUBLISHED_OPTIONS = {"detach_targets": True, "target_form": "raw", "unit_weighting": "mean", "head": "widened"}
OPTIONS = tuple(PUBLISHED_OPTIONS)
# What a trial is in the space: trials with the same values are one.
PLACE = ("hidden_layers", "width", "control", "target", "aux_weight", *OPTIONS)
# With these verdicts the number is no rlct: it is in no curve and on no front.
UNUSABLE_RLCT = ("not_a_minimum", "diverged")
NO_ESTIMATE = "not_estimated"
# Networks together, and in them the baseline first.
ORDER = ["hidden_layers", "width", "control", "aux_weight", "target", *OPTIONS]


@dataclass(frozen=True)
class StudyRecord:
    """A study as the tracking store has it."""

    study: str
    tags: dict[str, str]  # of the study's run: question, task, protocol, versions, …
    objectives: dict[str, str]  # name to "maximize" or "minimize"
    replicates: pd.DataFrame  # a row per replicate of a finished trial: place, params, status, METRICS, rlct_se
    trials: pd.DataFrame  # a row per finished trial: place, status, and mean, <metric>_se, <metric>_ci95 of METRICS
    rlct_settings: dict[str, str]  # that the rlct was estimated with

    @property
    def measures(self) -> list[str]:
        """METRICS, and the spread of the weights of each hidden layer."""
        layers = [name for name in self.replicates.columns if name.startswith(LAYER_WEIGHT_STD)]
        return [*METRICS, *layers]

    @property
    def place(self) -> list[str]:
        """The parts of a trial's place that tell the trials of this study apart, with those that any study has."""
        always = ("hidden_layers", "width", "target", "aux_weight")
        return [name for name in PLACE if name in always or self.trials[name].nunique() > 1]

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Which way each objective is better, in their order."""
        return ["maximize" if direction == "maximize" else "minimize" for direction in self.objectives.values()]

    @property
    def accuracy(self) -> str:
        """The accuracy to look at: of the validation split where there is one."""
        return "val_accuracy" if self.trials["val_accuracy"].notna().any() else "test_accuracy"


def read_record(tracking_uri: str, study: str, rlct: str | None = None) -> StudyRecord:
    """Read a study's finished trials.

    Args:
        tracking_uri: the tracking store.
        study: name of the study.
        rlct: key of the settings whose estimates, made again after the trials, to take instead of the trials' own. A
            trial that has none has no rlct then.

    Raises:
        AnalysisError: the store cannot be read, there is no such study in it, or it has no finished trial, or no
            estimate with these settings.
    """
    client, runs = open_study(tracking_uri, study)
    by_level: dict[str, list[Run]] = {"study": [], "trial": [], "replicate": [], "estimate": []}
    for run in runs:
        by_level.get(run.data.tags.get("level", ""), []).append(run)
    finished = {run.info.run_id: run for run in by_level["trial"] if run.info.status == "FINISHED"}
    if not finished or not by_level["study"]:
        raise AnalysisError(f"the study {study!r} has no finished trial yet: run it, then analyse it.")
    rows = [
        _replicate_row(study, run)
        for run in by_level["replicate"]
        if run.data.tags.get("mlflow.parentRunId") in finished
    ]
    replicates = pd.DataFrame(rows).sort_values([*ORDER, "trial_key", "replicate"], ignore_index=True)
    tags = by_level["study"][0].data.tags
    verdicts = {run.data.tags["trial_key"]: run.data.tags["rlct_verdict"] for run in finished.values()}
    settings = {
        name.removeprefix("rlct."): str(value)
        for name, value in json.loads(tags["protocol"]).items()
        if name.startswith("rlct.")
    }
    if rlct is not None:
        estimates = estimates_of(client, by_level["estimate"], rlct)
        replicates = _with_estimates(replicates, estimates)
        verdicts = dict(estimates.groupby("trial_key")["trial_verdict"].first())
        settings = {name: str(estimates[name].iloc[0]) for name in SETTINGS}
    trials = _trial_table(replicates, list(finished.values()), verdicts)
    return StudyRecord(study, tags, json.loads(tags["objectives"]), replicates, trials, settings)


def open_study(tracking_uri: str, study: str) -> tuple[MlflowClient, list[Run]]:
    """The tracking store, and all runs of a study in it.

    Raises:
        AnalysisError: the store cannot be read, or there is no such study in it.
    """
    if tracking_uri.startswith("sqlite:///") and not Path(urlsplit(tracking_uri).path[1:]).exists():
        raise AnalysisError(
            f"there is no record at {tracking_uri}: name the folder with --store, or run the study first."
        )
    quieten_mlflow()
    try:
        client = MlflowClient(tracking_uri)
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            names = sorted(e.name for e in client.search_experiments() if e.name != "Default")
            raise AnalysisError(
                f"{tracking_uri} has no study {study!r}; it has {', '.join(names) if names else 'none'}."
            )
        return client, search_all_runs(client, experiment.experiment_id)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise AnalysisError(f"the record at {tracking_uri} cannot be read: {str(error).splitlines()[0]}.") from error


def _replicate_row(study: str, run: Run) -> dict[str, Any]:
    tags, params = run.data.tags, {name: typed(value) for name, value in run.data.params.items()}
    depths = params.pop("target_depths", [])
    identity = {
        "study": study,
        "trial_key": tags["trial_key"],
        "replicate": int(tags["replicate"]),
        "target": "+".join(map(str, depths)) if depths else "none",
        "status_detail": tags["status_detail"],
        "rlct_verdict": tags["rlct_verdict"],
        "run_id": run.info.run_id,
    }
    params.pop("seeds", None)
    # Studies from before these were fields have the published values.
    params = {"control": "none", **PUBLISHED_OPTIONS} | params
    layers = [name for name in run.data.metrics if name.startswith(LAYER_WEIGHT_STD)]
    metrics = {name: run.data.metrics.get(name, float("nan")) for name in (*METRICS, "rlct_se", *layers)}
    return identity | params | metrics


def _with_estimates(replicates: pd.DataFrame, estimates: pd.DataFrame) -> pd.DataFrame:
    """The replicates with the rlct of other estimates, in the place of their own."""
    own = ["rlct", "rlct_se", "rlct_verdict"]
    joined = replicates.drop(columns=own).merge(
        estimates[["trial_key", "replicate", *own]], on=["trial_key", "replicate"], how="left"
    )
    joined["rlct_verdict"] = joined["rlct_verdict"].fillna(NO_ESTIMATE)
    return joined[replicates.columns]


def _trial_table(replicates: pd.DataFrame, runs: list[Run], verdicts: Mapping[str, str]) -> pd.DataFrame:
    by_trial = replicates.groupby("trial_key", sort=False)
    table = by_trial[list(PLACE)].first()
    table["replicates"] = by_trial.size()
    layers = [name for name in replicates.columns if name.startswith(LAYER_WEIGHT_STD)]
    for name in (*METRICS, *layers):
        table[name] = by_trial[name].mean()
        # A mean over some of the replicates would pass for one over all.
        table.loc[by_trial[name].count() < table["replicates"], name] = float("nan")
        table[f"{name}_se"] = by_trial[name].apply(standard_error)
        table[f"{name}_ci95"] = by_trial[name].apply(interval_half_width)
    # Dozens of columns put in one by one lie scattered in memory.
    table = table.copy()
    of_run = {run.data.tags["trial_key"]: run for run in runs}
    table["status_detail"] = [of_run[key].data.tags["status_detail"] for key in table.index]
    table["rlct_verdict"] = [verdicts.get(key, NO_ESTIMATE) for key in table.index]
    table["seconds"] = [of_run[key].data.metrics["seconds"] for key in table.index]
    table["run_id"] = [of_run[key].info.run_id for key in table.index]
    return table.reset_index().sort_values(ORDER, ignore_index=True)
