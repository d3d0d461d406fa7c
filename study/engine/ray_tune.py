"""The runner on Ray: Ray Tune schedules the trials over a cluster and reports each to the driver."""

import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, Checkpoint, FailureConfig, RunConfig, Stopper, TuneConfig
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from study.engine.estimation import Job
from study.engine.ledger import Ledger
from study.engine.ray_cluster import connected
from study.engine.ray_estimates import run_estimates
from study.engine.resources import Device, Resources
from study.engine.runner import Estimated, StudyData
from study.errors import disk_errors
from study.record.outcome import Outcome, Progress
from study.record.stores import Stores
from study.search.search import Suggestion
from trainables.trial import TrialConfig

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # The record is MLflow's; no CSV, JSON or TensorBoard.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours to handle.
}


class RayRunner:
    """Runs trials and estimates on an existing Ray cluster, or on a new one on this machine."""

    def __init__(self, resources: Resources, stores: Stores, study: str):
        self._resources = resources
        self._stores = stores
        self._study = study

    def connected(self) -> AbstractContextManager[None]:
        """A connection to the cluster, or to a new one on this machine."""
        return connected(self._resources, self._stores.log_file(self._study))

    def run_trials(self, ledger: Ledger, data: StudyData) -> None:
        """Run the ledger's trials with Ray Tune."""
        os.environ.update(TUNE_SETTINGS)
        desk = _Desk(ledger)
        with desk.interruptible():
            try:
                self._tuner(desk, data).fit()
            except Exception:
                # Raise the error that stopped the study, not Ray Tune's error that followed from it.
                if desk.error is None:
                    raise
        if desk.error is not None:
            raise desk.error

    def run_estimates(
        self, jobs: Sequence[Job], weights: Callable[[Job], bytes], data: StudyData
    ) -> Generator[tuple[Job, Estimated | Exception]]:
        """Estimate each job in a Ray task of its own."""
        yield from run_estimates(jobs, weights, data, self._resources)

    def _tuner(self, desk: "_Desk", data: StudyData) -> tune.Tuner:
        resources = self._resources
        trainable = tune.with_parameters(_train, data=data, device=resources.device)
        return tune.Tuner(
            tune.with_resources(trainable, {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial}),
            tune_config=TuneConfig(
                search_alg=_LedgerSearcher(desk),
                num_samples=desk.ledger.limit,
                max_concurrent_trials=resources.concurrent,
                # A worker process is used for several trials, to save seconds of imports.
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config['key']}_{trial.trial_id}",
            ),
            run_config=RunConfig(
                name=self._study,
                storage_path=self._stores.ray_uri,
                callbacks=[_LedgerCallback(desk)],
                stop=_StopOnError(desk),
                # No retries here, where the same trial would fail again: running the study again is the retry.
                failure_config=FailureConfig(max_failures=0),
                verbose=0,
            ),
        )


def _train(suggestion: dict[str, Any], data: StudyData, device: Device) -> None:
    """Run a trial on a Ray Tune worker, reporting its progress and finally its outcome."""
    from study.engine.worker import run_trial

    def report(progress: Progress) -> None:
        tune.report(progress._asdict())

    with tempfile.TemporaryDirectory() as folder:
        outcome, rest = run_trial(TrialConfig(**suggestion["trial"]), data, device, report, Path(folder))
        # As one string: Ray Tune would flatten a nested result.
        last = rest._asdict() | {"outcome": outcome.to_json()}
        tune.report(last, checkpoint=Checkpoint.from_directory(folder))


class _Desk:
    """The ledger for Ray Tune's parts: it maps Ray Tune's trial names to trials, and keeps errors.

    Ray Tune takes an error in a callback for a failure of the trial, and goes on. Some of its code swallows Ctrl-C.
    """

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.trials: dict[str, Suggestion] = {}
        self.error: Exception | None = None
        self.interrupted = False

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune pickles its callbacks to restore them. A study goes on from its record: keep nothing.
        return {}

    @contextmanager
    def error_kept(self) -> Iterator[None]:
        """Keep an error that is raised, to stop the study with it."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C end the study even in code that swallows it: the stopper sees it too."""

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


class _LedgerSearcher(Searcher):
    """Gives Ray Tune the trials that the ledger hands out."""

    def __init__(self, desk: _Desk):
        super().__init__()
        self._desk = desk

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        with self._desk.error_kept():
            trial = self._desk.ledger.next()
        if trial is None:
            return str(Searcher.FINISHED)
        self._desk.trials[trial_id] = trial
        return {"key": trial.key, "trial": trial.config.model_dump(mode="json")}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to do: the callback is told too, with the trial's files."""

    def save(self, checkpoint_path: str) -> None:
        """A study goes on from its record: there is nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """A study goes on from its record: there is nothing to restore."""


class _LedgerCallback(Callback):
    """Hands every trial's events to the ledger."""

    def __init__(self, desk: _Desk):
        self._desk = desk

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        with self._desk.error_kept():
            self._desk.ledger.start(self._trial(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        with self._desk.error_kept():
            self._desk.ledger.advance(self._trial(trial), Progress(result["stage"], result["epochs"]))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if "outcome" not in trial.last_result:
            return  # The study was stopped before the trial's end.
        outcome = Outcome.from_json(trial.last_result["outcome"])
        assert trial.checkpoint is not None, "a trial's last report comes with its files"
        with self._desk.error_kept(), disk_errors(), trial.checkpoint.as_directory() as folder:
            self._desk.ledger.finish(self._trial(trial), outcome, Path(folder))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self._desk.error is not None:
            # Ray Tune takes an error of the ledger for the trial's own. The study is ending: what is open stays open.
            return
        reason = Path(trial.error_file).read_text() if trial.error_file else "the worker left no traceback"
        with self._desk.error_kept():
            self._desk.ledger.fail(self._trial(trial), reason)

    def _trial(self, trial: Trial) -> Suggestion:
        return self._desk.trials[trial.trial_id]


class _StopOnError(Stopper):
    """Ends the study when its results cannot be recorded or the user interrupts it."""

    def __init__(self, desk: _Desk):
        self._desk = desk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._desk.error is not None or self._desk.interrupted
