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
from study.record.reader import FinishedTrial, RecordedTrial
from study.search.parameters import Parameters, fields_of_trial, offers, parameters_of
from study.spec import StudySpec
from trainables.config import SelfModelConfig
from trainables.measures import MEASURES
from trainables.outcomes import VERDICTS
from trainables.trial import TrialConfig

# The status_detail of a trial that a killed driver left open.
INTERRUPTED = "interrupted"
# User attributes of an Optuna trial: its key, its place in the search, its run in the record, and how it ended.
KEY, PLACE, RUN, STATUS = "trial_key", "place", "run_id", "status_detail"
# The user attribute that only trials with a result have.
VERDICT = "rlct_verdict"
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

    @classmethod
    def of(cls, outcome: Outcome, spec: StudySpec) -> "Ending":
        """The ending of a trial with this outcome."""
        metrics = mean_and_error(outcome.measurements) | {"seconds": sum(outcome.seconds.values())}
        return _with_result(spec, metrics, outcome.status, outcome.rlct.verdict, len(outcome.replicate_statuses))

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
    and has no result, as failed. Parameters and distributions are those of the spec's space.

    Args:
        spec: the study as it is now.
        finished: the finished trials by key.
        trials: every trial that was ever begun, in the order of beginning. None of them is running.
    """
    # Records of earlier versions have no places: trials took them in the order of beginning.
    places = {key: place for place, key in enumerate(dict.fromkeys(trial.key for trial in trials))}
    places |= {trial.key: trial.place for trial in trials if trial.place is not None}
    by_key = {trial.key: trial for trial in trials}  # the last run of each, or the finished one
    results = {trial.run_id for trial in finished.values()}
    by_key |= {trial.key: trial for trial in trials if trial.run_id in results}
    baselines: set[TrialConfig] = set()
    view = []
    for trial in sorted(by_key.values(), key=lambda trial: places[trial.key]):
        if (done := finished.get(trial.key)) is not None:
            replicates = int(done.params.get("replicates", 0))
            ending = _with_result(spec, done.metrics, done.status, done.rlct_verdict, replicates)
        else:
            ending = Ending.without_result(FAILED if trial.state == "FAILED" else INTERRUPTED)
        view.append(_frozen(spec, trial, places[trial.key], ending, baselines))
    return view


def shows(stored: Sequence[FrozenTrial], view: Sequence[FrozenTrial]) -> bool:
    """Whether the ended trials of a stored Optuna study are those of the view.

    Further ones without a result make no difference: suggestions that were known already, and failures made good since.
    """
    results = [trial for trial in stored if _has_result(trial)]
    by_key = {trial.user_attrs.get(KEY): trial for trial in results}
    if len(results) != sum(map(_has_result, view)):
        return False
    runs = {trial.user_attrs.get(RUN) for trial in stored}
    for trial in view:
        known = by_key.get(trial.user_attrs[KEY])
        if not _has_result(trial):
            known = trial if trial.user_attrs[RUN] in runs else None
        if known is None or not _same(known, trial):
            return False
    return True


def _with_result(spec: StudySpec, metrics: Mapping[str, float], status: str, verdict: str, replicates: int) -> Ending:
    attributes: dict[str, Any] = {
        name: value
        for name, value in metrics.items()
        if (_is_measure(name) or name == "seconds") and math.isfinite(value)
    }
    values = [metrics.get(name, math.nan) for name in spec.objectives]
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
    broken = status != "ok" if has_validation_split else status == "diverged"
    constraints = {"learned": float(broken)}
    if any(name in MEASURES and MEASURES[name].needs_verdict for name in spec.objectives):
        # A sampler must not take a meaningless estimate for a low rlct.
        constraints["rlct_usable"] = float(not VERDICTS[verdict].usable)
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
    frozen = create_trial(
        state=TrialState.FAIL if ending.values is None else TrialState.COMPLETE,
        values=ending.values,
        user_attrs=attributes | {RUN: trial.run_id} | ending.attributes,
        constraints=ending.constraints,
        **fields_of_trial(parameters),
    )
    frozen.datetime_start = datetime.fromtimestamp(trial.started)
    frozen.datetime_complete = datetime.fromtimestamp(max(trial.started, trial.ended))
    return frozen


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
    """Whether it is a measure or a mean's standard error over replicates; others are notes on a single replicate."""
    measured = name.removesuffix(ERROR_SUFFIX)
    return any(
        measured.startswith(measure.name) if measure.per_layer else measured == measure.name
        for measure in MEASURES.values()
    )
