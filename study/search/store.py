"""The stored Optuna study: open it, and bring it in line with the record before a search goes on."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from analysis.drivers import missing_driver
from analysis.locations import sqlite_file
from analysis.servers import SECONDS_TO_ANSWER, ServerError, check_database, reason
from study.errors import StudyError, without_secrets
from study.record.journal import SECONDS_TO_WAIT, begin_log, end_log
from study.record.outcome import FAILED, Outcome, mean_and_error
from study.record.reader import FinishedTrial
from study.search.parameters import distributions, quieten_optuna, suggest_point
from study.spec import Point, StudySpec
from trainables.measures import MEASURES
from trainables.outcomes import VERDICTS

# The status_detail of a trial that a killed driver left open.
INTERRUPTED = "interrupted"
# The user attribute of an Optuna study that names its record: the study's run there.
RECORD = "record"


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Raise errors of Optuna's storage as StudyError."""
    try:
        yield
    except StorageInternalError as error:
        raise StudyError(
            f"the Optuna storage cannot be used: {reason(error.__cause__ or error)} Check that its database runs, or "
            "that there is room on the disk; then run the same command again: finished trials are kept."
        ) from error


@contextlib.contextmanager
def opened_storage(url: str) -> Iterator[RDBStorage]:
    """The Optuna storage at a URL, whose session is closed at the end.

    Raises:
        StudyError: the storage cannot be opened.
    """
    file = sqlite_file(url)
    if file is not None:
        begin_log(file)
    storage = open_storage(url)
    try:
        yield storage
    finally:
        # An interrupt may have left a transaction open, which would lock the database.
        storage.remove_session()
        storage.engine.dispose()
        if file is not None:
            end_log(file)


def open_storage(url: str) -> RDBStorage:
    """The Optuna storage at a URL.

    Raises:
        StudyError: the storage cannot be opened.
    """
    quieten_optuna()
    arguments: dict[str, object] = {"timeout": SECONDS_TO_WAIT} if sqlite_file(url) is not None else {}
    if url.startswith("postgresql"):
        arguments = {"connect_timeout": SECONDS_TO_ANSWER}
    try:
        return RDBStorage(url, engine_kwargs={"connect_args": arguments, "pool_pre_ping": True})
    except Exception as error:  # Its type depends on the database's driver.
        raise _cannot_be_opened(url, reason(error)) from error


def check_storage(url: str) -> None:
    """Ask Optuna's database once, with short time-outs; nothing is created.

    Raises:
        StudyError: it has no driver here, does not answer, or is MLflow's database.
    """
    if sqlite_file(url) is not None:
        return
    try:
        if (missing := missing_driver(url)) is not None:
            raise ServerError(missing)
        tables = check_database(url)
        if "experiments" in tables and "studies" not in tables:
            raise ServerError("this is MLflow's database. Give Optuna a database of its own.")
    except ServerError as error:
        raise _cannot_be_opened(url, str(error)) from error


def _cannot_be_opened(url: str, why: str) -> StudyError:
    return StudyError(
        f"the Optuna storage {without_secrets(url)} cannot be opened: {why} Check --optuna-storage, or that the folder "
        "of --store is writable and its optuna.db is one of this Optuna."
    )


class Ending(NamedTuple):
    """What Optuna is told of a trial that has ended with a result."""

    measures: Mapping[str, float]  # means over replicates, and their standard errors
    status: str
    rlct_verdict: str
    seconds: float

    @classmethod
    def of(cls, outcome: Outcome) -> "Ending":
        """The ending of a trial with this outcome."""
        # The standard error of a replicate's value is no measure of the trial.
        errors = {measure.error for measure in MEASURES.values()}
        measures = mean_and_error({name: each for name, each in outcome.measurements.items() if name not in errors})
        return cls(measures, outcome.status, outcome.rlct.verdict, sum(outcome.seconds.values()))

    @classmethod
    def recorded(cls, trial: FinishedTrial, outcome: Outcome | None) -> "Ending":
        """The ending of a trial in the record; without its outcome, from the metrics of its run."""
        if outcome is not None:
            return cls.of(outcome)
        measures = {name: value for name, value in trial.metrics.items() if not name.startswith("seconds")}
        return cls(measures, trial.status, trial.rlct_verdict, trial.metrics.get("seconds", math.nan))


def tell_ending(study: optuna.Study, trial: optuna.Trial, spec: StudySpec, ending: Ending) -> None:
    """Tell Optuna the values and user attributes of a recorded trial."""
    attributes = {name: value for name, value in ending.measures.items() if math.isfinite(value)} | {
        "status_detail": ending.status,
        "rlct_verdict": ending.rlct_verdict,
        "seconds": ending.seconds,
    }
    values = [ending.measures.get(name, math.nan) for name in spec.objectives]
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    set_constraints(trial, spec, ending.status, ending.rlct_verdict)
    if all(math.isfinite(value) for value in values):
        study.tell(trial, values)
    else:
        study.tell(trial, state=TrialState.FAIL)


def check_stored_study(spec: StudySpec, storage: BaseStorage, record: str | None) -> None:
    """Check that the stored study, if there is one, can go on with this spec and belongs to this record.

    `record` is the run of the study in the record, None for a new one.

    Raises:
        StudyError: the stored study has other objectives, a space that this spec cannot continue, or another record.
    """
    study = _stored_study(spec, storage)
    if study is None:
        return
    _check_objectives(spec, study)
    _check_space(spec, study)
    owner = study.user_attrs.get(RECORD)
    if owner is not None and owner != record and study.get_trials(deepcopy=False):
        raise StudyError(
            f"the Optuna study {spec.name!r} holds the trials of another record, in which the study's run is {owner}: "
            "its search would go on from trials that this record does not have. Give --store and --tracking-uri of "
            "that record, this study another --name, or name another --optuna-storage. If that record is gone for "
            f"good: optuna delete-study --study-name {spec.name} --storage URL"
        )


def reconcile(
    spec: StudySpec,
    storage: BaseStorage,
    finished: Mapping[str, FinishedTrial],
    outcome_of: Callable[[FinishedTrial], Outcome | None] = lambda trial: None,
) -> list[Point]:
    """End the trials that a killed driver left open; return the points to run again, theirs and those of failed trials.

    A trial that is finished in the record but still running in Optuna gets its values and user attributes, from its
    outcome.

    Raises:
        StudyError: Optuna's storage cannot be used.
    """
    study = _stored_study(spec, storage)
    if study is None:
        return []
    to_run = []
    with storage_errors():
        for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            done = finished.get(frozen.user_attrs.get("trial_key", ""))
            if frozen.state == TrialState.WAITING:
                # Only a running trial can be ended, and `ask` makes it running.
                study.tell(study.ask().number, state=TrialState.FAIL)
            elif done is not None:
                ending = Ending.recorded(done, outcome_of(done))
                tell_ending(study, optuna.Trial(study, frozen._trial_id), spec, ending)
            else:
                storage.set_trial_user_attr(frozen._trial_id, "status_detail", INTERRUPTED)
                study.tell(frozen.number, state=TrialState.FAIL)
        for frozen in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
            ended_without_result = frozen.user_attrs.get("status_detail") in (INTERRUPTED, FAILED)
            if ended_without_result and frozen.user_attrs.get("trial_key") not in finished:
                to_run.append(frozen)
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


def _stored_study(spec: StudySpec, storage: BaseStorage) -> optuna.Study | None:
    with storage_errors():
        try:
            return optuna.load_study(study_name=spec.name, storage=storage)
        except KeyError:
            return None


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
