"""The search of a study: which trial comes next, and the stored Optuna study, which is told how each one ends.

Values and user attributes of an Optuna trial are written after its networks are measured. A trial with a value that is
not finite ends as failed, because Optuna cannot rank it; its user attributes say so.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.record.outcome import FAILED, Outcome
from study.record.protocol import DataDigest, digest_of
from study.search.choices import Choices
from study.search.parameters import (
    Parameters,
    baseline_of,
    fields_of_trial,
    parameters_in,
    parameters_of,
    parameters_of_space,
)
from study.search.samplers import check_sampler
from study.search.store import RECORD, open_study, storage_errors, tell_ending
from study.search.view import KEY, PLACE, RUN, Ending, attributes_of
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

    Raises (all methods):
        StudyError: Optuna's storage cannot be used.
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
        self._choices = None
        if chooses and not spec.is_enumerated:
            self._choices = Choices(spec, self._key, workers)
            self._listed = {self._key(config) for config in spec.listed()}
        self._storage = storage
        self._stored: dict[str, optuna.Trial] = {}  # trials that run, by key
        with storage_errors():
            self._study = open_study(spec, storage)
            if record is not None:
                self._study.set_user_attr(RECORD, record)

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
            self._place += 1
            if suggestion is not None:
                self._taken.add(suggestion.key)
                return suggestion

    def start(self, suggestion: Suggestion, run_id: str) -> None:
        """Tell Optuna that a trial runs, or runs again after an interruption, and which run of the record it has."""
        with storage_errors():
            if suggestion.key in self._stored:
                self._stored[suggestion.key].set_user_attr(RUN, run_id)
            else:
                self._store(suggestion, {RUN: run_id})

    def tell(self, suggestion: Suggestion, outcome: Outcome) -> None:
        """Tell Optuna the values and user attributes of a recorded trial."""
        self._end(suggestion, Ending.of(outcome, self._spec))

    def fail(self, suggestion: Suggestion) -> None:
        """Tell Optuna of a trial that failed.

        Do not call it for a trial that was stopped with the study: `reconcile` finds that one when the study goes on.
        """
        self._end(suggestion, Ending.without_result(FAILED))

    def _recall(self, trial: FrozenTrial) -> Suggestion | None:
        """Take in a trial that has begun; return it if it is to run again."""
        key = trial.user_attrs[KEY]
        self._taken.add(key)
        if self._choices is not None:
            self._choices.recall(key, trial, key in self._listed)
        if key in self._again:
            return Suggestion(self._place, key, self._again.pop(key), parameters_in(trial))
        if self._choices is not None:
            self._choices.end(key, Ending(trial.user_attrs, trial.values, trial.constraints))
        return None

    def _begin(self, config: TrialConfig) -> Suggestion:
        """Give the next place to a trial that the study lists."""
        if self._choices is not None:
            choice = self._choices.add(config)
            return Suggestion(self._place, choice.key, config, choice.parameters)
        baseline_is_taken = self._key(baseline_of(config)) in self._taken
        return Suggestion(self._place, self._key(config), config, parameters_of(self._spec, config, baseline_is_taken))

    def _store(self, suggestion: Suggestion, attributes: dict[str, str]) -> None:
        """Add a running trial to the stored study."""
        running = create_trial(
            state=TrialState.RUNNING,
            user_attrs=attributes_of(suggestion.key, suggestion.config, suggestion.place) | attributes,
            **fields_of_trial(suggestion.parameters),
        )
        number = self._storage.create_new_trial(self._study._study_id, running)
        self._stored[suggestion.key] = optuna.Trial(self._study, number)

    def _end(self, suggestion: Suggestion, ending: Ending) -> None:
        if self._choices is not None:
            self._choices.end(suggestion.key, ending)
        with storage_errors():
            if suggestion.key not in self._stored:
                self._store(suggestion, {})
            tell_ending(self._study, self._stored.pop(suggestion.key), ending)

    def _key(self, config: TrialConfig) -> str:
        return config.key(digest_of(self._data_digest, config.task))
