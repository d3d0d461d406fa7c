"""The two interfaces of the engine: Runner, where trials run, and Watcher, which is told of progress."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import pandas as pd

    from study.engine.estimation import Job
    from study.engine.ledger import Ledger
    from study.engine.resources import Resources
    from study.record.outcome import EstimateOutcome
    from study.search.stopping import EarlyStopping
    from trainables.tasks import TaskData
    from trainables.trial import TrialConfig

_Item = TypeVar("_Item", contravariant=True)
_Result = TypeVar("_Result", contravariant=True)


@dataclass(frozen=True)
class StudyData:
    """The data that all trials of a study with one task share, and its digest."""

    data: "TaskData"
    digest: str


class RunTrial(Protocol):
    """A trial to run, whatever it comes from."""

    @property
    def key(self) -> str:
        """The trial's key."""

    @property
    def config(self) -> "TrialConfig":
        """The trial, with the seeds to run."""

    @property
    def stopping(self) -> "EarlyStopping | None":
        """The rule by which its worker stops it early; None if it runs to its end."""


class Runner(Protocol):
    """Runs trials and estimates somewhere, while `connected`."""

    def connected(self) -> AbstractContextManager[None]:
        """A connection to where trials run, made before anything is recorded.

        Raises:
            StudyError: it cannot be reached or started, or lacks the resources of a trial.
        """

    @property
    def resources(self) -> "Resources":
        """What each trial has."""

    @property
    def workers(self) -> int:
        """Number of trials that run side by side, known while connected."""

    def run_trials(self, ledger: "Ledger[Any]", data: Mapping[str, StudyData]) -> None:
        """Run the ledger's trials until none is left, and tell the ledger how each one ends; `data` is by task.

        Raises:
            StudyError: the trials cannot be run there, or the ledger could not record one.
            KeyboardInterrupt: the user stopped the study.
        """

    def run_estimates(
        self, jobs: Sequence["Job"], weights: "Weights", data: Mapping[str, StudyData]
    ) -> Generator[tuple["Job", "Estimated | Exception"]]:
        """Estimate the rlct of each job's trial from its weights; yield each job when it ends, with estimate or error.

        Raises:
            StudyError: the estimates cannot be made there, or `weights` says that the record stays away.
            CheckpointMismatchError: `weights` says that a checkpoint belongs to other code or data.
        """


class Weights(Protocol):
    """Gives the checkpoint of a job's trial."""

    def __call__(self, job: "Job", patiently: bool) -> bytes | None:
        """The checkpoint; None if the record is away, and it is not to be waited for.

        Raises:
            CheckpointError: this trial has none that can be used.
            CheckpointMismatchError: it belongs to other code or data.
            StudyError: the record stays away, or cannot be used.
        """


class Watcher(Protocol[_Item, _Result]):
    """Is told of the progress of trials or estimates. It decides nothing."""

    def started(self, item: _Item) -> None:
        """An item has begun."""

    def advanced(self, item: _Item, stage: str) -> None:
        """An item has reached this stage."""

    def finished(self, item: _Item, result: _Result) -> None:
        """The result of an item is in the record, or on the disk of the driver until the record can be written."""

    def failed(self, item: _Item, reason: str) -> None:
        """An item has failed; the others go on. The last line of the reason says most."""


@dataclass(frozen=True)
class Estimated:
    """A repeated rlct estimate, and every draw of its chains."""

    outcome: "EstimateOutcome"
    trace: "pd.DataFrame"
