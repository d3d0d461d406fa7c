"""The stored Optuna study: open it, and bring it in line with the record before a search goes on."""

import contextlib
from collections.abc import Iterator, Mapping

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from study.errors import StudyError, first_line, without_secrets
from study.record.outcome import FAILED
from study.record.reader import FinishedTrial
from study.search.parameters import distributions, quieten_optuna, suggest_point
from study.spec import Point, StudySpec
from trainables.measures import MEASURES
from trainables.outcomes import VERDICTS


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Raise errors of Optuna's storage as StudyError."""
    try:
        yield
    except StorageInternalError as error:
        raise StudyError(
            f"the Optuna storage cannot be used: {first_line(error.__cause__ or error)}. Check that its database runs, "
            "or that there is room on the disk; then run the same command again: finished trials are kept."
        ) from error


@contextlib.contextmanager
def opened_storage(url: str) -> Iterator[RDBStorage]:
    """The Optuna storage at a URL, whose session is closed at the end.

    Raises:
        StudyError: the storage cannot be opened.
    """
    storage = open_storage(url)
    try:
        yield storage
    finally:
        # An interrupt may have left a transaction open, which would lock the database.
        storage.remove_session()


def open_storage(url: str) -> RDBStorage:
    """The Optuna storage at a URL.

    Raises:
        StudyError: the storage cannot be opened.
    """
    quieten_optuna()
    try:
        return RDBStorage(url)
    except Exception as error:  # Its type depends on the database's driver.
        raise StudyError(
            f"the Optuna storage {without_secrets(url)} cannot be opened: {first_line(error)}. Check "
            "--optuna-storage, or that the folder of --store is writable and its optuna.db is one of this Optuna."
        ) from error


def reconcile(spec: StudySpec, storage: RDBStorage, finished: Mapping[str, FinishedTrial]) -> list[Point]:
    """End the trials that a killed driver left open; return the points to run again, theirs and those of failed trials.

    A trial that is finished in the record but still running in Optuna gets its values.

    Raises:
        StudyError: the stored study has other objectives, or a space that this spec cannot continue.
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
            # Only a running trial can be ended, and `ask` makes it running.
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
        if frozen.user_attrs.get("status_detail") == FAILED and frozen.user_attrs["trial_key"] not in finished
    ]
    return [point for frozen in to_run if (point := _point_of(frozen, spec)) is not None]


def set_constraints(trial: optuna.Trial, spec: StudySpec, status: str, rlct_verdict: str) -> None:
    """Mark a trial as infeasible if its values do not mean what their names say.

    A network that learned nothing has small weights and a low rlct, which a sampler must not take for good. Without a
    validation split, only the test split shows a collapse, and samplers must not use the test split.
    """
    broken = status != "ok" if spec.training.validation_fraction > 0 else status == "diverged"
    trial.set_constraint("learned", float(broken))
    if any(name in MEASURES and MEASURES[name].needs_verdict for name in spec.objectives):
        # A sampler must not take a meaningless estimate for a low rlct.
        trial.set_constraint("rlct_usable", float(not VERDICTS[rlct_verdict].usable))


def _point_of(frozen: FrozenTrial, spec: StudySpec) -> Point | None:
    # A trial has `self_modeling` only if it was offered the baseline.
    offered = "self_modeling" in frozen.params
    # A trial that lacks parameters, or lies outside a changed space, has no point.
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
