"""The search of a study: which trial comes next, and the stored Optuna study, which is told how each one ends.

A trial is written to Optuna when it has ended, all at once: attribute by attribute, it would take three times as long.
A trial with a value that is not finite ends as failed, because Optuna cannot rank it; its user
attributes say so. A trial that was stopped early ends as pruned.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Final, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from study.record.outcome import FAILED, Outcome
from study.record.protocol import DataDigest, digest_of
from study.record.reader import FinishedTrial, RecordedTrial
from study.search.choices import Choices, lag_of
from study.search.front import KnownFront
from study.search.parameters import (
    Parameters,
    baseline_of,
    parameters_in,
    parameters_of,
    parameters_of_space,
)
from study.search.samplers import check_sampler
from study.search.stopping import EarlyStopping
from study.search.store import RECORD, StorageError, open_study, reconcile, storage_errors
from study.search.view import KEY, PLACE, RUN, Ending, attributes_of, ended_trial, view_of
from study.spec import StudySpec
from trainables.trial import TrialConfig


class Wait(Enum):
    """The answer that there is no trial yet."""

    WAIT = "wait"


WAIT: Final = Wait.WAIT


class Suggestion(NamedTuple):
    """A trial to run: its place in the search, its key, configuration and parameters of Optuna."""

    place: int
    key: str
    config: TrialConfig
    parameters: Parameters
    rivals: tuple[str, ...] = ()  # keys of the trials that it is compared with, to be stopped early
    stopping: EarlyStopping | None = None  # the rule, with the values of those trials


def check_search(spec: StudySpec) -> tuple[dict[str, BaseDistribution], set[str]]:
    """Check that the sampler of a study has its options right and can search the space.

    Returns the parameters of the space, as `parameters_of_space`; none if all trials are listed.

    Raises:
        StudyError: it cannot, or a package that it needs is missing.
    """
    if spec.is_enumerated:
        return {}, set()
    asked, conditional = parameters_of_space(spec)
    numeric = not any(isinstance(distribution, CategoricalDistribution) for distribution in asked.values())
    check_sampler(spec.sampler, len(spec.objectives), numeric)
    return asked, conditional


class Search:
    """Gives a study's trials one after the other, and tells the stored Optuna study how they end.

    What comes next does not depend on the stored study. If that cannot be written, or the record lacks a trial, nothing
    more is written to it until `catch_up` brings it in line with the record.

    Trials of earlier drivers keep their places. Those of them that are to run again come first; listed trials that
    have not begun follow, and then what the sampler chooses.

    Args:
        spec: the study.
        data_digest: of its data.
        storage: where the Optuna study is stored.
        trials: those to run, apart from what the sampler chooses.
        known: the trials that have begun, as `view_of` gives them.
        record: the study's run in the record, by which Optuna's study names the record that it belongs to.
        workers: number of trials that run side by side.
        chooses: whether the sampler is asked when `trials` have been given.

    Raises:
        StudyError: Optuna's storage cannot be used, at the beginning.
    """

    def __init__(
        self,
        spec: StudySpec,
        data_digest: DataDigest,
        storage: BaseStorage,
        trials: Iterable[TrialConfig],
        known: Sequence[FrozenTrial] = (),
        record: str | None = None,
        workers: int = 1,
        chooses: bool = True,
    ):
        self._spec = spec
        self._data_digest = data_digest
        to_run = {self._key(config): config for config in trials}
        self._known = {int(trial.user_attrs[PLACE]): trial for trial in known}
        self._begun = {str(trial.user_attrs[KEY]) for trial in known}
        self._again = {key: config for key, config in to_run.items() if key in self._begun}
        self._to_begin = deque(config for key, config in to_run.items() if key not in self._begun)
        self._place = 0  # the next one
        self._last = max(self._known, default=-1)
        self._taken: set[str] = set()  # keys of the trials at the places before
        self._choices = Choices(spec, self._key, workers) if chooses and not spec.is_enumerated else None
        # The trials that a rule of early stopping compares others with.
        directions = list(spec.objectives.values())
        self._front = None if spec.stopping is None else KnownFront(directions, lag_of(workers))
        self._listed = set() if spec.is_enumerated else {self._key(config) for config in spec.listed()}
        self._storage = storage
        self._record = record
        self.is_behind = False  # whether the stored study lacks something that the record has or will have
        self.trouble: StorageError | None = None  # because of which it is behind, if it is not because of the record
        # Of the trials that run, by key: the run in the record, if there is one, and when they began.
        self._running: dict[str, tuple[str | None, datetime]] = {}
        with storage_errors():
            self._open()

    def ask(self) -> Suggestion | Wait | None:
        """The next trial; WAIT if the sampler has to know first how others end, None when nothing is left."""
        while True:
            suggestion = None
            if (known := self._known.pop(self._place, None)) is not None:
                suggestion = self._recall(known)
            elif self._to_begin:
                suggestion = self._begin(self._to_begin.popleft())
            elif self._choices is not None and not self._choices.is_ready:
                return WAIT
            elif self._choices is not None and (choice := self._choices.choose()) is not None:
                # A trial that has begun has a place of its own.
                if choice.key not in self._begun:
                    suggestion = Suggestion(self._place, choice.key, choice.config, choice.parameters)
            elif self._place > self._last:
                return None
            # Trials that the study lists run to their end.
            if suggestion is not None and self._front is not None and suggestion.key not in self._listed:
                suggestion = suggestion._replace(rivals=self._front.at(self._place))
            self._place += 1
            if suggestion is not None:
                self._taken.add(suggestion.key)
                return suggestion

    @property
    def possible_rivals(self) -> set[str]:
        """Keys of the trials that have ended and can still be rivals of others."""
        return set() if self._front is None else self._front.candidates

    def start(self, suggestion: Suggestion, run_id: str | None) -> None:
        """A trial runs, or runs again after an interruption, and has this run of the record; None if it lacks it."""
        self._running[suggestion.key] = run_id, datetime.now()

    def tell(self, suggestion: Suggestion, outcome: Outcome, recorded: bool = True) -> None:
        """A trial has ended with this result; tell Optuna its values and user attributes if it is recorded."""
        self._end(suggestion, Ending.of(outcome, self._spec), recorded)

    def fail(self, suggestion: Suggestion, recorded: bool = True) -> None:
        """A trial has failed; tell Optuna if it is recorded.

        Do not call it for a trial that was stopped with the study: `reconcile` finds that one when the study goes on.
        """
        self._end(suggestion, Ending.without_result(FAILED), recorded)

    def catch_up(self, finished: Mapping[str, FinishedTrial], ended: Sequence[RecordedTrial]) -> None:
        """Bring the stored study in line with the record, given its finished trials and all that have ended.

        Trials that run are added when they end.

        Raises:
            StudyError: Optuna's storage cannot be used.
        """
        reconcile(self._spec, self._storage, view_of(self._spec, finished, ended), self._record)
        with storage_errors():
            self._open()
        self.is_behind, self.trouble = False, None

    def _open(self) -> None:
        self._study = open_study(self._spec, self._storage)
        if self._record is not None:
            self._study.set_user_attr(RECORD, self._record)

    def _recall(self, trial: FrozenTrial) -> Suggestion | None:
        """Take in a trial that has begun; return it if it is to run again."""
        key = trial.user_attrs[KEY]
        self._taken.add(key)
        if self._choices is not None:
            self._choices.recall(key, trial, key in self._listed)
        if key in self._again:
            return Suggestion(self._place, key, self._again.pop(key), parameters_in(trial))
        self._end_in_search(self._place, key, Ending(trial.user_attrs, trial.values, trial.constraints))
        return None

    def _begin(self, config: TrialConfig) -> Suggestion:
        """Give the next place to a trial that the study lists."""
        if self._choices is not None:
            choice = self._choices.add(config)
            return Suggestion(self._place, choice.key, config, choice.parameters)
        baseline_is_taken = self._key(baseline_of(config)) in self._taken
        return Suggestion(self._place, self._key(config), config, parameters_of(self._spec, config, baseline_is_taken))

    def _end_in_search(self, place: int, key: str, ending: Ending) -> None:
        if self._choices is not None:
            self._choices.end(key, ending)
        if self._front is not None:
            self._front.end(place, key, ending)

    def _end(self, suggestion: Suggestion, ending: Ending, recorded: bool) -> None:
        self._end_in_search(suggestion.place, suggestion.key, ending)
        ended = datetime.now()
        run_id, begun = self._running.pop(suggestion.key, (None, ended))
        self.is_behind = self.is_behind or not recorded
        if self.is_behind:
            return
        attributes = attributes_of(suggestion.key, suggestion.config, suggestion.place)
        if run_id is not None:
            attributes[RUN] = run_id
        trial = ended_trial(suggestion.parameters, attributes, ending, begun, ended)
        try:
            with storage_errors():
                # Not by the study, which would keep every trial in memory.
                self._storage.create_new_trial(self._study._study_id, trial)
        except StorageError as error:
            self.is_behind, self.trouble = True, error

    def _key(self, config: TrialConfig) -> str:
        return config.key(digest_of(self._data_digest, config.task))
