"""The stored Optuna study: open it, and bring it in line with the record, or build it again from there."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from analysis.drivers import missing_driver
from analysis.locations import sqlite_file
from analysis.servers import SECONDS_TO_ANSWER, ServerError, check_database, reason
from study.errors import StudyError, without_secrets
from study.record.journal import SECONDS_TO_WAIT, begin_log, damage_of, end_log
from study.search.parameters import quieten_optuna
from study.search.view import INTERRUPTED, KEY, Ending, lacking
from study.spec import StudySpec

# The user attribute of an Optuna study that names its record: the study's run there.
RECORD = "record"


class StorageError(StudyError):
    """Optuna's storage cannot be used."""


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Raise errors of Optuna's storage as StorageError."""
    try:
        yield
    except StorageInternalError as error:
        raise StorageError(
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
        if (damage := damage_of(file)) is not None:
            raise StudyError(
                f"the Optuna study's file {file} is damaged: {damage}. It is a view of the record: delete it, and the "
                "same command makes it anew. Nothing was changed."
            )
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


def check_stored_study(spec: StudySpec, storage: BaseStorage, record: str | None) -> None:
    """Check that the stored study, if there is one with trials, belongs to this record, whose view it is to be.

    `record` is the run of the study in the record, None for a new one.

    Raises:
        StudyError: the stored study belongs to another record, or to no record at all.
    """
    study = _stored_study(spec, storage)
    if study is None:
        return
    with storage_errors():
        owner, trials = study.user_attrs.get(RECORD), study.get_trials(deepcopy=False)
    if not trials or (owner is not None and owner == record):
        return
    if owner is not None:
        raise StudyError(
            f"the Optuna study {spec.name!r} holds the trials of another record, in which the study's run is {owner}: "
            "its search would go on from trials that this record does not have. Give --store and --tracking-uri of "
            "that record, this study another --name, or name another --optuna-storage. If that record is gone for "
            f"good: optuna delete-study --study-name {spec.name} --storage URL"
        )
    # Studies of earlier versions, and those whose building was cut short, name no record.
    if record is None or not any(KEY in trial.user_attrs for trial in trials):
        raise StudyError(
            f"the Optuna study {spec.name!r} has {len(trials)} trial(s) that are not of this record. Give this study "
            "another --name, name another --optuna-storage, or, if nobody needs them: optuna delete-study "
            f"--study-name {spec.name} --storage URL"
        )


def reconcile(spec: StudySpec, storage: BaseStorage, view: Sequence[FrozenTrial], record: str | None) -> bool:
    """Bring the stored study in line with the view of the record; whether it differed.

    Trials that it lacks, those that a killed driver left open, are added to it; in all other cases it is built again.
    `record` is the study's run in the record, None for a new study.

    Raises:
        StudyError: Optuna's storage cannot be used.
    """
    study = _stored_study(spec, storage)
    with storage_errors():
        if study is None and not view:
            return False
        if study is not None and _has_objectives(study, spec):
            _end_open_trials(study)
            names_record = record is None or study.user_attrs.get(RECORD) == record
            missing = lacking(study.get_trials(deepcopy=False), view) if names_record else None
            if missing is not None:
                study.add_trials(missing)
                return bool(missing)
    rebuild(spec, storage, view, record)
    return True


def rebuild(spec: StudySpec, storage: BaseStorage, view: Sequence[FrozenTrial], record: str | None) -> None:
    """Delete the stored study, if there is one, and make it anew with the trials of the view.

    If this is cut short, the study lacks trials and does not name its record: the next driver builds it again.

    Raises:
        StudyError: Optuna's storage cannot be used.
    """
    stored = _stored_study(spec, storage)
    with storage_errors():
        if stored is not None:
            optuna.delete_study(study_name=spec.name, storage=storage)
        study = open_study(spec, storage)
        study.add_trials(view)
        if record is not None:
            study.set_user_attr(RECORD, record)


def open_study(spec: StudySpec, storage: BaseStorage) -> optuna.Study:
    """The stored Optuna study, a new one if there is none yet."""
    study = optuna.create_study(
        study_name=spec.name,
        storage=storage,
        directions=list(spec.objectives.values()),
        # Nothing is chosen in the stored study.
        sampler=RandomSampler(),
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(spec.objectives))
    study.set_user_attr("question", spec.question)
    return study


def tell_ending(study: optuna.Study, trial: optuna.Trial, ending: Ending) -> None:
    """Tell Optuna how a running trial has ended."""
    for name, value in ending.attributes.items():
        trial.set_user_attr(name, value)
    for name, value in ending.constraints.items():
        trial.set_constraint(name, value)
    study.tell(trial, ending.values, ending.state)


def _end_open_trials(study: optuna.Study) -> None:
    """End the trials that somebody has enqueued, and those that a driver of an earlier version left open."""
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
        if frozen.state == TrialState.WAITING:
            # Only a running trial can be ended, and `ask` makes it running.
            study.tell(study.ask().number, state=TrialState.FAIL)
        else:
            tell_ending(study, optuna.Trial(study, frozen._trial_id), Ending.without_result(INTERRUPTED))


def _stored_study(spec: StudySpec, storage: BaseStorage) -> optuna.Study | None:
    with storage_errors():
        try:
            return optuna.load_study(study_name=spec.name, storage=storage)
        except KeyError:
            return None


def _has_objectives(study: optuna.Study, spec: StudySpec) -> bool:
    directions = [direction.name.lower() for direction in study.directions]
    return study.metric_names == list(spec.objectives) and directions == list(spec.objectives.values())
