"""The record as tidy tables: one row per replicate, one row per trial."""

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

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
)
# What a trial is in the space: trials with the same values are one.
PLACE = ("hidden_layers", "width", "target", "aux_weight")
# Networks together, and in them the baseline first.
ORDER = ["hidden_layers", "width", "aux_weight", "target"]


class AnalysisError(RuntimeError):
    """The record cannot be analysed; the message says why and what to do."""


@dataclass(frozen=True)
class StudyRecord:
    """A study as the tracking store has it."""

    study: str
    tags: dict[str, str]  # of the study's run: question, task, protocol, versions, …
    objectives: dict[str, str]  # name to "maximize" or "minimize"
    replicates: pd.DataFrame  # a row per replicate of a finished trial: place, params, status, METRICS, rlct_se
    trials: pd.DataFrame  # a row per finished trial: place, status, and mean, <metric>_se, <metric>_ci95 of METRICS

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Which way each objective is better, in their order."""
        return ["maximize" if direction == "maximize" else "minimize" for direction in self.objectives.values()]

    @property
    def accuracy(self) -> str:
        """The accuracy to look at: of the validation split where there is one."""
        return "val_accuracy" if self.trials["val_accuracy"].notna().any() else "test_accuracy"


def read_record(tracking_uri: str, study: str) -> StudyRecord:
    """Read a study's finished trials.

    Raises:
        AnalysisError: the store cannot be read, there is no such study in it, or it has no finished trial.
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
        runs = search_all_runs(client, experiment.experiment_id)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise AnalysisError(f"the record at {tracking_uri} cannot be read: {str(error).splitlines()[0]}.") from error
    by_level: dict[str, list[Run]] = {"study": [], "trial": [], "replicate": []}
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
    return StudyRecord(
        study, tags, json.loads(tags["objectives"]), replicates, _trial_table(replicates, list(finished.values()))
    )


def _replicate_row(study: str, run: Run) -> dict[str, Any]:
    tags, params = run.data.tags, {name: _typed(value) for name, value in run.data.params.items()}
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
    metrics = {name: run.data.metrics.get(name, float("nan")) for name in (*METRICS, "rlct_se")}
    return identity | params | metrics


def _trial_table(replicates: pd.DataFrame, runs: list[Run]) -> pd.DataFrame:
    by_trial = replicates.groupby("trial_key", sort=False)
    table = by_trial[list(PLACE)].first()
    table["replicates"] = by_trial.size()
    for name in METRICS:
        table[name] = by_trial[name].mean()
        # A mean over some of the replicates would pass for one over all.
        table.loc[by_trial[name].count() < table["replicates"], name] = float("nan")
        table[f"{name}_se"] = by_trial[name].apply(standard_error)
        table[f"{name}_ci95"] = by_trial[name].apply(interval_half_width)
    of_run = {run.data.tags["trial_key"]: run for run in runs}
    table["status_detail"] = [of_run[key].data.tags["status_detail"] for key in table.index]
    table["rlct_verdict"] = [of_run[key].data.tags["rlct_verdict"] for key in table.index]
    table["seconds"] = [of_run[key].data.metrics["seconds"] for key in table.index]
    table["run_id"] = [of_run[key].info.run_id for key in table.index]
    return table.reset_index().sort_values(ORDER, ignore_index=True)


def _typed(value: str) -> Any:
    """MLflow keeps every parameter as text: numbers, truth values and lists come back as what they were."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
