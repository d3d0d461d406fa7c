"""What a study would run, what of it is done, and how long the rest would take."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from study.record import FinishedTrial, Record
from study.sampling import random_points
from study.spec import Point, StudySpec
from trainables.cost import WORK_PER_SECOND, seconds_per_work, work, work_of_timing
from trainables.tasks import TaskData
from trainables.trial import TrialConfig

# A plan that takes longer to time than this is not timed.
MOST_TIMING_SECONDS = 60


@dataclass(frozen=True)
class Plan:
    """A study against its record."""

    spec: StudySpec
    data: TaskData
    data_digest: str
    finished: Mapping[str, FinishedTrial]  # by trial key

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Design points, or the cells of a grid."""
        return tuple(self.spec.points())

    @cached_property
    def missing(self) -> tuple[Point, ...]:
        """Points that have no finished result."""
        return tuple(point for point in self.points if self.key(point) not in self.finished)

    @property
    def trials(self) -> int:
        """Trials of the whole study."""
        return len(self.points) if self.spec.trials is None else self.spec.trials

    @property
    def done(self) -> int:
        """Trials of the study that have a finished result."""
        return len(self.points) - len(self.missing) if self.spec.is_enumerated else len(self.finished)

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

    def config(self, point: Point) -> TrialConfig:
        """The trial at a point of this plan."""
        config = self.spec.trial_config(point)
        assert config is not None, "points() leaves out what no network has"
        return config

    def key(self, point: Point) -> str:
        """The trial key of a point."""
        return self.spec.trial_key(point, self.data_digest)

    @cached_property
    def work_per_sampled_trial(self) -> float:
        """Mean work of a trial that the sampler will choose, 0 if it chooses none."""
        if self.spec.is_enumerated:
            return 0.0
        points = random_points(self.spec)
        return sum(work(self.config(point), self.data.shape) for point in points) / len(points)

    @property
    def remaining_work(self) -> float:
        """Work of all trials still to run, in multiply-adds."""
        return sum(work(self.config(point), self.data.shape) for point in self.missing) + (
            self.to_sample * self.work_per_sampled_trial
        )

    def estimate_seconds(self, side_by_side: int) -> tuple[float, bool]:
        """Wall time of the rest with that many trials side by side, and whether a piece of one was timed for it.

        Where even a piece takes long on a CPU core, the time is a rough one, of a typical core.
        """
        if self.remaining == 0:
            return 0.0, False
        points = sorted(self.missing or random_points(self.spec), key=lambda p: work(self.config(p), self.data.shape))
        typical = self.config(points[len(points) // 2])
        timed = work_of_timing(typical, self.data.shape) < MOST_TIMING_SECONDS * WORK_PER_SECOND
        rate = seconds_per_work(typical, self.data) if timed else 1 / WORK_PER_SECOND
        return self.remaining_work * rate / min(side_by_side, self.remaining), timed


def make_plan(spec: StudySpec, data: TaskData, record: Record) -> Plan:
    """Hold a study against its record.

    Raises:
        StudyError: the record cannot be read or was begun with other settings, or the study does not fit the data.
    """
    digest = data.digest()
    spec.check_against(data.shape)
    record.check_protocol(spec, digest)
    return Plan(spec, data, digest, record.finished())
