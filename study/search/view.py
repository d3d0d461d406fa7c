"""The Optuna study that a record corresponds to.

What Optuna is told of a trial while a study runs, and what it has of that trial when its study is built again from the
record, come from the same functions.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import ValidationError

from analysis.layout import ERROR_SUFFIX
from study.record.outcome import FAILED, Outcome, mean_and_error
from study.record.reader import FinishedTrial, RecordedTrial, ended_in
from study.search.parameters import Parameters, fields_of_trial, offers, parameters_of
from study.spec import StudySpec
from trainables.config import SelfModelConfig
from trainables.measures import MEASURES
from trainables.outcomes import STOPPED_EARLY, VERDICTS
from trainables.trial import TrialConfig

# The status_detail of a trial that a killed driver left open.
INTERRUPTED = "interrupted"
# User attributes of an Optuna trial: its key, its place in the search, its run in the record, and how it ended.
KEY, PLACE, RUN, STATUS = "trial_key", "place", "run_id", "status_detail"
# The user attribute that only trials with a result have.
VERDICT = "rlct_verdict"
# The user attribute of a trial that was stopped early: why, in a line.
REASON = "reason"
# Fields of a trial's configuration that its Optuna trial has as user attributes.
ATTRIBUTES = ("aux_weight", "target_depths", "control")
# The user attribute of a trial that the space no longer has: a sampler does not see its values.
OUTSIDE = "outside_the_space"
_BASELINE = SelfModelConfig()


class Ending(NamedTuple):
    """What Optuna is told of a trial that has ended."""

    attributes: dict[str, Any]
    values: list[float] | None  # None if there are none by which Optuna can rank it
    constraints: dict[str, float]

    @property
    def state(self) -> TrialState:
        """The state of the trial: one that was stopped early is pruned, unless the space no longer has it."""
        if self.attributes.get(STATUS) == STOPPED_EARLY and OUTSIDE not in self.attributes:
            return TrialState.PRUNED
        return TrialState.FAIL if self.values is None else TrialState.COMPLETE

    @classmethod
    def of(cls, outcome: Outcome, spec: StudySpec) -> "Ending":
        """The ending of a trial with this outcome."""
        metrics = mean_and_error(outcome.measurements) | {"seconds": sum(outcome.seconds.values())}
        replicates, reason = len(outcome.replicate_statuses), outcome.stop.reason if outcome.stop else ""
        return _with_result(spec, metrics, outcome.status, outcome.rlct_verdict, replicates, reason)

    @classmethod
    def without_result(cls, status: str) -> "Ending":
        """The ending of a trial that has no result: it failed, or a killed driver left it open."""
        return cls({STATUS: status}, None, {})


def attributes_of(key: str, config: TrialConfig, place: int) -> dict[str, Any]:
    """The user attributes of a trial that begins."""
    model = config.self_model.model_dump(mode="json")
    return {KEY: key, PLACE: place} | {name: model[name] for name in ATTRIBUTES}


def view_of(
    spec: StudySpec, finished: Mapping[str, FinishedTrial], trials: Sequence[RecordedTrial]
) -> list[FrozenTrial]:
    """The trials of the Optuna study that a record corresponds to, in the order of their places in the search.

    Each finished trial is there once, with its values as the record has them now, and so is each trial that was begun
    and has no result, as failed. One that was stopped early is there as pruned; by another rule than the spec's, it has
    no result. Parameters and distributions are those of the spec's space.

    Args:
        spec: the study as it is now.
        finished: the finished trials by key.
        trials: every trial that was ever begun, in the order of beginning. None of them is running.
    """
    # Records of earlier versions have no places: trials took them in the order of beginning.
    places = {key: place for place, key in enumerate(dict.fromkeys(trial.key for trial in trials))}
    places |= {trial.key: trial.place for trial in trials if trial.place is not None}
    finished = ended_in(spec, finished)
    by_key = {trial.key: trial for trial in trials}  # the last run of each, or the finished one
    results = {trial.run_id for trial in finished.values()}
    by_key |= {trial.key: trial for trial in trials if trial.run_id in results}
    baselines: set[TrialConfig] = set()
    view = []
    for trial in sorted(by_key.values(), key=lambda trial: places[trial.key]):
        if (done := finished.get(trial.key)) is not None:
            replicates = int(done.params.get("replicates", 0))
            ending = _with_result(spec, done.metrics, done.status, done.rlct_verdict, replicates, done.reason)
        else:
            ending = Ending.without_result(FAILED if trial.state == "FAILED" else INTERRUPTED)
        view.append(_frozen(spec, trial, places[trial.key], ending, baselines))
    return view


def ended_trial(
    parameters: Parameters, attributes: Mapping[str, Any], ending: Ending, begun: datetime, ended: datetime
) -> FrozenTrial:
    """A trial as Optuna's study has it when it has ended; `attributes` are those of `attributes_of`, and its run."""
    trial = create_trial(
        state=ending.state,
        values=ending.values,
        user_attrs={**attributes, **ending.attributes},
        constraints=ending.constraints,
        **fields_of_trial(parameters),
    )
    trial.datetime_start, trial.datetime_complete = begun, ended
    return trial


def lacking(stored: Sequence[FrozenTrial], view: Sequence[FrozenTrial]) -> list[FrozenTrial] | None:
    """The trials of the view that a stored Optuna study lacks; None if it has one that the view has otherwise or not.

    Further ones without a result make no difference: suggestions that were known already, and failures made good since.
    """
    results = [trial for trial in stored if _has_result(trial)]
    by_key = {trial.user_attrs.get(KEY): trial for trial in results}
    runs = {trial.user_attrs.get(RUN) for trial in stored}
    missing, found = [], 0
    for trial in view:
        if not _has_result(trial):
            if trial.user_attrs[RUN] not in runs:
                missing.append(trial)
        elif (known := by_key.get(trial.user_attrs[KEY])) is None:
            missing.append(trial)
        elif _same(known, trial):
            found += 1
        else:
            return None
    return missing if found == len(results) else None


def _with_result(
    spec: StudySpec, metrics: Mapping[str, float], status: str, verdict: str, replicates: int, reason: str
) -> Ending:
    # Optuna writes each attribute by itself: of the standard errors, those of the objectives are enough.
    noted = {"seconds", *(name + ERROR_SUFFIX for name in spec.objectives)}
    attributes: dict[str, Any] = {
        name: value for name, value in metrics.items() if (name in noted or _is_measure(name)) and math.isfinite(value)
    }
    values = [metrics.get(name, math.nan) for name in spec.objectives]
    if status == STOPPED_EARLY:
        # Values at an early epoch are none of the objectives'.
        values, attributes[REASON] = [math.nan], reason
    return Ending(
        attributes | {STATUS: status, VERDICT: verdict, "replicates": replicates},
        values if all(map(math.isfinite, values)) else None,
        _constraints(spec, metrics, status, verdict),
    )


def _constraints(spec: StudySpec, metrics: Mapping[str, float], status: str, verdict: str) -> dict[str, float]:
    """What is above 0 for a trial whose values do not mean what their names say.

    A network that learned nothing has small weights and a low rlct, which a sampler must not take for good. In a trial
    without a validation split, only the test split shows a collapse, and samplers must not use the test split.
    """
    # Tasks and trials of one study may differ in this. Without the split, its measures have no value.
    has_validation_split = any(
        measure.sees == "validation" and math.isfinite(metrics.get(measure.name, math.nan))
        for measure in MEASURES.values()
    )
    broken = status != "ok" if has_validation_split else status in ("diverged", STOPPED_EARLY)
    constraints = {"learned": float(broken)}
    if any(name in MEASURES and MEASURES[name].needs_verdict for name in spec.objectives):
        # A sampler must not take a meaningless estimate for a low rlct.
        constraints["rlct_usable"] = float(verdict not in VERDICTS or not VERDICTS[verdict].usable)
    return constraints


def _frozen(
    spec: StudySpec, trial: RecordedTrial, place: int, ending: Ending, baselines: set[TrialConfig]
) -> FrozenTrial:
    """One trial of the view; `baselines` are those at the places before it."""
    parameters: Parameters = {}
    attributes: dict[str, Any] = {KEY: trial.key, PLACE: place}
    # Fields of another version of the project are no parameters of today's space.
    if (config := _config_of(trial)) is not None:
        baseline = config.model_copy(update={"self_model": _BASELINE, "seeds": ()})
        parameters = parameters_of(spec, config, baseline in baselines)
        attributes = attributes_of(trial.key, config, place)
        if config.self_model == _BASELINE:
            baselines.add(baseline)
        if not spec.is_enumerated and not offers(spec, config):
            # Without a parameter, its values would be taken for those of another choice.
            ending = ending._replace(attributes=ending.attributes | {OUTSIDE: True}, values=None)
    begun = datetime.fromtimestamp(trial.started)
    ended = datetime.fromtimestamp(max(trial.started, trial.ended))
    return ended_trial(parameters, attributes | {RUN: trial.run_id}, ending, begun, ended)


def _config_of(trial: RecordedTrial) -> TrialConfig | None:
    try:
        return trial.config
    except ValidationError:
        return None


def _same(stored: FrozenTrial, trial: FrozenTrial) -> bool:
    # The values of parameters are not compared: several can make the same trial, which its key identifies.
    return (
        stored.state == trial.state
        and stored.distributions == trial.distributions
        and stored.constraints == trial.constraints
        and all(map(_equal, stored.values or [], trial.values or []))
        and all(_equal(stored.user_attrs.get(name), value) for name, value in trial.user_attrs.items())
    )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        # A tracking server may round the last digit.
        return math.isclose(one, other, rel_tol=1e-12)
    return bool(one == other)


def _has_result(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE or VERDICT in trial.user_attrs


def _is_measure(name: str) -> bool:
    """Whether it is a measure; other metrics are standard errors, and notes on a single replicate."""
    return not name.endswith(ERROR_SUFFIX) and any(
        name.startswith(measure.name) if measure.per_layer else name == measure.name for measure in MEASURES.values()
    )
