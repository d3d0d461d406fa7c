"""The plan of a study: its trials, which of them are finished or lack replicates, and how long the rest would take."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from study.engine.growth import Growth, growth_of
from study.engine.runner import RunTrial, StudyData
from study.errors import StudyError
from study.record.protocol import DataDigest
from study.spec import StudySpec
from trainables.cost import WORK_PER_SECOND, seconds_per_work, work, work_of_timing
from trainables.tasks import TaskData
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from study.record.reader import FinishedTrial, RecordReader

# Nothing is timed if the timing itself would take longer than this, in seconds.
MOST_TIMING_SECONDS = 60


class PlannedTrial(NamedTuple):
    """A listed trial with its key."""

    config: TrialConfig
    key: str

    @property
    def stopping(self) -> None:
        """It is not stopped early, as no listed trial is."""


@dataclass(frozen=True)
class Plan:
    """A study compared with its record."""

    spec: StudySpec
    data: Mapping[str, StudyData]  # by task
    finished: Mapping[str, "FinishedTrial"]  # by trial key

    @cached_property
    def listed(self) -> tuple[PlannedTrial, ...]:
        """The trials at the design points, or at the points of a grid."""
        return tuple(PlannedTrial(config, self.key(config)) for config in self.spec.listed())

    @cached_property
    def missing(self) -> tuple[PlannedTrial, ...]:
        """Listed trials that have no finished result."""
        return tuple(trial for trial in self.listed if trial.key not in self.finished)

    @cached_property
    def growing(self) -> tuple[Growth, ...]:
        """Finished trials of the study that lack replicates."""
        keys = [trial.key for trial in self.listed] if self.spec.is_enumerated else list(self.finished)
        finished = [(key, self.finished[key]) for key in keys if key in self.finished]
        try:
            every = [growth_of(key, trial, self.spec.seeds) for key, trial in finished]
        except ValidationError as error:
            details = error.errors()[0]
            raise StudyError(
                "replicates: some finished trials are of another version of this project and cannot be given more "
                f"({'.'.join(map(str, details['loc']))}: {details['msg']}). Use that version, or leave replicates as "
                "they were."
            ) from error
        return tuple(growth for growth in every if growth is not None)

    @property
    def data_digest(self) -> DataDigest:
        """The digest of the task's data, or of each of several tasks'."""
        digests = {task: data.digest for task, data in self.data.items()}
        return digests if len(digests) > 1 else digests[self.spec.tasks[0]]

    def key(self, config: TrialConfig) -> str:
        """The key of a trial of the study."""
        return config.key(self.data[config.task].digest)

    @property
    def known(self) -> tuple[RunTrial, ...]:
        """Trials to run or to grow, without those that the sampler will choose."""
        return (*self.growing, *self.missing)

    @property
    def trials(self) -> int:
        """Trials of the whole study."""
        return len(self.listed) if self.spec.trials is None else self.spec.trials

    @property
    def done(self) -> int:
        """Trials of the study that have a finished result."""
        return len(self.listed) - len(self.missing) if self.spec.is_enumerated else len(self.finished)

    @property
    def to_do(self) -> int:
        """Trials to run or to grow."""
        return self.remaining + len(self.growing)

    @property
    def remaining(self) -> int:
        """Trials still to run that have no finished result."""
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
        return replace(self, finished=_ended_in(self.spec, record))

    def work(self, config: TrialConfig) -> float:
        """Work of a trial on its task's data, in multiply-adds."""
        return work(config, self.data[config.task].data.shape)

    @cached_property
    def _sampled(self) -> list[TrialConfig]:
        """Trials such as the sampler may choose."""
        # Imported here: Optuna and MLflow take seconds, and not every plan needs them.
        from study.search.parameters import random_trials

        return random_trials(self.spec)

    @cached_property
    def work_per_sampled_trial(self) -> float:
        """Mean work of a trial that the sampler will choose, 0 if it chooses none."""
        if self.spec.is_enumerated:
            return 0.0
        return sum(self.work(config) for config in self._sampled) / len(self._sampled)

    @property
    def remaining_work(self) -> float:
        """Work of all replicates still to run, in multiply-adds."""
        known = sum(self.work(trial.config) for trial in self.known)
        return known + self.to_sample * self.work_per_sampled_trial

    @property
    def remaining_work_of_tasks(self) -> dict[str, float]:
        """As `remaining_work`, for each task."""
        of_tasks = dict.fromkeys(self.spec.tasks, 0.0)
        for trial in self.known:
            of_tasks[trial.config.task] += self.work(trial.config)
        for config in self._sampled if self.to_sample else ():
            of_tasks[config.task] += self.to_sample * self.work(config) / len(self._sampled)
        return of_tasks

    def estimate_seconds(self, side_by_side: int) -> tuple[float, bool]:
        """Wall time of the rest with that many parallel trials, and whether it comes from timing a piece of one.

        If timing a piece would take too long, the time is a rough one, for a typical CPU core.
        """
        if self.to_do == 0:
            return 0.0, False
        candidates = [trial.config for trial in self.known] or self._sampled
        typical = sorted(candidates, key=self.work)[len(candidates) // 2]
        data = self.data[typical.task].data
        timed = work_of_timing(typical, data.shape) < MOST_TIMING_SECONDS * WORK_PER_SECOND
        rate = seconds_per_work(typical, data) if timed else 1 / WORK_PER_SECOND
        return self.remaining_work * rate / min(side_by_side, self.to_do), timed


def make_plan(spec: StudySpec, data: Iterable[TaskData], record: "RecordReader | None") -> Plan:
    """Compare a study, given the data of its tasks, with its record; `record` is None for a store without studies.

    Raises:
        StudyError: the record cannot be read or has other settings, or the study does not fit the data.
    """
    of_tasks = {each.task: StudyData(each, each.digest()) for each in data}
    for task in spec.tasks:
        spec.check_against(of_tasks[task].data.shape, task)
    plan = Plan(spec, of_tasks, {})
    if record is None:
        return plan
    record.check_protocol(spec, plan.data_digest)
    return replace(plan, finished=_ended_in(spec, record))


def _ended_in(spec: StudySpec, record: "RecordReader") -> dict[str, "FinishedTrial"]:
    # Imported here, with MLflow: a store without studies has no record to read.
    from study.record.reader import ended_in

    return ended_in(spec, record.finished())
