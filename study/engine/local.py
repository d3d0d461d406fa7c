"""The runner in this process: one trial after the other, without Ray.

For debugging (breakpoints in trainables work), notebooks, machines without Ray, and quick tests.
"""

import os
import socket
import tempfile
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from study.engine.estimation import Job
from study.engine.ledger import Ledger
from study.engine.resources import Resources
from study.engine.runner import Estimated, StudyData, Weights
from study.engine.snapshots import SnapshotPlace
from study.errors import StudyError, disk_errors
from study.record.usage import Machine
from study.search.search import WAIT


class LocalRunner:
    """Runs trials and estimates in turn, on the GPU if trials are given one.

    Raises:
        StudyError: trials are to have a GPU, and there is none.
    """

    def __init__(self, resources: Resources, snapshots: SnapshotPlace):
        self._snapshots = snapshots
        if resources.device.use_gpu:
            import torch

            if not torch.cuda.is_available():
                raise StudyError(
                    "--gpus-per-trial: PyTorch finds no GPU on this machine. Leave it out to run on the CPU."
                )
        self._device = resources.device
        self.resources = resources

    def connected(self) -> AbstractContextManager[None]:
        """Nothing to connect to: trials run in this process."""
        return nullcontext()

    @property
    def workers(self) -> int:
        """One: trials run in turn."""
        return 1

    def run_trials(self, ledger: Ledger[Any], data: Mapping[str, StudyData]) -> None:
        """Run the ledger's trials, one after the other."""
        from study.engine.worker import run_trial

        while (trial := ledger.next()) is not None:
            assert trial is not WAIT, "with one worker, all trials before have ended"
            ledger.start(trial)
            ledger.place(trial, _this_machine)
            of_task = data[trial.config.task]
            with (
                disk_errors(),
                tempfile.TemporaryDirectory() as folder,
                self._snapshots.file(trial.key, of_task.digest) as snapshots,
            ):
                try:
                    report = partial(ledger.advance, trial)
                    outcome, rest = run_trial(
                        trial.config,
                        of_task,
                        self._device,
                        report,
                        Path(folder),
                        snapshot_file=snapshots,
                        stopping=trial.stopping,
                    )
                except StudyError:
                    # The ledger could not record the trial: it could not record others either.
                    raise
                except Exception:
                    ledger.fail(trial, traceback.format_exc(), socket.gethostname())
                else:
                    ledger.advance(trial, rest)
                    ledger.finish(trial, outcome, Path(folder))
            self._snapshots.forget(trial.key)

    def run_estimates(
        self, jobs: Sequence[Job], weights: Weights, data: Mapping[str, StudyData]
    ) -> Generator[tuple[Job, Estimated | Exception]]:
        """Estimate each job, one after the other."""
        from study.engine.worker import estimate_again
        from trainables.errors import CheckpointMismatchError

        # The last one is kept: a trial's jobs are consecutive.
        of_trial, checkpoint = "", None
        for job in jobs:
            try:
                if job.trial_key != of_trial:
                    of_trial, checkpoint = "", weights(job, patiently=True)
                    of_trial = job.trial_key
                assert checkpoint is not None, "it was waited for"
                yield job, estimate_again(checkpoint, data[job.task], job.settings, self._device)
            except (StudyError, CheckpointMismatchError):
                # Neither the record nor the code will be another one for the next job.
                raise
            except Exception as error:
                yield job, error


def _this_machine() -> Machine:
    import torch

    return Machine(os.cpu_count() or 1, torch.cuda.device_count())
