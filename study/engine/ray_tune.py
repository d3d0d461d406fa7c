"""The runner on Ray: Ray Tune schedules the trials over a cluster and reports each to the driver."""

import os
import re
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Checkpoint, FailureConfig, RunConfig, Stopper, TuneConfig
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from study.engine.code import CodeVersion, OtherCodeError, check_code, code_here
from study.engine.estimation import Job
from study.engine.ledger import Ledger
from study.engine.ray_capacity import most_at_any_time
from study.engine.ray_cluster import Connection, connected
from study.engine.ray_estimates import run_estimates
from study.engine.ray_health import raising_loss
from study.engine.ray_place import place_here
from study.engine.resources import Device, Resources
from study.engine.runner import Estimated, RunTrial, StudyData
from study.engine.snapshots import SnapshotPlace
from study.errors import StudyError, disk_errors
from study.record.outcome import Outcome, Progress
from study.record.stores import Stores
from study.search.search import WAIT
from trainables.trial import TrialConfig

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # The record is MLflow's; no CSV, JSON or TensorBoard.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours to handle.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # No snapshots of the whole experiment: a study goes on from its record.
}
# Seconds in which Ray Tune, when it is to stop, should have recorded what it is recording and stopped its workers.
SECONDS_TO_STOP = 20.0


class RayRunner:
    """Runs trials and estimates on an existing Ray cluster, or on a new one on this machine."""

    def __init__(
        self,
        resources: Resources,
        stores: Stores,
        study: str,
        snapshots: SnapshotPlace,
        tell: Callable[[str], None],
    ):
        self._resources = resources
        self._stores = stores
        self._study = study
        self._snapshots = snapshots
        self._tell = tell
        self._connection: Connection

    @contextmanager
    def connected(self) -> Iterator[None]:
        """A connection to the cluster, or to a new one on this machine."""
        with connected(self._resources, self._stores.log_file(self._study)) as self._connection:
            if self._connection.note is not None:
                self._tell(self._connection.note)
            yield

    @property
    def workers(self) -> int:
        """Trials that run side by side: as many as asked for, or as the cluster may have room for."""
        return self._resources.concurrent or most_at_any_time(self._resources)

    def run_trials(self, ledger: Ledger[Any], data: Mapping[str, StudyData]) -> None:
        """Run the ledger's trials with Ray Tune."""
        os.environ.update(TUNE_SETTINGS)
        desk = _Desk(ledger, self._snapshots)
        # In a thread: some of Ray's calls cannot be interrupted, and would wait for ever for a cluster that has died.
        tuning = threading.Thread(target=desk.keep_failure, args=[lambda: self._tuner(desk, data).fit()], daemon=True)
        with raising_loss(self._connection):
            tuning.start()
            try:
                # Not join(): interrupted, it takes the thread for ended.
                desk.ended.wait()
            except KeyboardInterrupt:
                desk.stopped = True
                desk.ended.wait(0 if self._connection.lost else SECONDS_TO_STOP)
                raise
            # The error that stopped the study, rather than Ray Tune's error that followed from it.
            if (error := desk.error or desk.failure) is not None:
                raise error

    def run_estimates(
        self, jobs: Sequence[Job], weights: Callable[[Job], bytes], data: Mapping[str, StudyData]
    ) -> Generator[tuple[Job, Estimated | Exception]]:
        """Estimate each job in a Ray task of its own."""
        yield from run_estimates(jobs, weights, data, self._resources)

    def _tuner(self, desk: "_Desk", data: Mapping[str, StudyData]) -> tune.Tuner:
        resources = self._resources
        # References: a worker fetches the data of its trial's task alone.
        stored = {task: ray.put(of_task) for task, of_task in data.items()}
        trainable = tune.with_parameters(
            _train, data=stored, device=resources.device, code=code_here(), snapshots=self._snapshots
        )
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
                # A worker or a node that dies is no fault of the trial, which goes on elsewhere. There is a limit: a
                # trial that needs more memory than any node has would kill one worker after the other. Errors of a
                # trial's code are not among these failures: `_train` reports them.
                failure_config=FailureConfig(max_failures=resources.restarts),
                verbose=0,
            ),
        )


def _train(
    handed_out: dict[str, Any],
    data: Mapping[str, "ray.ObjectRef[StudyData]"],
    device: Device,
    code: CodeVersion,
    snapshots: SnapshotPlace,
) -> None:
    """Run a trial on a Ray Tune worker, reporting its progress and finally its outcome, or the error that ended it.

    An exception would be indistinguishable from the death of the worker, after which Ray Tune starts the trial again.
    Snapshots do not go through Ray Tune, which would hand them to this study's driver alone, and not to the next one.
    """
    from study.engine.worker import run_trial

    def report(progress: Progress) -> None:
        tune.report(progress._asdict())

    place = place_here()
    try:
        check_code(code, str(place))
        config = TrialConfig(**handed_out["trial"])
        of_task = ray.get(data[config.task])
        with tempfile.TemporaryDirectory() as folder, snapshots.file(handed_out["key"], of_task.digest) as file:
            outcome, rest = run_trial(config, of_task, device, report, Path(folder), place.node, file)
            # As one string: Ray Tune would flatten a nested result.
            last = rest._asdict() | {"outcome": outcome.to_json()}
            tune.report(last, checkpoint=Checkpoint.from_directory(folder))
    except OtherCodeError as error:
        tune.report({"refused": str(error)})
    except Exception:
        tune.report({"error": f"On {place}:\n{traceback.format_exc()}", "host": place.host})


class _Desk:
    """The ledger for Ray Tune's parts: it maps Ray Tune's trial names to trials, and keeps errors.

    Ray Tune takes an error in a callback for a failure of the trial, and goes on.
    """

    def __init__(self, ledger: Ledger[Any], snapshots: SnapshotPlace):
        self.ledger = ledger
        self.snapshots = snapshots
        self.trials: dict[str, RunTrial] = {}
        self.error: Exception | None = None
        self.failure: BaseException | None = None  # of Ray Tune itself
        self.stopped = False  # by the user
        self.ended = threading.Event()  # Ray Tune has ended

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune pickles its callbacks to restore them. A study goes on from its record: keep nothing.
        return {}

    def keep_failure(self, run: Callable[[], Any]) -> None:
        """Run Ray Tune, and keep the error that it ends with."""
        try:
            run()
        except BaseException as failure:
            self.failure = failure
        finally:
            self.ended.set()

    @contextmanager
    def error_kept(self) -> Iterator[None]:
        """Keep an error that is raised, to stop the study with it."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise


class _LedgerSearcher(Searcher):
    """Gives Ray Tune the trials that the ledger hands out."""

    def __init__(self, desk: _Desk):
        super().__init__()
        self._desk = desk

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        with self._desk.error_kept():
            trial = self._desk.ledger.next()
        if trial is None:
            return str(Searcher.FINISHED)
        if trial is WAIT:
            return None  # Ray Tune asks again.
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
            if "refused" in result:
                raise StudyError(result["refused"])
            if "stage" in result:
                progress = Progress(result["stage"], result["epochs"], result["host"])
                self._desk.ledger.advance(self._trial(trial), progress)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        with self._desk.error_kept():
            self._desk.ledger.interrupt(self._trial(trial))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if "error" in trial.last_result:
            with self._desk.error_kept():
                self._desk.ledger.fail(self._trial(trial), trial.last_result["error"], trial.last_result["host"])
            self._desk.snapshots.forget(self._trial(trial).key)
            return
        if "outcome" not in trial.last_result:
            return  # The study was stopped before the trial's end.
        outcome = Outcome.from_json(trial.last_result["outcome"])
        assert trial.checkpoint is not None, "a trial's last report comes with its files"
        with self._desk.error_kept(), disk_errors(), trial.checkpoint.as_directory() as folder:
            self._desk.ledger.finish(self._trial(trial), outcome, Path(folder))
        _forget(trial)
        self._desk.snapshots.forget(self._trial(trial).key)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self._desk.error is not None:
            # Ray Tune takes an error of the ledger for the trial's own. The study is ending: what is open stays open.
            return
        reason = Path(trial.error_file).read_text() if trial.error_file else "the worker left no traceback"
        with self._desk.error_kept():
            # Ray's traceback names the worker: (pid=12, ip=10.0.0.2, …)
            node = re.search(r"\bip=([^,)\s]+)", reason)
            self._desk.ledger.fail(self._trial(trial), reason, node[1] if node else None)

    def _trial(self, trial: Trial) -> RunTrial:
        return self._desk.trials[trial.trial_id]


def _forget(trial: Trial) -> None:
    """Drop the result and the files of a trial that is in the record: Ray Tune keeps both until the study ends."""
    checkpoints = trial.run_metadata.checkpoint_manager
    assert trial.storage is not None
    assert checkpoints is not None
    trial.run_metadata = type(trial.run_metadata)()
    trial.run_metadata.checkpoint_manager = type(checkpoints)(checkpoint_config=checkpoints.checkpoint_config)
    with disk_errors():
        trial.storage.storage_filesystem.delete_dir(trial.storage.trial_fs_path)


class _StopOnError(Stopper):
    """Ends the study when its results cannot be recorded or the user interrupts it."""

    def __init__(self, desk: _Desk):
        self._desk = desk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._desk.stopped:
            # At once: Ray Tune would stop every worker and read every trial's results first.
            raise KeyboardInterrupt
        return self._desk.error is not None
