"""Optuna's ask and tell: design points first, then the sampler; no trial key twice.

Values and user attributes of an Optuna trial are written after its networks are measured. A trial with a value that is
not finite ends as failed, because Optuna cannot rank it; its user attributes say so.
"""

import math
import random
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from study.record.outcome import FAILED, Outcome, mean_and_error
from study.search.parameters import make_sampler, point_as_params, suggest_point
from study.search.store import set_constraints, storage_errors
from study.spec import Point, StudySpec
from trainables.measures import MEASURES
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

    `points` are suggested first; `taken` are keys of trials that need not run again.

    Raises (all methods):
        StudyError: Optuna's storage cannot be used.
    """

    def __init__(
        self, spec: StudySpec, data_digest: str, storage: RDBStorage, points: Iterable[Point], taken: Iterable[str]
    ):
        self._spec = spec
        self._data_digest = data_digest
        self._points = list(points)
        self._taken = set(taken)
        with storage_errors():
            self._study = _open_study(spec, storage)

    def ask(self) -> Suggestion | None:
        """The next design point, or the sampler's next new choice; None when nothing is left."""
        chosen_sampler = self._study.sampler
        try:
            with storage_errors():
                return self._ask_for_new()
        finally:
            self._study.sampler = chosen_sampler

    def tell(self, suggestion: Suggestion, outcome: Outcome) -> None:
        """Tell Optuna the values and user attributes of a recorded trial."""
        trial = suggestion.optuna_trial
        # The standard error of a replicate's value is no measure of the trial.
        errors = {measure.error for measure in MEASURES.values()}
        summary = mean_and_error({name: each for name, each in outcome.measurements.items() if name not in errors})
        attributes = {name: value for name, value in summary.items() if math.isfinite(value)} | {
            "status_detail": outcome.status,
            "rlct_verdict": outcome.rlct.verdict,
            "seconds": sum(outcome.seconds.values()),
        }
        values = [summary[name] for name in self._spec.objectives]
        with storage_errors():
            for name, value in attributes.items():
                trial.set_user_attr(name, value)
            set_constraints(trial, self._spec, outcome.status, outcome.rlct.verdict)
            if all(math.isfinite(value) for value in values):
                self._study.tell(trial, values)
            else:
                self._study.tell(trial, state=TrialState.FAIL)

    def fail(self, suggestion: Suggestion) -> None:
        """Tell Optuna of a trial that failed.

        Do not call it for a trial that was stopped with the study: `reconcile` finds that one when the study goes on.
        """
        with storage_errors():
            suggestion.optuna_trial.set_user_attr("status_detail", FAILED)
            self._study.tell(suggestion.optuna_trial, state=TrialState.FAIL)

    def _ask_for_new(self) -> Suggestion | None:
        for known in range(KNOWN_IN_A_ROW):
            if not self._points and self._spec.is_enumerated:
                break
            if known == KNOWN_BEFORE_RANDOM and not self._points and not self._draw_from_what_is_left():
                break
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
        return None

    def _draw_from_what_is_left(self) -> bool:
        """Choose the next suggestion at random; False if all points are taken."""
        seed = self._spec.seed + len(self._taken)
        every = self._spec.all_trials()
        if every is None:
            self._study.sampler = RandomSampler(seed=seed)
            return True
        left = [point for point, config in every if config.key(self._data_digest) not in self._taken]
        self._points += random.Random(seed).sample(left, k=min(1, len(left)))
        return bool(left)

    def _suggest_trial(self, trial: optuna.Trial) -> TrialConfig:
        config = self._spec.trial_config(suggest_point(trial, self._spec, self._baseline_is_taken))
        assert config is not None, "the space offers only targets that the network has"
        return config

    def _baseline_is_taken(self, hidden_layers: int, width: int) -> bool:
        baseline = Point(hidden_layers, width, 0.0, "last")
        return self._spec.trial_key(baseline, self._data_digest) in self._taken


def _open_study(spec: StudySpec, storage: RDBStorage) -> optuna.Study:
    """The stored Optuna study, a new one if there is none yet."""
    study = optuna.create_study(
        study_name=spec.name,
        storage=storage,
        directions=list(spec.objectives.values()),
        load_if_exists=True,
    )
    study.sampler = make_sampler(spec, trials_before=len(study.get_trials(deepcopy=False)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(spec.objectives))
    study.set_user_attr("question", spec.question)
    return study
