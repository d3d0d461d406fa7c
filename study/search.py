"""Optuna, through Ray Tune's OptunaSearch: design points first, then the sampler; no trial key twice.

One Ray Tune trial is one Optuna trial. Values and user attributes are written when it ends; one whose values are not
all finite ends as failed, because Optuna cannot rank it, and says so in its user attributes.
"""

import math
import random
import warnings
from collections.abc import Iterable
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from study.optuna_store import set_constraints
from study.outcome import Outcome, mean_and_error
from study.sampling import make_sampler, point_as_params, suggest_point
from study.spec import Point, StudySpec

# Suggestions in a row that are all known already, after which the sampler gives way to a random choice of what is left
# (in a space of few places TPE can insist on the best one for ever), and after which the space counts as exhausted.
KNOWN_BEFORE_RANDOM = 3
KNOWN_IN_A_ROW = 200


class StudySearch(OptunaSearch):
    """Suggests trial configurations; `points` are run first, `taken` are the keys that need not run again."""

    def __init__(
        self, spec: StudySpec, data_digest: str, storage: RDBStorage, points: Iterable[Point], taken: Iterable[str]
    ):
        self._spec = spec
        self._data_digest = data_digest
        self._points = list(points)
        self._taken = set(taken)
        self._ot_study: optuna.Study  # type: ignore[assignment]
        super().__init__(
            space=self._suggest_trial,
            metric=list(spec.objectives),
            mode=["max" if direction == "maximize" else "min" for direction in spec.objectives.values()],
            sampler=make_sampler(spec, trials_before=_count_trials(spec, storage)),
            storage=storage,
            study_name=spec.name,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._ot_study.set_metric_names(list(spec.objectives))
        self._ot_study.set_user_attr("question", spec.question)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next design point, or the sampler's next choice that is not known already."""
        chosen_sampler = self._ot_study.sampler
        try:
            return self._suggest_new(trial_id)
        finally:
            self._ot_study.sampler = chosen_sampler

    def _suggest_new(self, trial_id: str) -> dict[str, Any] | str:
        for known in range(KNOWN_IN_A_ROW):
            if not self._points and self._spec.is_enumerated:
                break
            if known == KNOWN_BEFORE_RANDOM and not self._points and not self._draw_from_what_is_left():
                break
            if self._points:
                self._ot_study.enqueue_trial(point_as_params(self._points.pop(0), self._spec))
            suggestion = super().suggest(trial_id)
            assert suggestion is not None
            ot_trial = self._ot_trials[trial_id]
            if suggestion["key"] not in self._taken:
                self._taken.add(suggestion["key"])
                ot_trial.set_user_attr("trial_key", suggestion["key"])
                for name in ("aux_weight", "target_depths", "control"):
                    ot_trial.set_user_attr(name, suggestion[name])
                return suggestion
            ot_trial.set_user_attr("status_detail", f"duplicate of {suggestion['key']}")
            self._ot_study.tell(ot_trial, state=TrialState.FAIL)
            del self._ot_trials[trial_id]
        return str(Searcher.FINISHED)

    def _draw_from_what_is_left(self) -> bool:
        """Let chance choose the next suggestion; False if no place is left that is not taken."""
        seed = self._spec.seed + len(self._taken)
        places = self._spec.places()
        if places is None:
            self._ot_study.sampler = RandomSampler(seed=seed)
            return True
        left = [point for point in places if self._spec.trial_key(point, self._data_digest) not in self._taken]
        self._points += random.Random(seed).sample(left, k=min(1, len(left)))
        return bool(left)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna of a trial that failed. One that succeeded waits for `tell`, until the record has it.

        One that was stopped stays open: `reconcile` finds it when the study goes on.
        """
        if error:
            ot_trial = self._ot_trials.pop(trial_id, None)
            if ot_trial is not None:
                ot_trial.set_user_attr("status_detail", "failed")
                self._ot_study.tell(ot_trial, state=TrialState.FAIL)

    def tell(self, trial_id: str, outcome: Outcome) -> None:
        """Tell Optuna the values and user attributes of a trial that the record has."""
        ot_trial = self._ot_trials.pop(trial_id)
        summary = _summary(outcome)
        attributes = {name: value for name, value in summary.items() if math.isfinite(value)} | {
            "status_detail": outcome.status,
            "rlct_verdict": outcome.rlct.verdict,
            "seconds": sum(outcome.seconds.values()),
        }
        for name, value in attributes.items():
            ot_trial.set_user_attr(name, value)
        set_constraints(ot_trial, self._spec, outcome.status, outcome.rlct.verdict)
        values = [summary[name] for name in self._spec.objectives]
        if all(math.isfinite(value) for value in values):
            self._ot_study.tell(ot_trial, values)
        else:
            self._ot_study.tell(ot_trial, state=TrialState.FAIL)

    def _baseline_is_taken(self, hidden_layers: int, width: int) -> bool:
        baseline = Point(hidden_layers, width, 0.0, "last")
        return self._spec.trial_key(baseline, self._data_digest) in self._taken

    def _suggest_trial(self, trial: optuna.Trial) -> dict[str, Any]:
        point = suggest_point(trial, self._spec, self._baseline_is_taken)
        config = self._spec.trial_config(point)
        assert config is not None, "the space offers only targets that the network has"
        return {
            "trial": config.model_dump(mode="json"),
            "key": config.key(self._data_digest),
            "aux_weight": config.self_model.aux_weight,
            "target_depths": list(config.self_model.target_depths),
            "control": config.self_model.control,
        }


def _count_trials(spec: StudySpec, storage: RDBStorage) -> int:
    try:
        return storage.get_n_trials(storage.get_study_id_from_name(spec.name))
    except KeyError:
        return 0


def _summary(outcome: Outcome) -> dict[str, float]:
    # The error of the mean over replicates: it takes the name of each replicate's own error over chains.
    return mean_and_error({name: values for name, values in outcome.measurements.items() if name != "rlct_se"})
