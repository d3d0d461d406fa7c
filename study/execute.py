"""Carry out a plan: Ray Tune schedules the trials, the driver records what they report."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import ray
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, Stopper, TuneConfig
from ray.tune.experiment import Trial

from analysis.figures import draw_rlct_trace
from study.cluster import chatter_to, connect
from study.errors import StudyError
from study.optuna_store import open_storage, reconcile
from study.outcome import Outcome
from study.plan import Plan
from study.progress import StudyProgress
from study.record import Record
from study.resources import Resources
from study.search import StudySearch
from study.spec import Point
from study.stores import Stores
from study.trial import HISTORY_FILE, OUTCOME_FILE, TRACE_FILE, run_trial
from trainables.checkpoint import FILE_NAME as WEIGHTS_FILE
from trainables.trial import TrialConfig

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # The record is MLflow's; no CSV, JSON or TensorBoard.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # Objectives are known at a trial's end.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours to handle.
}


def execute(plan: Plan, record: Record, stores: Stores, resources: Resources, progress: StudyProgress) -> None:
    """Run what the plan says is missing; give back when all of it has ended.

    Raises:
        StudyError: a store or the cluster cannot be used. What has finished is kept.
        KeyboardInterrupt: the user stopped it. What has finished is kept.
    """
    spec = plan.spec
    stores.prepare()
    with chatter_to(stores.log_file(spec.name)):
        os.environ.update(TUNE_SETTINGS)
        storage = open_storage(stores.optuna_url)
        points = _points_to_run(plan, reconcile(spec, storage, plan.finished))
        record.open_study(spec, plan.data_digest)
        search = StudySearch(spec, plan.data_digest, storage, points, plan.finished)
        callback = _RecordCallback(record, search, progress)
        status = "KILLED"
        try:
            connect(resources)
            with callback.interruptible():
                _tuner(plan, stores, resources, search, callback, samples=max(plan.remaining, len(points))).fit()
            status = "FINISHED" if progress.failures == 0 and callback.error is None else "FAILED"
        except Exception:
            status = "FAILED"
            if callback.error is None:
                raise
        finally:
            try:
                record.close_study(status)
            except StudyError as error:
                # Where the record itself is what failed, its runs are closed when the study goes on.
                callback.error = callback.error or error
            ray.shutdown()
    if callback.error is not None:
        raise callback.error


def _tuner(
    plan: Plan, stores: Stores, resources: Resources, search: StudySearch, callback: "_RecordCallback", samples: int
) -> tune.Tuner:
    trainable = tune.with_parameters(
        run_trial,
        data=plan.data,
        data_digest=plan.data_digest,
        cpus=resources.cpus_per_trial,
        use_gpu=resources.gpus_per_trial > 0,
    )
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial}),
        tune_config=TuneConfig(
            search_alg=search,
            num_samples=samples,
            max_concurrent_trials=resources.concurrent,
            # A worker keeps its process, and the seconds of imports in it, from one trial to the next.
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config['key']}_{trial.trial_id}",
        ),
        run_config=RunConfig(
            name=plan.spec.name,
            storage_path=stores.ray_uri,
            callbacks=[callback],
            stop=_StopOnError(callback),
            # The same trial fails again: running the study again is the retry.
            failure_config=FailureConfig(max_failures=0),
            verbose=0,
        ),
    )


def _points_to_run(plan: Plan, interrupted: list[Point]) -> list[Point]:
    """The missing points, those first that an earlier run was at."""
    if plan.spec.is_enumerated:
        # Others were listed once, and are no longer.
        interrupted = [point for point in interrupted if point in plan.points]
    points: dict[str, Point] = {}
    for point in (*interrupted, *plan.missing):
        config = plan.spec.trial_config(point)
        if config is not None and (key := config.key(plan.data_digest)) not in plan.finished:
            points.setdefault(key, point)
    return list(points.values())


class _RecordCallback(Callback):
    """Hands every trial's events to the record, to Optuna and to the display."""

    def __init__(self, record: Record, search: StudySearch, progress: StudyProgress):
        self._record = record
        self._search = search
        self._progress = progress
        self._epochs_logged: dict[str, int] = {}
        self.error: Exception | None = None
        self.interrupted = False

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune pickles its callbacks for a restore. A study goes on from its record instead: keep nothing.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        key, config = _identity(trial)
        with self._error_kept():
            self._record.start_trial(key, config)
        self._epochs_logged[key] = 0
        self._progress.started(key, config)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        key, _ = _identity(trial)
        epochs = result.get("epochs", [])
        with self._error_kept():
            self._record.log_epochs(key, self._epochs_logged[key] + 1, epochs)
        self._epochs_logged[key] += len(epochs)
        self._progress.advanced(key, result.get("stage", "recording"))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if "outcome" not in trial.last_result:
            return  # Stopped with the study, before its end.
        key, config = _identity(trial)
        outcome = Outcome.from_json(trial.last_result["outcome"])
        assert trial.checkpoint is not None, "a trial's last report comes with its files"
        with self._error_kept(), trial.checkpoint.as_directory() as checkpoint, tempfile.TemporaryDirectory() as folder:
            _lay_out_artifacts(Path(checkpoint), Path(folder), outcome)
            self._record.finish_trial(key, config, outcome, Path(folder))
            # After the record: what Optuna has as complete is there.
            self._search.tell(trial.trial_id, outcome)
        self._progress.finished(key, config, outcome)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        key, config = _identity(trial)
        reason = Path(trial.error_file).read_text() if trial.error_file else "the worker left no traceback"
        with self._error_kept():
            self._record.fail_trial(key, reason)
        self._progress.failed(key, config, reason)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C end the study even where it strikes code that swallows it: the stopper sees it too."""

        def interrupt(signum: int, frame: object) -> None:
            self.interrupted = True
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        if self.interrupted:
            raise KeyboardInterrupt

    @contextmanager
    def _error_kept(self) -> Iterator[None]:
        """Ray Tune takes what a callback raises for the trial's failure, and goes on: keep it, to stop the study."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError):
                error = StudyError(
                    f"a trial's files cannot be written: {error}. Make room on the disk, then run the same command "
                    "again: finished trials are kept."
                )
            self.error = self.error or error
            raise error from None


class _StopOnError(Stopper):
    """Ends the study when its results cannot be kept, or the user has had enough."""

    def __init__(self, callback: _RecordCallback):
        self._callback = callback

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._callback.error is not None or self._callback.interrupted

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _identity(trial: Trial) -> tuple[str, TrialConfig]:
    return trial.config["key"], TrialConfig(**trial.config["trial"])


def _lay_out_artifacts(checkpoint: Path, folder: Path, outcome: Outcome) -> None:
    """Arrange a trial's files as the record shows them, and draw the picture of its rlct trace."""
    for name, target in (
        (WEIGHTS_FILE, f"checkpoint/{WEIGHTS_FILE}"),
        (HISTORY_FILE, HISTORY_FILE),
        (TRACE_FILE, "rlct/trace.parquet"),
        (OUTCOME_FILE, OUTCOME_FILE),
    ):
        (folder / target).parent.mkdir(exist_ok=True)
        shutil.copyfile(checkpoint / name, folder / target)
    draw_rlct_trace(
        pd.read_parquet(folder / "rlct" / "trace.parquet"),
        folder / "rlct" / "trace.png",
        estimates=outcome.rlct.estimates,
        errors=outcome.rlct.standard_errors,
        verdicts=outcome.rlct.verdicts,
    )
