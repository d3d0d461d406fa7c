"""Estimates of the rlct that were made again after their trials, with other settings."""

import ast
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from analysis.errors import AnalysisError

# The settings of an estimate, by their names in the configuration.
SETTINGS = (
    "sampler", "step_size", "localization", "nbeta", "chains", "draws", "burn_in_fraction", "batch_size", "seed",
)  # fmt: skip
ESTIMATE_FILE = "estimate.json"


def estimates_of(client: MlflowClient, runs: Sequence[Run], key: str) -> pd.DataFrame:
    """The estimates with the settings of that key, a row per replicate.

    Columns: settings (the key), trial_key, replicate, rlct, rlct_se, rlct_verdict, trial_verdict, run_id and SETTINGS.

    Raises:
        AnalysisError: there are none; the message lists the settings that there are.
    """
    finished = [run for run in runs if run.info.status == "FINISHED"]
    # The latest of those that two drivers may have made.
    chosen = {run.data.tags["trial_key"]: run for run in reversed(finished) if run.data.tags["rlct_settings"] == key}
    if not chosen:
        known = {run.data.tags["rlct_settings"]: run.data.params for run in finished}
        listed = "".join(f"\n  {name}: {_in_words(params)}" for name, params in sorted(known.items()))
        raise AnalysisError(
            f"no rlct was estimated with the settings {key!r}; "
            + (f"there are:{listed}" if known else "none was estimated again (python -m study rlct estimate).")
        )
    return pd.DataFrame([row for run in chosen.values() for row in _rows(client, run)])


def trace_of(client: MlflowClient, run_id: str) -> pd.DataFrame:
    """Every draw of an estimate: draw, replicate, chain, loss and start_loss (nats), kept."""
    with tempfile.TemporaryDirectory() as folder:
        return pd.read_parquet(client.download_artifacts(run_id, "rlct/trace.parquet", folder))


def typed(value: str) -> Any:
    """MLflow keeps every parameter as text: numbers, truth values and lists come back as what they were."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _rows(client: MlflowClient, run: Run) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        estimate = json.loads(Path(client.download_artifacts(run.info.run_id, ESTIMATE_FILE, folder)).read_text())
    common = {
        "settings": run.data.tags["rlct_settings"],
        "trial_key": run.data.tags["trial_key"],
        "trial_verdict": run.data.tags["rlct_verdict"],
        "trial_status": run.data.tags["status_detail"],
        "nbeta_value": float(run.data.tags["nbeta"]),
        "run_id": run.info.run_id,
    } | {name: typed(run.data.params[f"rlct_{name}"]) for name in SETTINGS}
    return [
        common | {"replicate": index, "rlct": value, "rlct_se": error, "rlct_verdict": verdict}
        for index, (value, error, verdict) in enumerate(
            zip(estimate["rlct"], estimate["rlct_se"], estimate["rlct_verdict"], strict=True)
        )
    ]


def _in_words(params: dict[str, str]) -> str:
    return ", ".join(f"{name} {params[f'rlct_{name}']}" for name in SETTINGS)
