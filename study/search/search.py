"""Optuna's ask and tell: design points first, then the sampler; no trial key twice.

Values and user attributes of an Optuna trial are written after its networks are measured. A trial with a value that is
not finite ends as failed, because Optuna cannot rank it; its user attributes say so.
"""

import random
import warnings
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from study.record.outcome import FAILED, Outcome
from study.search.parameters import make_sampler, point_as_params, suggest_point
from study.search.store import RECORD, Ending, storage_errors, tell_ending
from study.spec import Point, StudySpec
from trainables.trial import TrialConfig

# After this many known suggestions in a row, the next point is drawn at random from those left (in a space of few
# points TPE can repeat the best one for ever); after the second number, the space counts as exhausted.
KNOWN_BEFORE_RANDOM = 3
KNOWN_IN_A_ROW = 200
# Fields of a trial's configuration that its Optuna trial has as user attributes.
ATTRIBUTES = ("aux_weight", "target_depths", "control")


class Suggestion(NamedTuple):
    """A trial to run: its Optuna trial, key and configuration."""

    optuna_trial: optuna.Trial
    key: str
    config: TrialConfig


class Search:
    """Asks Optuna for trials, and tells it how they end.

    `points` are suggested first; `taken` are keys of trials that need not run again; `record` is the study's run in the
    record, by which Optuna's study names the record that it belongs to.

    Raises (all methods):
        StudyError: Optuna's storage cannot be used.
    """

    def __init__(
        self,
        spec: StudySpec,
        data_digest: str,
        storage: BaseStorage,
        points: Iterable[Point],
        taken: Iterable[str],
        record: str | None = None,
    ):
        self._spec = spec
        self._data_digest = data_digest
        self._points = list(points)
        self._taken = set(taken)
        with storage_errors():
            self._study = _open_study(spec, storage, record)

    def ask(self) -> Suggestion | None:
        """The next design point, or the sampler's next new choice; None when nothing is left."""
        with storage_errors():
            return self._ask_for_new()

    def tell(self, suggestion: Suggestion, outcome: Outcome) -> None:
        """Tell Optuna the values and user attributes of a recorded trial."""
        with storage_errors():
            tell_ending(self._study, suggestion.optuna_trial, self._spec, Ending.of(outcome))

    def fail(self, suggestion: Suggestion) -> None:
        """Tell Optuna of a trial that failed.

        Do not call it for a trial that was stopped with the study: `reconcile` finds that one when the study goes on.
        """
        with storage_errors():
            suggestion.optuna_trial.set_user_attr("status_detail", FAILED)
            self._study.tell(suggestion.optuna_trial, state=TrialState.FAIL)

    def _ask_for_new(self) -> Suggestion | None:
        known = 0  # suggestions of the sampler for this trial that are taken
        while known < KNOWN_IN_A_ROW:
            sampled = not self._points
            if sampled and self._spec.is_enumerated:
                break
            at_random = sampled and known >= KNOWN_BEFORE_RANDOM
            if at_random and self._all_points is not None and not self._draw_from_what_is_left():
                break
            self._study.sampler = make_sampler(self._spec, len(self._taken), known, at_random)
            if self._points:
                self._study.enqueue_trial(point_as_params(self._points.pop(0), self._spec))
            trial = self._study.ask()
            config = self._suggest_trial(trial)
            key = config.key(self._data_digest)
            if key not in self._taken:
                self._taken.add(key)
                trial.set_user_attr("trial_key", key)
                model = config.self_model.model_dump(mode="json")
                for name in ATTRIBUTES:
                    trial.set_user_attr(name, model[name])
                return Suggestion(trial, key, config)
            trial.set_user_attr("status_detail", f"duplicate of {key}")
            self._study.tell(trial, state=TrialState.FAIL)
            known += sampled
        return None

    def _draw_from_what_is_left(self) -> bool:
        """Choose the next suggestion at random; False if all points are taken."""
        assert self._all_points is not None
        left = [point for key, point in self._all_points if key not in self._taken]
        seed = self._spec.seed + len(self._taken)
        self._points += random.Random(seed).sample(left, k=min(1, len(left)))
        return bool(left)

    @cached_property
    def _all_points(self) -> list[tuple[str, Point]] | None:
        """Key and point of every different trial of the space; None if there are too many. Making them takes long."""
        every = self._spec.all_trials()
        return None if every is None else [(config.key(self._data_digest), point) for point, config in every]

    def _suggest_trial(self, trial: optuna.Trial) -> TrialConfig:
        config = self._spec.trial_config(suggest_point(trial, self._spec, self._baseline_is_taken))
        assert config is not None, "the space offers only targets that the network has"
        return config

    def _baseline_is_taken(self, hidden_layers: int, width: int) -> bool:
        baseline = Point(hidden_layers, width, 0.0, "last")
        return self._spec.trial_key(baseline, self._data_digest) in self._taken


def _open_study(spec: StudySpec, storage: BaseStorage, record: str | None) -> optuna.Study:
    """The stored Optuna study, a new one if there is none yet; it names its record."""
    study = optuna.create_study(
        study_name=spec.name,
        storage=storage,
        directions=list(spec.objectives.values()),
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(spec.objectives))
    study.set_user_attr("question", spec.question)
    if record is not None:
        study.set_user_attr(RECORD, record)
    return study
