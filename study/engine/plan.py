"""The plan of a study: its trials, which of them are finished, and how long the rest would take."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from study.spec import ListedTrial, Point, StudySpec
from trainables.cost import WORK_PER_SECOND, seconds_per_work, work, work_of_timing
from trainables.tasks import TaskData
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from study.record.reader import FinishedTrial, RecordReader

# Nothing is timed if the timing itself would take longer than this, in seconds.
MOST_TIMING_SECONDS = 60


class PlannedTrial(NamedTuple):
    """A listed trial with its key."""

    point: Point
    config: TrialConfig
    key: str


@dataclass(frozen=True)
class Plan:
    """A study compared with its record."""

    spec: StudySpec
    data: TaskData
    data_digest: str
    finished: Mapping[str, "FinishedTrial"]  # by trial key

    @cached_property
    def listed(self) -> tuple[PlannedTrial, ...]:
        """The trials at the design points, or at the points of a grid."""
        return tuple(PlannedTrial(point, config, config.key(self.data_digest)) for point, config in self.spec.listed())

    @cached_property
    def missing(self) -> tuple[PlannedTrial, ...]:
        """Listed trials that have no finished result."""
        return tuple(trial for trial in self.listed if trial.key not in self.finished)

    @property
    def trials(self) -> int:
        """Trials of the whole study."""
        return len(self.listed) if self.spec.trials is None else self.spec.trials

    @property
    def done(self) -> int:
        """Trials of the study that have a finished result."""
        return len(self.listed) - len(self.missing) if self.spec.is_enumerated else len(self.finished)

    @property
    def remaining(self) -> int:
        """Trials still to run."""
        if self.spec.is_enumerated:
            return len(self.missing)
        return max(len(self.missing), self.trials - len(self.finished))

    @property
    def to_sample(self) -> int:
        """Trials still to run that the sampler will choose."""
        return self.remaining - len(self.missing)

    def renewed(self, record: "RecordReader") -> "Plan":
        """The plan against the record as it is now: another driver may have finished trials since.

        Raises:
            StudyError: the record cannot be read, or has other settings.
        """
        record.refresh()
        record.check_protocol(self.spec, self.data_digest)
        return replace(self, finished=record.finished())

    def work(self, config: TrialConfig) -> float:
        """Work of a trial on this data, in multiply-adds."""
        return work(config, self.data.shape)

    @cached_property
    def work_per_sampled_trial(self) -> float:
        """Mean work of a trial that the sampler will choose, 0 if it chooses none."""
        if self.spec.is_enumerated:
            return 0.0
        sampled = _sampled(self.spec)
        return sum(self.work(config) for _, config in sampled) / len(sampled)

    @property
    def remaining_work(self) -> float:
        """Work of all trials still to run, in multiply-adds."""
        listed = sum(self.work(trial.config) for trial in self.missing)
        return listed + self.to_sample * self.work_per_sampled_trial

    def estimate_seconds(self, side_by_side: int) -> tuple[float, bool]:
        """Wall time of the rest with that many parallel trials, and whether it comes from timing a piece of one.

        If timing a piece would take too long, the time is a rough one, for a typical CPU core.
        """
        if self.remaining == 0:
            return 0.0, False
        candidates = [trial.config for trial in self.missing or _sampled(self.spec)]
        typical = sorted(candidates, key=self.work)[len(candidates) // 2]
        timed = work_of_timing(typical, self.data.shape) < MOST_TIMING_SECONDS * WORK_PER_SECOND
        rate = seconds_per_work(typical, self.data) if timed else 1 / WORK_PER_SECOND
        return self.remaining_work * rate / min(side_by_side, self.remaining), timed


def _sampled(spec: StudySpec) -> list[ListedTrial]:
    # Imported here: Optuna and MLflow take seconds, and not every plan needs them.
    from study.search.parameters import random_trials

    return random_trials(spec)


def make_plan(spec: StudySpec, data: TaskData, record: "RecordReader | None") -> Plan:
    """Compare a study with its record; `record` is None for a store without studies.

    Raises:
        StudyError: the record cannot be read or has other settings, or the study does not fit the data.
    """
    digest = data.digest()
    spec.check_against(data.shape)
    if record is None:
        return Plan(spec, data, digest, {})
    record.check_protocol(spec, digest)
    return Plan(spec, data, digest, record.finished())
