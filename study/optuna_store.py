"""The stored Optuna study: opening it, and bringing it in line with the record before a search goes on."""

import contextlib
from collections.abc import Mapping

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from study.errors import StudyError, first_line, without_password
from study.record import FinishedTrial
from study.sampling import distributions, suggest_point
from study.spec import Point, StudySpec
from trainables.rlct import UNUSABLE


def open_storage(url: str) -> RDBStorage:
    """The Optuna storage at a URL.

    Raises:
        StudyError: it cannot be opened.
    """
    try:
        return RDBStorage(url)
    except Exception as error:  # The database's driver decides which.
        raise StudyError(
            f"the Optuna storage {without_password(url)} cannot be opened: {first_line(error)}. Check "
            "--optuna-storage, or that the folder of --store is writable and its optuna.db is one of this Optuna."
        ) from error


def reconcile(spec: StudySpec, storage: RDBStorage, finished: Mapping[str, FinishedTrial]) -> list[Point]:
    """End the trials that a killed driver left open; the points to run again, of those and of failed ones.

    A trial that the record has as finished, but Optuna still as running, gets its values.

    Raises:
        StudyError: the stored study has other objectives, or a space that this one cannot follow.
    """
    try:
        study = optuna.load_study(study_name=spec.name, storage=storage)
    except KeyError:
        return []
    _check_objectives(spec, study)
    _check_space(spec, study)
    to_run = []
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
        done = finished.get(frozen.user_attrs.get("trial_key", ""))
        if frozen.state == TrialState.WAITING:
            # Only a running trial can be ended: asking makes it one.
            study.tell(study.ask().number, state=TrialState.FAIL)
        elif done is not None and all(name in done.metrics for name in spec.objectives):
            set_constraints(optuna.Trial(study, frozen._trial_id), spec, done.status, done.rlct_verdict)
            study.tell(frozen.number, [done.metrics[name] for name in spec.objectives])
        else:
            storage.set_trial_user_attr(frozen._trial_id, "status_detail", "interrupted")
            study.tell(frozen.number, state=TrialState.FAIL)
            to_run.append(frozen)
    to_run += [
        frozen
        for frozen in study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        if frozen.user_attrs.get("status_detail") == "failed" and frozen.user_attrs["trial_key"] not in finished
    ]
    return [point for frozen in to_run if (point := _point_of(frozen, spec)) is not None]


def set_constraints(trial: optuna.Trial, spec: StudySpec, status: str, rlct_verdict: str) -> None:
    """Make a trial infeasible whose values are not what they are called.

    A network that learned nothing has small weights and a low rlct, and no sampler may take it for a good one. Without
    a validation split, whether it collapsed is judged by the test split, which no sampler may look at.
    """
    broken = status != "ok" if spec.training.validation_fraction > 0 else status == "diverged"
    trial.set_constraint("learned", float(broken))
    if "rlct" in spec.objectives:
        # Nor may one take for low what is no rlct.
        trial.set_constraint("rlct_usable", float(rlct_verdict in UNUSABLE))


def _point_of(frozen: FrozenTrial, spec: StudySpec) -> Point | None:
    # It names `self_modeling` only if the baseline was offered to it.
    offered = "self_modeling" in frozen.params
    # Without all its parameters chosen, or outside a space that has changed, it is no point.
    with contextlib.suppress(ValueError):
        fixed = optuna.trial.FixedTrial(frozen.params)
        return suggest_point(fixed, spec, baseline_is_taken=lambda *_: not offered)
    return None


def _check_objectives(spec: StudySpec, study: optuna.Study) -> None:
    stored = [direction.name.lower() for direction in study.directions]
    names = study.metric_names or list(spec.objectives)
    if dict(zip(names, stored, strict=True)) != spec.objectives or names != list(spec.objectives):
        raise StudyError(
            f"objectives: the Optuna study {spec.name!r} has {dict(zip(names, stored, strict=True))}, the spec "
            f"{spec.objectives}. Give them as they were, or the study another --name."
        )


def _check_space(spec: StudySpec, study: optuna.Study) -> None:
    offered = distributions(spec)
    for frozen in study.get_trials(deepcopy=False):
        for name, stored in frozen.distributions.items():
            try:
                if name in offered:
                    check_distribution_compatibility(stored, offered[name])
            except ValueError as error:
                raise StudyError(
                    f"space: Optuna cannot go on with the study {spec.name!r}, whose {name} was {stored} and is now "
                    f"{offered[name]}. Ranges may grow, and so may the lists of a grid, except target_depth; for "
                    "anything else give the study another --name."
                ) from error
