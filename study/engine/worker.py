"""The work of a worker, with any runner: run a trial and write its files, or estimate an rlct again."""

import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.layout import Artifact
from analysis.traces import draw_rlct_trace
from study.engine.resources import Device
from study.engine.runner import Estimated, StudyData
from study.record.outcome import EstimateOutcome, Outcome, Progress, RlctOutcome
from trainables.checkpoint import FILE_NAME as WEIGHTS_FILE
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import RlctConfig
from trainables.experiment import ExperimentResult, estimate_rlct_again, run_experiment
from trainables.rlct import RlctEstimate
from trainables.snapshot import SnapshotFile
from trainables.trial import TrialConfig

# Seconds between two reports: a worker may have to wait until the driver has taken one.
REPORT_INTERVAL = 4.0


def run_trial(
    config: TrialConfig,
    data: StudyData,
    device: Device,
    report: Callable[[Progress], None],
    folder: Path,
    node: str = "",
    snapshot_file: SnapshotFile | None = None,
) -> tuple[Outcome, Progress]:
    """Run a trial and write its files for the record into `folder`; return the outcome and the unreported progress.

    With a `snapshot_file` it goes on from the newest snapshot of the trial, and reports all epochs again from the
    first. Who records the outcome removes the snapshots then.
    """
    device.prepare()
    reporter = _Reporter(config, report)
    result = run_experiment(config, data.data, device.torch_name, reporter.on_epoch, reporter.on_draw, snapshot_file)
    outcome = Outcome.of(result, device.hardware(), node)
    write_files(folder, result, outcome, data)
    return outcome, reporter.take("recording")


def estimate_again(weights: bytes, data: StudyData, settings: RlctConfig, device: Device, node: str = "") -> Estimated:
    """Estimate the rlct of a trained trial, given the content of its checkpoint."""
    device.prepare()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / WEIGHTS_FILE
        file.write_bytes(weights)
        checkpoint = load_checkpoint(file, data.digest)
    estimate = estimate_rlct_again(checkpoint, data.data, settings, device.torch_name)
    seconds = time.perf_counter() - started
    outcome = EstimateOutcome(RlctOutcome.of(estimate), seconds, device.hardware(), socket.gethostname(), node)
    return Estimated(outcome, trace_table(estimate))


def write_files(folder: Path, result: ExperimentResult, outcome: Outcome, data: StudyData) -> None:
    """Write a trial's files for the record: weights, every epoch, every draw of the rlct sampler, a picture."""
    weights = folder / Artifact.CHECKPOINT
    weights.parent.mkdir()
    save_checkpoint(weights.parent, result.network, result.config, data.digest, data.data.shape.inputs)
    history_table(result).to_parquet(folder / Artifact.HISTORY, index=False)
    (folder / Artifact.OUTCOME).write_text(outcome.to_json())
    write_trace(folder, trace_table(result.rlct), outcome.rlct)


def write_trace(folder: Path, trace: pd.DataFrame, rlct: RlctOutcome) -> None:
    """Write every draw of an estimate, and the picture of it."""
    file = folder / Artifact.RLCT_TRACE
    file.parent.mkdir()
    trace.to_parquet(file, index=False)
    draw_rlct_trace(trace, folder / Artifact.RLCT_PICTURE, rlct.estimates, rlct.standard_errors, rlct.verdicts)


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

    Columns: the loss of the draw and of the trained weights on its batch, in nats, and whether the draw is kept.
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
    """Collects epochs and reports them at most once per interval."""

    def __init__(self, config: TrialConfig, report: Callable[[Progress], None]):
        self._config = config
        self._report = report
        self._epochs: list[dict[str, list[float]]] = []
        self._host = socket.gethostname()
        self._last_report = time.monotonic()

    def on_epoch(self, epoch: int, metrics: dict[str, np.ndarray]) -> None:
        self._epochs.append({name: values.tolist() for name, values in metrics.items()})
        self._report_if_due(f"epoch {epoch}/{self._config.training.epochs}")

    def on_draw(self, draw: int) -> None:
        self._report_if_due(f"rlct {draw}/{self._config.rlct.draws}")

    def take(self, stage: str) -> Progress:
        """The epochs that have not been reported yet."""
        epochs, self._epochs = self._epochs, []
        return Progress(stage, epochs, self._host)

    def _report_if_due(self, stage: str) -> None:
        if time.monotonic() - self._last_report >= REPORT_INTERVAL:
            self._report(self.take(stage))
            self._last_report = time.monotonic()
