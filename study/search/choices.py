"""The trials that a study's sampler chooses: each from the results of the same earlier trials, whatever ends first."""

import random
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.search.parameters import (
    Parameters,
    baseline_of,
    fields_of_trial,
    parameters_in,
    parameters_of,
    quieten_optuna,
    suggest_trial,
)
from study.search.samplers import knows_by_trials_alone, looks_at_results, make_sampler
from study.search.store import tell_ending
from study.search.view import Ending
from study.spec import StudySpec
from trainables.errors import ConfigError
from trainables.trial import TrialConfig

# After this many known suggestions in a row, the next point is drawn at random from those left (in a space of few
# points TPE can repeat the best one for ever); after the second number, the space counts as exhausted.
KNOWN_BEFORE_RANDOM = 3
KNOWN_IN_A_ROW = 200


def lag_of(workers: int) -> int:
    """By how many places the results that a sampler knows lie behind the trial that it chooses.

    With one worker, it knows all trials before. Several hardly ever wait for a slow one: with trials that take one to
    four times as long as others, eight of them are busy 98 % of the time; with a lag of 8, they would be 74 %.
    """
    return 2 * workers - 1


class Choice(NamedTuple):
    """A chosen trial, and the parameters of Optuna by which it was chosen."""

    config: TrialConfig
    key: str
    parameters: Parameters


class Choices:
    """Chooses the trials of a search, by place: the first trial of the study has place 0.

    The sampler has an Optuna study of its own, in memory, whose trials end in the order of their places: at place n it
    knows the endings of the trials up to place n − lag, and takes all later ones for running. What it chooses depends
    on these alone, and on the study's seed. A search that is interrupted and goes on recalls its trials, and then
    chooses what it would have chosen.

    Args:
        spec: a study whose sampler chooses trials.
        key_of: gives the key of a trial.
        workers: number of trials that run side by side, which sets the lag.
    """

    def __init__(self, spec: StudySpec, key_of: Callable[[TrialConfig], str], workers: int):
        quieten_optuna()
        self._spec = spec
        self._key_of = key_of
        self._lag = lag_of(workers)
        # A trial is compared with those that the sampler knows: these are to be the same, whatever ends first.
        self._looks_at_results = looks_at_results(spec.sampler) or spec.stopping is not None
        self._by_trials_alone = knows_by_trials_alone(spec.sampler, len(spec.objectives))
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(storage=self._storage, directions=list(spec.objectives.values()))
        self._places = 0  # that are taken
        self._taken: set[str] = set()  # keys of the trials there
        self._running: list[tuple[int, str, optuna.Trial]] = []  # as the sampler knows: place, key and trial
        self._endings: dict[str, Ending] = {}  # by key, of those among them that have ended

    @property
    def is_ready(self) -> bool:
        """Whether all trials have ended that the sampler is to know at the next place."""
        return all(key in self._endings for _, key, _ in self._due)

    def choose(self) -> Choice | None:
        """The sampler's next new choice; None when nothing is left."""
        found = self._new_choice()
        if found is None:
            return None
        trial, choice = found
        self._take(trial, choice.key)
        return choice

    def add(self, config: TrialConfig) -> Choice:
        """A trial that the study lists: the sampler does not choose it, and learns from it."""
        choice = self._choice(config)
        self._prepare(known=0)
        self._take(self._ask_for(choice.parameters), choice.key)
        return choice

    def recall(self, key: str, trial: FrozenTrial, listed: bool) -> None:
        """A trial that an earlier driver has begun, at the next place; no sampler chose those that are `listed`.

        A sampler that keeps notes chooses it once more, to make the same notes.
        """
        if self._by_trials_alone:
            # It takes no sampling to add a trial.
            self._study.sampler = RandomSampler()
            running = create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions)
            number = self._storage.create_new_trial(self._study._study_id, running)
            self._take(optuna.Trial(self._study, number), key)
            return
        if not listed and (found := self._new_choice()) is not None:
            again, choice = found
            if choice.key == key:
                self._take(again, key)
                return
            # The space, the number of workers or a result has changed since.
            self._study.tell(again, state=TrialState.FAIL)
        self._prepare(known=0)
        self._take(self._ask_for(parameters_in(trial)), key)

    def end(self, key: str, ending: Ending) -> None:
        """A trial has ended."""
        self._endings[key] = ending

    def _new_choice(self) -> tuple[optuna.Trial, Choice] | None:
        """A new choice, with its trial in the sampler's study; None when nothing is left."""
        known = 0  # suggestions of the sampler for this place that are taken
        while known < KNOWN_IN_A_ROW:
            at_random = known >= KNOWN_BEFORE_RANDOM
            if at_random and self._all_trials is not None:
                config = self._one_of_those_left()
                return None if config is None else self._asked_for(self._choice(config), known, at_random)
            self._prepare(known, at_random)
            trial, config = self._ask_sampler()
            known += 1
            choice = None if config is None else self._choice(config)
            if choice is not None and choice.key not in self._taken and parameters_in(trial) == choice.parameters:
                return trial, choice
            self._study.tell(trial, state=TrialState.FAIL)
            if choice is not None and choice.key not in self._taken:
                # It has other parameters in the record: a control of strength 0 is the baseline, which is no trial of
                # that control, and the last layer may be 'last' or 2.
                return self._asked_for(choice, known)
        return None

    def _asked_for(self, choice: Choice, known: int, at_random: bool = False) -> tuple[optuna.Trial, Choice]:
        """A choice with a trial of its parameters in the sampler's study."""
        self._prepare(known, at_random)
        return self._ask_for(choice.parameters), choice

    def _take(self, trial: optuna.Trial, key: str) -> None:
        """Give the next place to a trial."""
        self._running.append((self._places, key, trial))
        self._places += 1
        self._taken.add(key)

    @property
    def _due(self) -> list[tuple[int, str, optuna.Trial]]:
        """Trials whose endings the sampler is to know at the next place, and does not know yet."""
        if not self._looks_at_results:
            return []
        return [trial for trial in self._running if trial[0] <= self._places - self._lag]

    def _prepare(self, known: int, at_random: bool = False) -> None:
        """Make the sampler for a suggestion at the next place, and tell it of the endings that it is to know."""
        self._study.sampler = make_sampler(self._spec.sampler, self._spec.seed, self._places, known, at_random)
        for running in [each for each in self._due if each[1] in self._endings]:
            _, key, trial = running
            tell_ending(self._study, trial, self._endings[key])
            self._running.remove(running)

    def _ask_for(self, parameters: Parameters) -> optuna.Trial:
        """A trial with these parameters in the sampler's study."""
        fields = fields_of_trial(parameters)
        self._study.enqueue_trial(fields["params"])
        return self._study.ask(fields["distributions"])

    def _ask_sampler(self) -> tuple[optuna.Trial, TrialConfig | None]:
        """A trial of the sampler's choice; None for choices that contradict each other."""
        trial = self._study.ask()
        try:
            return trial, suggest_trial(trial, self._spec, self._is_taken)
        except ConfigError:
            return trial, None

    def _choice(self, config: TrialConfig) -> Choice:
        """A trial by the parameters by which the record knows it."""
        parameters = parameters_of(self._spec, config, self._is_taken(baseline_of(config)))
        return Choice(config, self._key_of(config), parameters)

    def _one_of_those_left(self) -> TrialConfig | None:
        """One of the trials that have no place yet, at random; None if all have."""
        assert self._all_trials is not None
        left = [config for key, config in self._all_trials if key not in self._taken]
        seed = self._spec.seed + len(self._taken)
        return random.Random(seed).choice(left) if left else None

    @cached_property
    def _all_trials(self) -> list[tuple[str, TrialConfig]] | None:
        """Key and configuration of every different trial of the space; None if there are too many."""
        every = self._spec.all_trials()
        return None if every is None else [(self._key_of(config), config) for config in every]

    def _is_taken(self, config: TrialConfig) -> bool:
        return self._key_of(config) in self._taken
