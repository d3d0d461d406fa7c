"""Rlct estimates made again after the trials, with other settings of the sampler."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from analysis.errors import AnalysisError
from analysis.layout import CHAIN_ERROR_SUFFIX, ERROR_SUFFIX, ESTIMATED, Artifact, Tag
from analysis.tracking import typed

CHAIN_ERROR = ESTIMATED + CHAIN_ERROR_SUFFIX
# Columns of a table of estimates that are not settings.
RESULTS = (
    "settings_key",
    "trial_key",
    "replicate",
    ESTIMATED,
    CHAIN_ERROR,
    Tag.VERDICT.value,
    "trial_verdict",
    "trial_status",
    "nbeta_value",
    "run_id",
)


def reestimates_with(client: MlflowClient, runs: Sequence[Run], key: str) -> pd.DataFrame:
    """The estimates made again with the settings of this key, one row per replicate: RESULTS, and a column per setting.

    `runs` are those of estimates. Keys of several settings, 'a+b', are for trials with different settings, such as
    those of two tasks: each trial has its latest estimate with one of them.

    Raises:
        AnalysisError: there are none; the message lists the settings with estimates.
    """
    finished = [run for run in runs if run.info.status == "FINISHED"]
    # Two drivers may have made the same estimate: take the latest.
    latest = {
        run.data.tags[Tag.TRIAL_KEY]: run
        for run in reversed(finished)
        if run.data.tags[Tag.RLCT_SETTINGS] in key.split("+")
    }
    if not latest:
        known = {run.data.tags[Tag.RLCT_SETTINGS]: settings_of(run) for run in finished}
        listed = "".join(f"\n  {name}: {_in_words(settings)}" for name, settings in sorted(known.items()))
        raise AnalysisError(
            f"no rlct was estimated with the settings {key!r}; "
            + (f"there are:{listed}" if known else "none was estimated again (python -m study rlct estimate).")
        )
    return pd.DataFrame([row for run in latest.values() for row in _rows(client, run)])


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of the sampler that an estimate was made with, by name."""
    prefix = f"{ESTIMATED}_"
    return {
        name.removeprefix(prefix): typed(value)
        for name, value in sorted(run.data.params.items())
        if name.startswith(prefix)
    }


def settings_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table of estimates that are settings."""
    return [name for name in table.columns if name not in RESULTS]


def trace_of(client: MlflowClient, run_id: str) -> pd.DataFrame:
    """Every draw of an estimate: draw, replicate, chain, loss and start_loss (nats), kept."""
    with tempfile.TemporaryDirectory() as folder:
        return pd.read_parquet(client.download_artifacts(run_id, Artifact.RLCT_TRACE, folder))


def _rows(client: MlflowClient, run: Run) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        file = client.download_artifacts(run.info.run_id, Artifact.ESTIMATE, folder)
        estimate = json.loads(Path(file).read_text(encoding="utf-8"))
    # Older estimates use, for the error over chains, the name that trials use for the error over replicates.
    errors = estimate.get(CHAIN_ERROR) or estimate[ESTIMATED + ERROR_SUFFIX]
    tags = run.data.tags
    common = {
        "settings_key": tags[Tag.RLCT_SETTINGS],
        "trial_key": tags[Tag.TRIAL_KEY],
        "trial_verdict": tags[Tag.VERDICT],
        "trial_status": tags[Tag.STATUS],
        "nbeta_value": float(tags[Tag.NBETA]),
        "run_id": run.info.run_id,
    } | settings_of(run)
    values = zip(estimate[ESTIMATED], errors, estimate[Tag.VERDICT], strict=True)
    return [
        common | {"replicate": index, ESTIMATED: value, CHAIN_ERROR: error, Tag.VERDICT.value: verdict}
        for index, (value, error, verdict) in enumerate(values)
    ]


def _in_words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
