"""The rlct of finished trials, estimated again from their checkpoints: one Ray task per trial and settings.

What is done is in the record as soon as it is done, and is not done again. The tasks stand alone: a worker that dies
is replaced, and its task starts anew.
"""

import contextlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd
import ray

from analysis.estimates import ESTIMATE_FILE
from analysis.figures import draw_rlct_trace
from study.cluster import chatter_to, connect
from study.errors import StudyError
from study.outcome import EstimateOutcome
from study.record import FinishedTrial, Record
from study.resources import Resources
from study.trial import estimate_again
from trainables.checkpoint import FILE_NAME as WEIGHTS_FILE
from trainables.checkpoint import load_checkpoint
from trainables.config import RlctConfig
from trainables.errors import CheckpointError, CheckpointMismatchError
from trainables.tasks import TaskData

# A worker that dies (its node, or its memory) is no fault of the estimate: try again elsewhere.
RETRIES = 3


@dataclass(frozen=True)
class Job:
    """One finished trial under one set of settings."""

    trial_key: str
    trial: FinishedTrial
    settings: RlctConfig


class Watcher(Protocol):
    """Is told how the jobs end."""

    def finished(self, job: Job, outcome: EstimateOutcome) -> None:
        """The estimate is in the record."""

    def failed(self, job: Job, reason: str) -> None:
        """There is no estimate; the others go on."""


def jobs_to_do(record: Record, trials: Mapping[str, FinishedTrial], settings: Sequence[RlctConfig]) -> list[Job]:
    """Every trial under all settings, but for what the record has; the jobs of one trial stand together."""
    done = record.estimated()
    return [
        Job(key, trial, each) for key, trial in trials.items() for each in settings if (key, each.key()) not in done
    ]


def run_jobs(
    jobs: list[Job], record: Record, data: TaskData, data_digest: str, resources: Resources, watcher: Watcher
) -> None:
    """Carry out the jobs, and write each one's estimate to the record when it is there.

    Raises:
        StudyError: the cluster or the record cannot be used. What is done is kept.
        CheckpointMismatchError: the checkpoints belong to other code or data.
        KeyboardInterrupt: the user stopped it. What is done is kept.
    """
    record.close_open_estimates()
    with chatter_to(record.stores.log_file(record.study)):
        connect(resources)
        try:
            for job, result in _results(jobs, record, ray.put(data), data_digest, resources):
                if isinstance(result, Exception):
                    watcher.failed(job, str(result).strip().splitlines()[-1])
                    continue
                outcome, trace = result
                with _written(outcome, trace) as folder:
                    record.write_estimate(job.trial_key, job.trial, job.settings, outcome, folder)
                watcher.finished(job, outcome)
        finally:
            ray.shutdown()


Result = tuple[EstimateOutcome, pd.DataFrame]


def _results(
    jobs: list[Job], record: Record, data: "ray.ObjectRef[TaskData]", data_digest: str, resources: Resources
) -> Iterator[tuple[Job, Result | Exception]]:
    """The jobs as they end, with what they gave or why they failed."""
    task = ray.remote(estimate_again).options(
        num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial, max_retries=RETRIES
    )
    limit = resources.concurrent or 2 * _side_by_side(resources)
    waiting = list(reversed(jobs))
    running: dict[ray.ObjectRef[Result], Job] = {}
    jobs_left: dict[str, int] = defaultdict(int)
    for job in jobs:
        jobs_left[job.trial_key] += 1
    # Weights are fetched once per trial, and held as long as a job of that trial is to come.
    weights: dict[str, ray.ObjectRef[bytes]] = {}
    while waiting or running:
        while waiting and len(running) < limit:
            job = waiting.pop()
            if job.trial_key not in weights:
                try:
                    weights[job.trial_key] = ray.put(_checkpoint_of(job, record, data_digest))
                except CheckpointMismatchError:
                    # Made by other code, or of other data: so are the others.
                    raise
                except CheckpointError as error:
                    yield job, error
                    continue
            reference = task.remote(
                weights[job.trial_key], data, data_digest, job.settings.model_dump(mode="json"),
                resources.cpus_per_trial, resources.gpus_per_trial > 0,
            )  # fmt: skip
            running[reference] = job
            jobs_left[job.trial_key] -= 1
            if jobs_left[job.trial_key] == 0:
                del weights[job.trial_key]
        (ended,), _ = ray.wait(list(running), num_returns=1)
        job = running.pop(ended)
        try:
            yield job, ray.get(ended)
        except ray.exceptions.RayError as error:
            yield job, error


def _side_by_side(resources: Resources) -> int:
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    fitting = available["CPU"] / resources.cpus_per_trial
    if resources.gpus_per_trial:
        fitting = min(fitting, available["GPU"] / resources.gpus_per_trial)
    return max(1, int(fitting))


def _checkpoint_of(job: Job, record: Record, data_digest: str) -> bytes:
    """A trial's checkpoint as it lies in the record, refused here if no worker could use it."""
    with tempfile.TemporaryDirectory() as folder:
        file = record.download(job.trial.run_id, f"checkpoint/{WEIGHTS_FILE}", Path(folder))
        load_checkpoint(file, data_digest)
        return file.read_bytes()


def _as_json(outcome: EstimateOutcome) -> bytes:
    """The estimate as the analysis reads it: per replicate its value, standard error and verdict, with the rest."""
    rlct = outcome.rlct
    values = {"rlct": rlct.estimates, "rlct_se": rlct.standard_errors, "rlct_verdict": rlct.verdicts}
    return json.dumps(values | {"outcome": asdict(outcome)}, indent=1).encode()


@contextlib.contextmanager
def _written(outcome: EstimateOutcome, trace: pd.DataFrame) -> Iterator[Path]:
    """What the record keeps of an estimate, in a folder of its own."""
    rlct = outcome.rlct
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "rlct").mkdir()
            (folder / ESTIMATE_FILE).write_bytes(_as_json(outcome))
            trace.to_parquet(folder / "rlct" / "trace.parquet", index=False)
            draw_rlct_trace(
                trace, folder / "rlct" / "trace.png", rlct.estimates, rlct.standard_errors, rlct.verdicts
            )  # fmt: skip
            yield folder
    except OSError as error:
        raise StudyError(
            f"an estimate's files cannot be written: {error}. Make room on the disk, then run the same command again."
        ) from error
