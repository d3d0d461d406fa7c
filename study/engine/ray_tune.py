"""The runner on Ray: Ray Tune schedules the trials over a cluster and reports each to the driver."""

import os
import re
import tempfile
import threading
import time
import traceback
from collections import deque
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
from study.engine.packing import TASK_SECONDS, Packing
from study.engine.ray_capacity import most_at_any_time
from study.engine.ray_cluster import Connection, connected
from study.engine.ray_estimates import run_estimates
from study.engine.ray_health import raising_loss
from study.engine.ray_place import machine_of, place_here
from study.engine.resources import Device, Resources
from study.engine.runner import Estimated, RunTrial, StudyData, Weights
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
    def resources(self) -> Resources:
        """What each trial has."""
        return self._resources

    @property
    def workers(self) -> int:
        """Trials that run side by side: as many as asked for, or as the cluster may have room for."""
        return self._resources.concurrent or most_at_any_time(self._resources)

    def run_trials(self, ledger: Ledger[Any], data: Mapping[str, StudyData]) -> None:
        """Run the ledger's trials with Ray Tune."""
        os.environ.update(TUNE_SETTINGS)
        desk = _Desk(ledger, Packing(ledger, self.workers), self._snapshots)
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
        self, jobs: Sequence[Job], weights: Weights, data: Mapping[str, StudyData]
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
                trial_dirname_creator=lambda trial: f"{trial.config['trials'][0]['key']}_{trial.trial_id}",
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
    """Run a task's trials on a Ray Tune worker, one after the other, until it has been busy for long enough.

    Each one's progress is reported, and finally its outcome, or the error that ended it. An exception would be
    indistinguishable from the death of the worker, after which Ray Tune starts the task again. Snapshots do not go
    through Ray Tune, which would hand them to this study's driver alone, and not to the next one.
    """
    from study.engine.worker import run_trial

    place = place_here()

    def report(progress: Progress) -> None:
        tune.report(progress._asdict() | {"node": place.node})

    trials = handed_out["trials"]
    end = time.monotonic() + TASK_SECONDS
    for number, each in enumerate(trials, 1):
        begun = time.monotonic()
        try:
            check_code(code, str(place))
            config = TrialConfig(**each["trial"])
            of_task = ray.get(data[config.task])
            with tempfile.TemporaryDirectory() as folder, snapshots.file(each["key"], of_task.digest) as file:
                stopping = each["stopping"] and ray.get(each["stopping"])
                outcome, rest = run_trial(config, of_task, device, report, Path(folder), place.node, file, stopping)
                goes_on = number < len(trials) and time.monotonic() < end
                last = as_last_report(outcome, rest, time.monotonic() - begun, goes_on)
                tune.report(last, checkpoint=Checkpoint.from_directory(folder))
        except OtherCodeError as error:
            tune.report({"refused": str(error)})
            return
        except StudyError as error:
            tune.report({"refused": f"on {place}, {error}"})
            return
        except Exception:
            goes_on = number < len(trials) and time.monotonic() < end
            reason = f"On {place}:\n{traceback.format_exc()}"
            tune.report({"error": reason, "host": place.host, "node": place.node, "goes_on": goes_on})
        if not goes_on:
            return


def as_last_report(outcome: Outcome, rest: Progress, seconds: float, goes_on: bool) -> dict[str, Any]:
    """What a worker reports of a trial that took so many seconds, and whether it begins the next one of its task."""
    # The outcome as one string: Ray Tune would flatten a nested result.
    last = {"outcome": outcome.to_json(), "node": outcome.node, "seconds": seconds, "goes_on": goes_on}
    return rest._asdict() | last


class _Desk:
    """The ledger for Ray Tune's parts: it maps Ray Tune's trials, which are tasks, to trials, and keeps errors.

    Ray Tune takes an error in a callback for a failure of the task, and goes on.
    """

    def __init__(self, ledger: Ledger[Any], packing: Packing, snapshots: SnapshotPlace):
        self.ledger = ledger
        self.packing = packing
        self.snapshots = snapshots
        self.tasks: dict[str, deque[RunTrial]] = {}  # by the name of Ray Tune's trial: its trials that have not ended
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
            task = self._desk.packing.take()
        if task is None and not any(len(trials) > 1 for trials in self._desk.tasks.values()):
            return str(Searcher.FINISHED)
        if task is None or task is WAIT:
            return None  # Ray Tune asks again.
        self._desk.tasks[trial_id] = deque(task)
        return {"trials": [_handed_out(trial) for trial in task]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to do: the callback is told too."""

    def save(self, checkpoint_path: str) -> None:
        """A study goes on from its record: there is nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """A study goes on from its record: there is nothing to restore."""


def _handed_out(trial: RunTrial) -> dict[str, Any]:
    """A trial as a worker is given it."""
    # By reference: Ray Tune keeps several copies of what it is given here, and writes it out as text.
    stopping = None if trial.stopping is None else ray.put(trial.stopping)
    return {"key": trial.key, "trial": trial.config.model_dump(mode="json"), "stopping": stopping}


class _LedgerCallback(Callback):
    """Hands every trial's events to the ledger. The trials of a task run one after the other."""

    def __init__(self, desk: _Desk):
        self._desk = desk

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        with self._desk.error_kept():
            if self._desk.tasks[trial.trial_id]:
                self._desk.ledger.start(self._running(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        with self._desk.error_kept():
            if "refused" in result:
                raise StudyError(result["refused"])
            running = self._running(trial)
            self._desk.ledger.place(running, lambda: machine_of(result["node"]))
            if "stage" in result:
                self._desk.ledger.advance(running, Progress(result["stage"], result["epochs"], result["host"]))
            if "error" in result:
                self._desk.ledger.fail(running, result["error"], result["host"])
                self._go_on(trial, result["goes_on"])

    def on_trial_save(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        # Ray Tune keeps what a worker has reported last; a result comes with the trial's files.
        result = trial.last_result
        assert trial.checkpoint is not None
        with self._desk.error_kept(), disk_errors(), trial.checkpoint.as_directory() as folder:
            self._desk.ledger.finish(self._running(trial), Outcome.from_json(result["outcome"]), Path(folder))
        self._desk.packing.note(result["seconds"])
        _forget_files(trial)
        with self._desk.error_kept():
            self._go_on(trial, result["goes_on"])

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        with self._desk.error_kept():
            # Otherwise it died when its trials had ended, before Ray Tune had heard of its end.
            if self._desk.tasks[trial.trial_id]:
                self._desk.ledger.interrupt(self._running(trial))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        # It still has trials only if the study was stopped.
        del self._desk.tasks[trial.trial_id]

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self._desk.error is not None:
            # Ray Tune takes an error of the ledger for the task's own. The study is ending: what is open stays open.
            return
        if not self._desk.tasks[trial.trial_id]:
            return
        reason = Path(trial.error_file).read_text() if trial.error_file else "the worker left no traceback"
        with self._desk.error_kept():
            # Ray's traceback names the worker: (pid=12, ip=10.0.0.2, …)
            node = re.search(r"\bip=([^,)\s]+)", reason)
            failed, *others = self._desk.tasks.pop(trial.trial_id)
            self._desk.packing.give_back(others)
            self._desk.ledger.fail(failed, reason, node[1] if node else None)

    def _running(self, trial: Trial) -> RunTrial:
        return self._desk.tasks[trial.trial_id][0]

    def _go_on(self, trial: Trial, begins: bool) -> None:
        """A trial of the task has ended, and the worker begins the next one or none."""
        task = self._desk.tasks[trial.trial_id]
        self._desk.snapshots.forget(task.popleft().key)
        if not begins:
            # They took longer than the ones before.
            self._desk.packing.give_back(task)
            task.clear()
        # Should the worker die, these start again, and each may do so as often as a trial that is handed out alone.
        trial.config["trials"] = trial.config["trials"][len(trial.config["trials"]) - len(task) :]
        _forget_results(trial)
        if begins:
            self._desk.ledger.start(self._running(trial))


def _forget_files(trial: Trial) -> None:
    """Remove the files of a trial that is in the record: Ray Tune keeps them until the study ends."""
    assert trial.storage is not None
    with disk_errors():
        trial.storage.storage_filesystem.delete_dir(trial.storage.trial_fs_path)


def _forget_results(trial: Trial) -> None:
    """Drop what Ray Tune keeps of a task until the study ends: results, and how often its workers have died."""
    checkpoints = trial.run_metadata.checkpoint_manager
    assert checkpoints is not None
    trial.run_metadata = type(trial.run_metadata)()
    trial.run_metadata.checkpoint_manager = type(checkpoints)(checkpoint_config=checkpoints.checkpoint_config)
    # A task's trials, with the values of those that they are compared with, are in its `config` as long as they run.
    trial.evaluated_params.pop("trials", None)


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
