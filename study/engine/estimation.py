"""The rlct of finished trials, estimated again from their checkpoints, under other settings.

Every estimate is recorded as soon as it is made, and is not made again. While the record is away, estimates go on as
far as their checkpoints are there, and wait in the outbox.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from analysis.layout import Artifact
from study.engine.runner import Estimated, Runner, StudyData, Watcher
from study.errors import disk_errors, first_line, last_line
from study.interrupts import deferred
from study.record.outcome import EstimateOutcome
from study.record.reader import FinishedTrial
from study.record.recorder import Patience, Recorder
from study.record.stores import StoreError
from study.record.writer import RecordWriter
from trainables.config import RlctConfig
from trainables.errors import CheckpointError


@dataclass(frozen=True)
class Job:
    """An estimate to make: one finished trial, one set of settings."""

    trial_key: str
    trial: FinishedTrial
    settings: RlctConfig

    @property
    def task(self) -> str:
        """The trial's task."""
        return self.trial.params["task"]


def jobs_to_do(
    record: RecordWriter, trials: Mapping[str, FinishedTrial], settings: Mapping[str, Sequence[RlctConfig]]
) -> list[Job]:
    """A job for every trial and each of its settings, except those in the record; a trial's jobs are consecutive.

    Trials and settings are by trial key.
    """
    done = record.estimated()
    return [
        Job(key, trial, each)
        for key, trial in trials.items()
        for each in settings[key]
        if (key, each.key()) not in done
    ]


def run_jobs(
    jobs: Sequence[Job],
    record: RecordWriter,
    data: Mapping[str, StudyData],
    runner: Runner,
    watcher: Watcher[Job, EstimateOutcome],
    tell: Callable[[str], None] = lambda text: None,
    patience: Patience | None = None,
) -> int:
    """Carry out the jobs, given the data of their tasks, and record each estimate; return how many failed.

    `tell` is given sentences for the user. While the record cannot be reached, what runs goes on, and its results wait
    on the disk; when nothing runs, the record is waited for as long as `patience` says.

    Raises:
        HeldError: another driver holds the study.
        StudyError: the runner or the record cannot be used. Finished estimates are kept, in the record or in the
            outbox.
        CheckpointMismatchError: the checkpoints belong to other code or data.
        KeyboardInterrupt: the user stopped the estimates, here or from elsewhere. Finished ones are kept.
    """
    failures = 0
    recorder = Recorder(record, tell, patience)

    def weights(job: Job, patiently: bool) -> bytes | None:
        failed_before = False
        while recorder.is_there(something_runs=not patiently):
            try:
                return _checkpoint_of(job, record, data[job.task].digest)
            except StoreError as error:
                # If the record answers, and goes on not to give this file, others may be there.
                if recorder.answers():
                    if failed_before:
                        raise _unreadable(error) from error
                    failed_before = True
        return None

    with (
        record.held(),
        runner.connected(),
        contextlib.closing(runner.run_estimates(jobs, weights, data)) as results,
    ):
        record.close_open_estimates()
        recorder.begin_running()
        for job, result in results:
            if isinstance(result, Exception):
                failures += 1
                watcher.failed(job, last_line(str(result), otherwise=type(result).__name__))
            else:
                with deferred(), _written(result) as folder:
                    estimate = record.ended_estimate(job.trial_key, job.trial, job.settings)
                    recorder.estimate(estimate, result.outcome, folder)
                watcher.finished(job, result.outcome)
            if record.stop_request is not None:
                raise KeyboardInterrupt
        recorder.catch_up()
    return failures


def _checkpoint_of(job: Job, record: RecordWriter, data_digest: str) -> bytes:
    """A trial's checkpoint from the record; one that no worker could use is refused here.

    Raises:
        CheckpointError: the record does not have it, or it cannot be read: the other trials' may be there.
        CheckpointMismatchError: it belongs to other code or data.
        StoreError: the record cannot be reached, or does not give the file.
        StudyError: there is no room for it on the disk.
    """
    from trainables.checkpoint import load_checkpoint

    if not record.has_artifact(job.trial.run_id, Artifact.CHECKPOINT):
        raise CheckpointError(f"the record has no checkpoint of this trial ({Artifact.CHECKPOINT} is missing)")
    with disk_errors(), tempfile.TemporaryDirectory() as folder:
        file = record.download(job.trial.run_id, Artifact.CHECKPOINT, Path(folder))
        try:
            load_checkpoint(file, data_digest)
            return file.read_bytes()
        except OSError as error:
            raise _unreadable(error) from error


def _unreadable(error: Exception) -> CheckpointError:
    return CheckpointError(f"its checkpoint cannot be read: {first_line(error.__cause__ or error)}")


def _as_json(outcome: EstimateOutcome) -> bytes:
    """The estimate as JSON for the analysis: value, standard error, verdict and diagnostics per replicate."""
    rlct = outcome.rlct
    values = {"rlct": rlct.estimates, "rlct_chain_se": rlct.standard_errors, "rlct_verdict": rlct.verdicts}
    return json.dumps(values | {"outcome": asdict(outcome)}, indent=1).encode()


@contextlib.contextmanager
def _written(estimated: Estimated) -> Iterator[Path]:
    """The files of an estimate for the record, in a temporary folder."""
    from study.engine.worker import write_trace

    with disk_errors(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / Artifact.ESTIMATE).write_bytes(_as_json(estimated.outcome))
        write_trace(folder, estimated.trace, estimated.outcome.rlct)
        yield folder
