"""The work of a worker, with any runner: run a trial and write its files, or estimate an rlct again."""

import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from analysis.layout import Artifact
from analysis.traces import draw_rlct_trace
from study.engine.resources import Device
from study.engine.runner import Estimated, StudyData
from study.errors import StudyError
from study.record.outcome import EstimateOutcome, Outcome, Progress, RlctOutcome, Stop
from study.search.stopping import EarlyStopping
from trainables.checkpoint import FILE_NAME as WEIGHTS_FILE
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import RlctConfig
from trainables.experiment import ExperimentResult, StoppedEarly, estimate_rlct_again, run_experiment
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
    stopping: EarlyStopping | None = None,
) -> tuple[Outcome, Progress]:
    """Run a trial and write its files for the record into `folder`; return the outcome and the unreported progress.

    With a `snapshot_file` it goes on from the newest snapshot of the trial, and reports all epochs again from the
    first. Who records the outcome removes the snapshots then.

    Where `stopping` says so after an epoch, the trial ends there, with its history and without weights and rlct.

    Raises:
        StudyError: the files cannot be written. Those of other trials could not be either.
    """
    device.prepare()
    reporter = _Reporter(config, report, stopping)
    try:
        result = run_experiment(
            config, data.data, device.torch_name, reporter.on_epoch, reporter.on_draw, snapshot_file
        )
    except StoppedEarly as stopped:
        assert reporter.stop is not None
        outcome = Outcome.of_stopped(stopped, reporter.stop, device.hardware(), node)
        with _writing_to(folder):
            _write_outcome(folder, stopped.history, config.seeds, outcome)
    else:
        outcome = Outcome.of(result, device.hardware(), node)
        with _writing_to(folder):
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
    _write_outcome(folder, result.history, result.config.seeds, outcome)
    write_trace(folder, trace_table(result.rlct), RlctOutcome.of(result.rlct))


def _write_outcome(folder: Path, history: Mapping[str, np.ndarray], seeds: Sequence[int], outcome: Outcome) -> None:
    history_table(history, seeds).to_parquet(folder / Artifact.HISTORY, index=False)
    (folder / Artifact.OUTCOME).write_text(outcome.to_json())


def write_trace(folder: Path, trace: pd.DataFrame, rlct: RlctOutcome) -> None:
    """Write every draw of an estimate, and the picture of it."""
    file = folder / Artifact.RLCT_TRACE
    file.parent.mkdir()
    trace.to_parquet(file, index=False)
    draw_rlct_trace(trace, folder / Artifact.RLCT_PICTURE, rlct.estimates, rlct.standard_errors, rlct.verdicts)


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """A disk that a trial's files cannot be written to, as StudyError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StudyError(
            f"a trial's files cannot be written to {folder.parent}: {error}. Make room there, or set TMPDIR to another "
            "folder; then run the same command again: finished trials are kept."
        ) from error


def history_table(history: Mapping[str, np.ndarray], seeds: Sequence[int]) -> pd.DataFrame:
    """A row per epoch and replicate: epoch (from 1), replicate, seed, and every metric, given each as (E, R)."""
    epochs, replicates = next(iter(history.values())).shape
    columns = {
        "epoch": np.repeat(np.arange(1, epochs + 1), replicates),
        "replicate": np.tile(np.arange(replicates), epochs),
        "seed": np.tile(seeds, epochs),
    }
    return pd.DataFrame(columns | {name: values.ravel() for name, values in history.items()})


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
    """Collects epochs and reports them at most once per interval; says when the trial is to be stopped early."""

    def __init__(self, config: TrialConfig, report: Callable[[Progress], None], stopping: EarlyStopping | None):
        self._config = config
        self._report = report
        self._stopping = stopping
        self.stop: Stop | None = None  # why it is stopped, once it is
        self._epochs: list[dict[str, list[float]]] = []
        self._host = socket.gethostname()
        self._last_report = time.monotonic()

    def on_epoch(self, epoch: int, metrics: dict[str, np.ndarray]) -> bool:
        values = {name: values.tolist() for name, values in metrics.items()}
        self._epochs.append(values)
        self._report_if_due(f"epoch {epoch}/{self._config.training.epochs}")
        if self._stopping is not None:
            reason = self._stopping.reason(epoch, self._config.seeds, values)
            self.stop = None if reason is None else Stop(reason, self._stopping.config.as_text())
        return self.stop is not None

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
