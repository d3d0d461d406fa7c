"""Optuna's ask and tell: design points first, then the sampler; no trial key twice.

Values and user attributes of an Optuna trial are written after its networks are measured. A trial with a value that is
not finite ends as failed, because Optuna cannot rank it; its user attributes say so.
"""

import random
from collections import deque
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage

from study.record.outcome import FAILED, Outcome
from study.record.protocol import DataDigest, digest_of
from study.search.parameters import baseline_of, parameters_of, parameters_of_space, suggest_trial
from study.search.samplers import check_sampler, make_sampler
from study.search.store import RECORD, open_study, storage_errors, tell_ending
from study.search.view import RUN, Ending, attributes_of
from study.spec import StudySpec
from trainables.errors import ConfigError
from trainables.fields import TARGET
from trainables.trial import TrialConfig

# After this many known suggestions in a row, the next point is drawn at random from those left (in a space of few
# points TPE can repeat the best one for ever); after the second number, the space counts as exhausted.
KNOWN_BEFORE_RANDOM = 3
KNOWN_IN_A_ROW = 200
# The status_detail of a suggestion whose choices contradict each other.
IMPOSSIBLE = "impossible: its choices contradict each other"


class Suggestion(NamedTuple):
    """A trial to run: its Optuna trial, key and configuration."""

    optuna_trial: optuna.Trial
    key: str
    config: TrialConfig


def check_search(spec: StudySpec) -> None:
    """Check that the sampler of a study has its options right and can search the space.

    Raises:
        StudyError: it cannot, or a package that it needs is missing.
    """
    if spec.is_enumerated:
        return
    asked, _ = parameters_of_space(spec)
    numeric = not any(isinstance(distribution, CategoricalDistribution) for distribution in asked.values())
    check_sampler(spec.sampler, len(spec.objectives), numeric)


class Search:
    """Asks Optuna for trials, and tells it how they end.

    `trials` are suggested first; `taken` are keys of trials that need not run again; `record` is the study's run in the
    record, by which Optuna's study names the record that it belongs to.

    Raises (all methods):
        StudyError: Optuna's storage cannot be used.
    """

    def __init__(
        self,
        spec: StudySpec,
        data_digest: DataDigest,
        storage: BaseStorage,
        trials: Iterable[TrialConfig],
        taken: Iterable[str],
        record: str | None = None,
    ):
        self._spec = spec
        self._data_digest = data_digest
        self._trials = deque(trials)
        self._taken = set(taken)
        with storage_errors():
            self._study = open_study(spec, storage)
            if record is not None:
                self._study.set_user_attr(RECORD, record)

    def ask(self) -> Suggestion | None:
        """The next design point, or the sampler's next new choice; None when nothing is left."""
        with storage_errors():
            return self._ask_for_new()

    def start(self, suggestion: Suggestion, run_id: str) -> None:
        """Tell Optuna that a trial runs, or runs again after an interruption, and which run of the record it has."""
        with storage_errors():
            suggestion.optuna_trial.set_user_attr(RUN, run_id)

    def tell(self, suggestion: Suggestion, outcome: Outcome) -> None:
        """Tell Optuna the values and user attributes of a recorded trial."""
        with storage_errors():
            tell_ending(self._study, suggestion.optuna_trial, Ending.of(outcome, self._spec))

    def fail(self, suggestion: Suggestion) -> None:
        """Tell Optuna of a trial that failed.

        Do not call it for a trial that was stopped with the study: `reconcile` finds that one when the study goes on.
        """
        with storage_errors():
            tell_ending(self._study, suggestion.optuna_trial, Ending.without_result(FAILED))

    def _ask_for_new(self) -> Suggestion | None:
        known = 0  # suggestions of the sampler for this trial that are taken
        while known < KNOWN_IN_A_ROW:
            sampled = not self._trials
            if sampled and self._spec.is_enumerated:
                break
            at_random = sampled and known >= KNOWN_BEFORE_RANDOM
            if at_random and self._all_trials is not None and not self._draw_from_what_is_left():
                break
            if not self._spec.is_enumerated:
                sampler, seed = self._spec.sampler, self._spec.seed
                self._study.sampler = make_sampler(sampler, seed, len(self._taken), known, at_random)
            trial, config = self._ask_for(self._trials.popleft()) if self._trials else self._ask_sampler()
            key = "" if config is None else self._key(config)
            if config is not None and key not in self._taken and self._goes_by_its_name(trial, config):
                self._taken.add(key)
                for name, value in attributes_of(key, config).items():
                    trial.set_user_attr(name, value)
                return Suggestion(trial, key, config)
            why = f"duplicate of {key}" if key else IMPOSSIBLE
            if config is not None and key not in self._taken:
                why = f"another name of {key}"
                self._trials.append(config)
            tell_ending(self._study, trial, Ending.without_result(why))
            known += sampled
        return None

    def _ask_for(self, config: TrialConfig) -> tuple[optuna.Trial, TrialConfig]:
        """A trial of Optuna with the parameters of this one."""
        parameters = parameters_of(self._spec, config, self._is_taken(baseline_of(config)))
        self._study.enqueue_trial({name: value for name, (value, _) in parameters.items()})
        return self._study.ask({name: distribution for name, (_, distribution) in parameters.items()}), config

    def _ask_sampler(self) -> tuple[optuna.Trial, TrialConfig | None]:
        """A trial of the sampler's choice; None for choices that contradict each other."""
        trial = self._study.ask()
        try:
            return trial, suggest_trial(trial, self._spec, self._is_taken)
        except ConfigError:
            return trial, None

    def _goes_by_its_name(self, trial: optuna.Trial, config: TrialConfig) -> bool:
        """Whether Optuna's trial has the parameters by which the record knows it.

        A control of strength 0 is the baseline, which is no trial of that control.
        """
        parameters = parameters_of(self._spec, config, self._is_taken(baseline_of(config)))
        # A layer has several names, 'last' and its depth, of which the sampler may keep any.
        return trial.distributions == {name: distribution for name, (_, distribution) in parameters.items()} and all(
            trial.params[name] == value for name, (value, _) in parameters.items() if not name.startswith(TARGET)
        )

    def _draw_from_what_is_left(self) -> bool:
        """Choose the next suggestion at random; False if all trials are taken."""
        assert self._all_trials is not None
        left = [config for key, config in self._all_trials if key not in self._taken]
        seed = self._spec.seed + len(self._taken)
        self._trials += random.Random(seed).sample(left, k=min(1, len(left)))
        return bool(left)

    @cached_property
    def _all_trials(self) -> list[tuple[str, TrialConfig]] | None:
        """Key and configuration of every different trial of the space; None if there are too many."""
        every = self._spec.all_trials()
        return None if every is None else [(self._key(config), config) for config in every]

    def _is_taken(self, config: TrialConfig) -> bool:
        return self._key(config) in self._taken

    def _key(self, config: TrialConfig) -> str:
        return config.key(digest_of(self._data_digest, config.task))
