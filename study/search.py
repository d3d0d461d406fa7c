"""Optuna, through Ray Tune's OptunaSearch: design points first, then the sampler; no trial key twice.

One Ray Tune trial is one Optuna trial. Values and user attributes are written when it ends; one whose values are not
all finite ends as failed, because Optuna cannot rank it, and says so in its user attributes.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from study.errors import StudyError
from study.outcome import Outcome, mean_and_error
from study.space import IntRange, SearchSpace, WeightRange
from study.spec import Point, StudySpec

# Suggestions in a row that are all known already, after which the sampler gives way to random choice (in a space of few
# choices TPE can insist on the best one for ever), and after which the space counts as exhausted.
KNOWN_BEFORE_RANDOM = 5
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
            sampler=_sampler(spec, trials_before=len(_all_trials(spec, storage))),
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
            if known == KNOWN_BEFORE_RANDOM:
                self._ot_study.sampler = RandomSampler(seed=self._spec.seed + len(self._taken))
            if self._points:
                self._ot_study.enqueue_trial(point_as_params(self._points.pop(0), self._spec))
            elif self._spec.sampler == "grid":
                return str(Searcher.FINISHED)
            suggestion = super().suggest(trial_id)
            assert suggestion is not None
            ot_trial = self._ot_trials[trial_id]
            if suggestion["key"] not in self._taken:
                self._taken.add(suggestion["key"])
                for name in ("key", "aux_weight", "target_depths"):
                    ot_trial.set_user_attr({"key": "trial_key"}.get(name, name), suggestion[name])
                return suggestion
            ot_trial.set_user_attr("status_detail", f"duplicate of {suggestion['key']}")
            self._ot_study.tell(ot_trial, state=TrialState.FAIL)
            del self._ot_trials[trial_id]
        return str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna the values and user attributes of a trial that ended."""
        ot_trial = self._ot_trials.get(trial_id)
        if ot_trial is None or trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        if error or result is None or "outcome" not in result:
            ot_trial.set_user_attr("status_detail", "failed")
            self._ot_study.tell(ot_trial, state=TrialState.FAIL)
            return
        outcome = Outcome.from_json(result["outcome"])
        for name, value in _user_attributes(outcome).items():
            ot_trial.set_user_attr(name, value)
        # A network that learned nothing has small weights and a low rlct: no sampler may take it for a good one.
        ot_trial.set_constraint("learned", 0.0 if outcome.status == "ok" else 1.0)
        values = [result[name] for name in self._spec.objectives]
        if all(math.isfinite(value) for value in values):
            self._ot_study.tell(ot_trial, values)
        else:
            self._ot_study.tell(ot_trial, state=TrialState.FAIL)

    def _baseline_is_taken(self, hidden_layers: int, width: int) -> bool:
        config = self._spec.trial_config(Point(hidden_layers, width, 0.0, hidden_layers))
        assert config is not None
        return config.key(self._data_digest) in self._taken

    def _suggest_trial(self, trial: optuna.Trial) -> dict[str, Any]:
        point = suggest_point(trial, self._spec.space, self._spec.sampler == "grid", self._baseline_is_taken)
        config = self._spec.trial_config(point)
        assert config is not None, "the space offers only targets that the network has"
        return {
            "trial": config.model_dump(mode="json"),
            "key": config.key(self._data_digest),
            "aux_weight": config.self_model.aux_weight,
            "target_depths": list(config.self_model.target_depths),
        }


def open_storage(url: str) -> RDBStorage:
    """The Optuna storage at a URL.

    Raises:
        StudyError: it cannot be opened.
    """
    try:
        return RDBStorage(url)
    except Exception as error:  # The database's driver decides which.
        raise StudyError(
            f"the Optuna storage {_without_password(url)} cannot be opened: {_first_line(error)}. Check "
            "--optuna-storage, or that the folder of --store is writable and its optuna.db is one of this Optuna."
        ) from error


def reconcile(spec: StudySpec, storage: RDBStorage) -> list[Point]:
    """End the trials that a killed driver left open; the points they were at, to be run first.

    Raises:
        StudyError: the stored study has other objectives or directions.
    """
    try:
        study = optuna.load_study(study_name=spec.name, storage=storage)
    except KeyError:
        return []
    directions = [direction.name.lower() for direction in study.directions]
    if directions != list(spec.objectives.values()):
        raise StudyError(
            f"the Optuna study {spec.name!r} has the directions {directions}, the spec's objectives "
            f"{list(spec.objectives.values())}. Give the study another --name, or use another store."
        )
    interrupted = []
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
        if frozen.state == TrialState.WAITING:
            # Only a running trial can be ended: asking makes it one.
            number = study.ask().number
        else:
            number = frozen.number
            study._storage.set_trial_user_attr(frozen._trial_id, "status_detail", "interrupted")
            # Without all its parameters chosen, it is no point yet.
            with contextlib.suppress(ValueError):
                fixed = optuna.trial.FixedTrial(frozen.params)
                # It names `self_modeling` only if the baseline was offered to it.
                offered = "self_modeling" in frozen.params
                interrupted.append(suggest_point(fixed, spec.space, baseline_is_taken=lambda *_, o=offered: not o))
        study.tell(number, state=TrialState.FAIL)
    return interrupted


def suggest_point(
    trial: optuna.trial.BaseTrial,
    space: SearchSpace,
    is_grid: bool = False,
    baseline_is_taken: Callable[[int, int], bool] = lambda hidden_layers, width: False,
) -> Point:
    """Choose a point: each dimension left open becomes an Optuna parameter of the same name.

    A range of aux_weight with a baseline adds the yes/no parameter `self_modeling`, as long as the baseline of that
    network has not run: a network has only one. `target_depth` is chosen among the layers that the chosen number of
    layers has, and only where there is something to target.
    """
    hidden_layers = int(_suggest_number(trial, space, "hidden_layers", is_grid))
    width = int(_suggest_number(trial, space, "width", is_grid))
    weights = space.aux_weight
    if isinstance(weights, WeightRange):
        offered = weights.baseline and not baseline_is_taken(hidden_layers, width)
        modeling = trial.suggest_categorical("self_modeling", [False, True]) if offered else True
        aux_weight = trial.suggest_float("aux_weight", weights.low, weights.high, log=weights.log) if modeling else 0.0
    else:
        aux_weight = float(_suggest_number(trial, space, "aux_weight", is_grid))
    target = _suggest_target(trial, space, hidden_layers) if aux_weight > 0 else hidden_layers
    return Point(hidden_layers, width, aux_weight, target)


def point_as_params(point: Point, spec: StudySpec) -> dict[str, Any]:
    """The Optuna parameters that make `suggest_point` choose this point."""
    space = spec.space
    params: dict[str, Any] = {"hidden_layers": point.hidden_layers, "width": point.width}
    if isinstance(space.aux_weight, WeightRange):
        params["self_modeling"] = point.aux_weight > 0
    if point.aux_weight > 0 or not isinstance(space.aux_weight, WeightRange):
        params["aux_weight"] = point.aux_weight
    if point.aux_weight > 0:
        target = (
            point.hidden_layers if point.target_depth == "last" and space.target_depth == "any" else point.target_depth
        )
        params[_target_name(space, point.hidden_layers)] = target
    return params


def _suggest_number(trial: optuna.trial.BaseTrial, space: SearchSpace, name: str, is_grid: bool) -> float:
    dimension = getattr(space, name)
    if isinstance(dimension, IntRange):
        return trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
    choices = space.choices(name)
    assert choices is not None
    if not is_grid:
        return float(trial.suggest_categorical(name, choices)) if len(choices) > 1 else float(choices[0])
    # The cells are enqueued, nothing is drawn: a numeric axis plots better than categories, and may grow later.
    if name == "aux_weight":
        return trial.suggest_float(name, min(choices), max(choices))
    return trial.suggest_int(name, min(choices), max(choices))


def _suggest_target(trial: optuna.trial.BaseTrial, space: SearchSpace, hidden_layers: int) -> int | str:
    name = _target_name(space, hidden_layers)
    if space.target_depth == "any":
        return trial.suggest_int(name, 1, hidden_layers)
    choices = space.targets_within(hidden_layers)
    if len(choices) == 1:
        return choices[0]
    chosen = trial.suggest_categorical(name, choices)
    assert isinstance(chosen, int | str)
    return chosen


def _target_name(space: SearchSpace, hidden_layers: int) -> str:
    """Optuna needs the same choices at every use of a categorical name: one name per number of layers."""
    return f"target_depth_of_{hidden_layers}" if isinstance(space.target_depth, list) else "target_depth"


def _sampler(spec: StudySpec, trials_before: int) -> BaseSampler:
    # A study that goes on must not draw the same numbers again.
    seed = spec.seed + trials_before
    if spec.sampler == "nsga2":
        return NSGAIISampler(seed=seed)
    if spec.sampler == "tpe":
        # Trials run side by side: constant_liar keeps one from repeating what another is trying.
        return TPESampler(seed=seed, constant_liar=True)
    return RandomSampler(seed=seed)


def _all_trials(spec: StudySpec, storage: RDBStorage) -> list[Any]:
    try:
        return storage.get_all_trials(storage.get_study_id_from_name(spec.name), deepcopy=False)
    except KeyError:
        return []


def _user_attributes(outcome: Outcome) -> dict[str, Any]:
    # The error of the mean over replicates: it takes the name of each replicate's own error over chains.
    summary = mean_and_error({name: values for name, values in outcome.measurements.items() if name != "rlct_se"})
    finite = {name: value for name, value in summary.items() if math.isfinite(value)}
    return finite | {
        "status_detail": outcome.status,
        "rlct_verdict": outcome.rlct_verdict,
        "seconds": sum(outcome.seconds.values()),
    }


def _without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(not a database URL)"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
