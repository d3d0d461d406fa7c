"""What a worker runs.

A trial, its progress reported as it goes and its files in a checkpoint at the end; or an estimate of a trained one.
"""

import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ray import tune
from ray.tune import Checkpoint

from study.outcome import EstimateOutcome, Outcome, RlctOutcome
from trainables.checkpoint import FILE_NAME as WEIGHTS_FILE
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import RlctConfig
from trainables.experiment import ExperimentResult, estimate_rlct_again, run_experiment
from trainables.rlct import RlctEstimate
from trainables.tasks import TaskData
from trainables.trial import TrialConfig

# Seconds between two reports: a worker stands still until the driver has taken one.
REPORT_INTERVAL = 4.0
HISTORY_FILE = "history.parquet"
TRACE_FILE = "rlct_trace.parquet"
OUTCOME_FILE = "outcome.json"


def run_trial(suggestion: dict[str, Any], data: TaskData, data_digest: str, cpus: int, use_gpu: bool) -> None:
    """Run the trial that `suggestion` describes; report its epochs, and at the end its objectives and checkpoint."""
    config = TrialConfig(**suggestion["trial"])
    torch.set_num_threads(cpus)
    device = "cuda" if use_gpu else "cpu"
    reporter = _Reporter(config)
    result = run_experiment(config, data, device, reporter.on_epoch, reporter.on_draw)
    outcome = Outcome.of(result, torch.cuda.get_device_name() if use_gpu else "cpu")
    means = {name: float(np.mean(values)) for name, values in result.measurements.items()}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), result, outcome, data, data_digest)
        report = {**means, "epochs": reporter.take_epochs(), "outcome": outcome.to_json()}
        tune.report(report, checkpoint=Checkpoint.from_directory(folder))


def estimate_again(
    weights: bytes, data: TaskData, data_digest: str, settings: dict[str, Any], cpus: int, use_gpu: bool
) -> tuple[EstimateOutcome, pd.DataFrame]:
    """Estimate the rlct of a trained trial, given the content of its checkpoint; the estimate and its trace."""
    torch.set_num_threads(cpus)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / WEIGHTS_FILE
        file.write_bytes(weights)
        checkpoint = load_checkpoint(file, data_digest)
    estimate = estimate_rlct_again(checkpoint, data, RlctConfig(**settings), "cuda" if use_gpu else "cpu")
    seconds = time.perf_counter() - started
    device = torch.cuda.get_device_name() if use_gpu else "cpu"
    return EstimateOutcome(RlctOutcome.of(estimate), seconds, device, socket.gethostname()), trace_table(estimate)


def write_files(folder: Path, result: ExperimentResult, outcome: Outcome, data: TaskData, data_digest: str) -> None:
    """Write what the record keeps of a trial: weights, every epoch, every draw of the rlct sampler."""
    save_checkpoint(folder, result.network, result.config, data_digest, data.shape.inputs)
    history_table(result).to_parquet(folder / HISTORY_FILE, index=False)
    trace_table(result.rlct).to_parquet(folder / TRACE_FILE, index=False)
    (folder / OUTCOME_FILE).write_text(outcome.to_json())


def history_table(result: ExperimentResult) -> pd.DataFrame:
    """A row per epoch and replicate: epoch (from 1), replicate, seed, and every metric."""
    epochs, replicates = next(iter(result.history.values())).shape
    columns = {
        "epoch": np.repeat(np.arange(1, epochs + 1), replicates),
        "replicate": np.tile(np.arange(replicates), epochs),
        "seed": np.tile(result.config.seeds, epochs),
    }
    return pd.DataFrame(columns | {name: values.ravel() for name, values in result.history.items()})


def trace_table(estimate: RlctEstimate) -> pd.DataFrame:
    """A row per draw, replicate and chain.

    The loss of the draw and of the trained weights on its batch, in nats, and whether the estimate keeps it.
    """
    draws, replicates, chains = estimate.trace.loss.shape
    draw, replicate, chain = np.indices((draws, replicates, chains)).reshape(3, -1)
    return pd.DataFrame(
        {
            "draw": draw.astype(np.int32),
            "replicate": replicate.astype(np.int32),
            "chain": chain.astype(np.int32),
            "loss": estimate.trace.loss.astype(np.float32).ravel(),
            "start_loss": estimate.trace.start_loss.astype(np.float32).ravel(),
            "kept": draw >= estimate.config.burn_in,
        }
    )


class _Reporter:
    """Collects epochs and reports them to Ray Tune at most once per interval."""

    def __init__(self, config: TrialConfig):
        self._config = config
        self._epochs: list[dict[str, list[float]]] = []
        self._last_report = time.monotonic()

    def on_epoch(self, epoch: int, metrics: dict[str, np.ndarray]) -> None:
        self._epochs.append({name: values.tolist() for name, values in metrics.items()})
        self._report_if_due(f"epoch {epoch}/{self._config.training.epochs}")

    def on_draw(self, draw: int) -> None:
        self._report_if_due(f"rlct {draw}/{self._config.rlct.draws}")

    def take_epochs(self) -> list[dict[str, list[float]]]:
        """The epochs that were not reported yet."""
        epochs, self._epochs = self._epochs, []
        return epochs

    def _report_if_due(self, stage: str) -> None:
        if time.monotonic() - self._last_report >= REPORT_INTERVAL:
            tune.report({"stage": stage, "epochs": self.take_epochs()})
            self._last_report = time.monotonic()
