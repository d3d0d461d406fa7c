"""Reading a study's record in the tracking store: finished trials, and the settings at its start."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow.entities import Experiment, Run
from mlflow.tracking import MlflowClient

from analysis.drivers import missing_driver
from analysis.layout import Artifact, Level, Tag
from analysis.servers import (
    ServerError,
    check_database,
    check_server,
    is_of_a_store,
    is_server,
    reason,
    wait_a_bounded_time,
    wait_no_longer,
)
from analysis.tracking import quieten_mlflow, search_all_runs, without_superseded
from study.errors import StudyError, without_secrets
from study.record.lease import Holder, living_holder
from study.record.outcome import EstimateOutcome, Outcome
from study.record.protocol import DataDigest, as_digest, differences, digest_of, versions
from study.record.stores import StoreError, Stores
from study.record.usage import Allotment, Usage, total
from study.spec import StudySpec, build_spec, read_study
from study.spec.budget import BudgetConfig
from trainables.outcomes import STOPPED_EARLY
from trainables.trial import TrialConfig

# Most seconds to wait for another process that makes the tables of a new database.
OPENING_SECONDS = 60
# The metric that every epoch has.
LAST_EPOCH = "epochs_trained"
# Most studies that are listed.
MOST_STUDIES = 1000


@dataclass(frozen=True)
class FinishedTrial:
    """A finished trial in the record."""

    run_id: str
    name: str
    status: str
    rlct_verdict: str
    metrics: Mapping[str, float]  # means over replicates, and their standard errors
    params: Mapping[str, str]  # the fields of its configuration
    ended: int  # milliseconds since 1970
    begun: int  # likewise, with fewer replicates perhaps
    stored_key: str | None = None  # its key in the record, where an earlier version made it by another formula
    place: int | None = None  # in the search; records of earlier versions have none
    used: Usage = field(default_factory=Usage)  # with what the runs had used that this one has replaced
    reason: str = ""  # why it was stopped early, in a line
    stopping: str = ""  # the rule that has stopped it early

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the replicates that have run."""
        return tuple(json.loads(self.params["seeds"]))

    @property
    def config(self) -> TrialConfig:
        """The trial's configuration, with the seeds that have run.

        Raises:
            pydantic.ValidationError: the trial is of a version of the project whose fields were different.
        """
        return TrialConfig.from_flat(self.params)


@dataclass(frozen=True)
class RecordedTrial:
    """A trial in the record, however it stands. Times are seconds since 1970, 0 if there is none."""

    number: int  # in the order in which trials began, from 1
    run_id: str
    key: str
    name: str
    state: str  # MLflow's status of its run: RUNNING, FINISHED, FAILED, KILLED
    status: str  # status_detail, once it has ended
    rlct_verdict: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]  # the fields of its configuration
    seeds: tuple[int, ...]  # of its replicates, those that an earlier run of the trial has included
    stage: str
    host: str  # where it ran, if the record says
    reason: str  # of a failure or an early stop, in a line
    started: float
    ended: float
    place: int | None = None  # in the search, from 0; records of earlier versions have none
    allotment: Allotment = field(default_factory=Allotment)
    # With what the runs had used that this one has replaced; of an open run, no time.
    used: Usage = field(default_factory=Usage)
    stopping: str = ""  # the rule that has stopped it early

    @property
    def config(self) -> TrialConfig:
        """The trial's configuration.

        Raises:
            pydantic.ValidationError: the trial is of a version of the project whose fields were different.
        """
        return TrialConfig.from_flat(self.params)


@dataclass
class RecordReader:
    """One study in the tracking store.

    Raises (all methods):
        StudyError: the tracking store cannot be reached or read.
    """

    stores: Stores
    study: str
    _client: MlflowClient = field(init=False)
    _experiment: Experiment | None = field(init=False, default=None)
    _study_run: Run | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        quieten_mlflow()
        self.stores.check_record(self.study)
        self.refresh()

    def refresh(self) -> None:
        """Read anew whether the study exists, and its run: another driver may have written meanwhile."""
        if self.stores.is_empty:
            return
        self._check_answers()
        with self._reachable(), self._first_use():
            self._client = MlflowClient(self.stores.tracking_uri)
            self._experiment = self._client.get_experiment_by_name(self.study)
        if self._experiment is not None:
            if self._experiment.lifecycle_stage != "active":
                raise StudyError(
                    f"the MLflow experiment {self.study!r} was deleted and still holds its name. Restore it with "
                    f"'mlflow experiments restore', remove it with 'mlflow gc', or give the study another --name."
                )
            runs = self._search(f"tags.{Tag.LEVEL} = '{Level.STUDY}'")
            self._study_run = runs[0] if runs else None

    def studies(self) -> list[str]:
        """The names of all studies in the store; experiments that no study made are left out."""
        if self.stores.is_empty:
            return []
        with self._reachable():
            names = {each.experiment_id: each.name for each in self._client.search_experiments()}
            runs = self._client.search_runs(
                list(names), f"tags.{Tag.LEVEL} = '{Level.STUDY}'", max_results=MOST_STUDIES
            )
            return sorted({names[run.info.experiment_id] for run in runs})

    @property
    def exists(self) -> bool:
        """Whether the store has the study."""
        return self._experiment is not None

    @property
    def run_id(self) -> str | None:
        """The study's run, which identifies the record: no other store has it. None before the study has begun."""
        return None if self._study_run is None else str(self._study_run.info.run_id)

    def status(self) -> str | None:
        """MLflow's status of the study's run: how the last driver left it, or RUNNING. None before it has begun."""
        return None if self._study_run is None else str(self._study_run.info.status)

    def total_trials(self) -> int | None:
        """Number of trials of the whole study; None for older records, which do not say."""
        return self._number(Tag.TRIALS)

    def workers(self) -> int | None:
        """Number of trials side by side as the study was last run; None for older records, which do not say."""
        return self._number(Tag.WORKERS)

    def opened(self) -> float:
        """When a driver last began to run the study, in seconds since 1970; 0 before that."""
        if self._study_run is None:
            return 0.0
        return int(self._study_run.data.tags.get(Tag.OPENED, self._study_run.info.start_time)) / 1000

    def experiment_tags(self) -> dict[str, str]:
        """The tags of the study's experiment as they are now.

        Raises:
            StudyError: the store has no such study.
        """
        if self._experiment is None:
            raise StudyError(self.no_such_study())
        with self._reachable():
            return dict(self._client.get_experiment(self._experiment.experiment_id).tags)

    def holder(self, patiently: bool = True) -> Holder | None:
        """Who runs the study now. Patiently, a driver that seems dead is watched for a while first."""
        return living_holder(self, self.stores, self.study, patiently)

    def finished(self) -> dict[str, FinishedTrial]:
        """The finished trials by key, in the order in which they began."""
        runs = without_superseded(
            self._search(f"tags.{Tag.LEVEL} = '{Level.TRIAL}' and attributes.status = 'FINISHED'")
        )
        keys = {run.info.run_id: _key_of(run) for run in runs}
        return {
            keys[run.info.run_id]: FinishedTrial(
                run_id=run.info.run_id,
                name=run.info.run_name or "",
                status=run.data.tags[Tag.STATUS],
                rlct_verdict=run.data.tags[Tag.VERDICT],
                metrics=_last_metrics(run),
                params=run.data.params,
                ended=run.info.end_time or 0,
                begun=_begun(run),
                stored_key=stored if (stored := run.data.tags[Tag.TRIAL_KEY]) != keys[run.info.run_id] else None,
                place=_place(run),
                used=usage_of(run),
                reason=run.data.tags.get(Tag.REASON, ""),
                stopping=run.data.tags.get(Tag.STOPPING, ""),
            )
            for run in sorted(runs, key=_order)
        }

    def failed(self) -> set[str]:
        """Keys of the trials of which a run failed that no run has made good since."""
        failed: set[str] = set()
        for trial in self.trials():
            if trial.state == "FAILED":
                failed.add(trial.key)
            elif trial.state == "FINISHED":
                failed.discard(trial.key)
        return failed

    def trials(self) -> list[RecordedTrial]:
        """Every trial that was ever begun, in the order of beginning: one that failed may be there more than once."""
        return [
            RecordedTrial(
                number=number,
                run_id=run.info.run_id,
                key=_key_of(run),
                name=run.info.run_name or "",
                state=run.info.status,
                status=run.data.tags.get(Tag.STATUS, ""),
                rlct_verdict=run.data.tags.get(Tag.VERDICT, ""),
                metrics=_last_metrics(run),
                params=run.data.params,
                seeds=tuple(json.loads(run.data.tags.get(Tag.SEEDS) or run.data.params.get("seeds", "[]"))),
                stage=run.data.tags.get(Tag.STAGE, "starting"),
                host=run.data.tags.get(Tag.HOST, ""),
                reason=run.data.tags.get(Tag.REASON, ""),
                started=run.info.start_time / 1000,
                ended=(run.info.end_time or 0) / 1000,
                place=_place(run),
                allotment=Allotment.from_tags(run.data.tags),
                used=usage_of(run),
                stopping=run.data.tags.get(Tag.STOPPING, ""),
            )
            for number, run in enumerate(self._runs_of_trials(), 1)
        ]

    def usage(self) -> Usage:
        """What all trials have used."""
        return total(trial.used for trial in self.trials())

    def budget(self) -> BudgetConfig:
        """The budget that the study was last run with."""
        tags = {} if self._study_run is None else self._study_run.data.tags
        return BudgetConfig(**json.loads(tags.get(Tag.BUDGET, "{}")))

    def stopping(self) -> str:
        """The rule of early stopping that the study was last run with; empty without one."""
        return "" if self._study_run is None else str(self._study_run.data.tags.get(Tag.STOPPING, ""))

    def stopped(self) -> str | None:
        """Why the last driver stopped before the end, if it did and could say so."""
        return None if self._study_run is None else self._study_run.data.tags.get(Tag.STOPPED)

    def replicates(self) -> int | None:
        """Number of replicates of every trial as the study was last run; None before it has begun."""
        if self._study_run is None:
            return None
        replicates: int | None = json.loads(self._study_run.data.tags[Tag.PROTOCOL]).get("replicates")
        return replicates

    def error_of(self, trial: RecordedTrial) -> str | None:
        """The traceback of a failed trial; None if the record does not have it."""
        if not self.has_artifact(trial.run_id, Artifact.ERROR):
            return None
        with tempfile.TemporaryDirectory() as folder:
            return self.download(trial.run_id, Artifact.ERROR, Path(folder)).read_text()

    def outcome(self, trial: FinishedTrial) -> Outcome | None:
        """The outcome of a finished trial; None if the record does not have it whole, as older ones."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                return Outcome.from_json(self.download(trial.run_id, Artifact.OUTCOME, Path(folder)).read_text())
        except (StudyError, ValueError, TypeError, KeyError):
            return None

    def objectives(self) -> dict[str, str]:
        """The study's objectives with the direction of each, in their order."""
        objectives: dict[str, str] = json.loads(self._study_tags()[Tag.OBJECTIVES])
        return objectives

    def question(self) -> str:
        """The question that the study asks."""
        return self._study_tags().get(Tag.QUESTION, "")

    def spec(self) -> StudySpec:
        """The study as it was last run.

        Raises:
            StudyError: the store has no such study, or another version of the project made it.
        """
        self.check_version()
        with tempfile.TemporaryDirectory() as folder:
            file = self.download(self._existing_run().info.run_id, Artifact.SPEC, Path(folder))
            return build_spec(read_study(str(file)), f"{self.study} in {without_secrets(self.stores.tracking_uri)}")

    def listed_keys(self) -> frozenset[str] | None:
        """Keys of the trials that the study lists, as it was last run.

        None for a search, which has no list, before the study has begun, and for a record of a version of the project
        whose studies or digests were different.
        """
        stored = {} if self._study_run is None else self._study_run.data.tags
        if Tag.DATA_DIGEST not in stored:
            return None
        try:
            spec = self.spec()
            if not spec.is_enumerated:
                return None
            digest = as_digest(stored[Tag.DATA_DIGEST])
            return frozenset(trial.key(digest_of(digest, trial.task)) for trial in spec.listed())
        except (StudyError, KeyError):
            return None

    def download(self, run_id: str, artifact: str, folder: Path) -> Path:
        """Fetch an artifact of a run into a folder."""
        with self._reachable():
            return Path(self._client.download_artifacts(run_id, artifact, str(folder)))

    def has_artifact(self, run_id: str, artifact: str) -> bool:
        """Whether a run has an artifact of this name."""
        folder, _, _ = artifact.rpartition("/")
        with self._reachable():
            return artifact in {each.path for each in self._client.list_artifacts(run_id, folder or None)}

    def has_copy(self, artifact: str, file: Path) -> bool:
        """Whether the study's run has this artifact with the content of the file."""
        run_id = self._existing_run().info.run_id
        if not self.has_artifact(run_id, artifact):
            return False
        with self._reachable(), tempfile.TemporaryDirectory() as fetched:
            return Path(self._client.download_artifacts(run_id, artifact, fetched)).read_bytes() == file.read_bytes()

    def estimated(self) -> set[tuple[str, str]]:
        """Keys of trial and settings for every repeated rlct estimate over all replicates of its trial."""
        return set(self._estimates())

    def estimates(self) -> dict[tuple[str, str], EstimateOutcome]:
        """The repeated rlct estimates that `estimated` names."""
        found = {}
        for keys, run in self._estimates().items():
            with tempfile.TemporaryDirectory() as folder:
                text = self.download(run.info.run_id, Artifact.ESTIMATE, Path(folder)).read_text()
            found[keys] = EstimateOutcome.from_json(json.dumps(json.loads(text)["outcome"]))
        return found

    def _estimates(self) -> dict[tuple[str, str], Run]:
        """The runs of repeated estimates over all replicates of their trials, by keys of trial and settings."""
        runs = self._search(f"tags.{Tag.LEVEL} = '{Level.ESTIMATE}' and attributes.status = 'FINISHED'")
        keys = {trial.run_id: key for key, trial in self.finished().items()}
        # An estimate under a superseded run lacks the replicates that were added.
        return {
            (keys[run.data.tags[Tag.PARENT]], run.data.tags[Tag.RLCT_SETTINGS]): run
            for run in runs
            if run.data.tags[Tag.PARENT] in keys
        }

    def check_version(self) -> None:
        """Check that this version of the project computes trials in the same way as the one that made the study.

        Raises:
            StudyError: another protocol version made it.
        """
        if self._study_run is None:
            return
        tags = self._study_run.data.tags
        then, here = versions(tags[Tag.PROTOCOL])
        if then == here:
            return
        age, go_on = ("an earlier", "check out") if then < here else ("a later", "update this checkout to")
        raise StudyError(
            f"the study {self.study!r} in {without_secrets(self.stores.tracking_uri)} was made by {age} version of "
            f"this project: protocol version {then}, here {here}. Trials are computed in another way now, "
            "and would not be one study with those. 'python -m study status' and 'python -m analysis' read it as it "
            f"is. To go on with it, {go_on} commit {tags.get(Tag.GIT_COMMIT, 'unknown')}; or give the new study a name "
            f"(--name {self.study}-2) or another folder (--store DIR). Nothing was changed."
        )

    def check_protocol(self, spec: StudySpec, data_digest: DataDigest) -> None:
        """Check that the study's recorded trials have the same protocol: they may differ only in their point.

        Raises:
            StudyError: the study was begun with other settings, which the message names, or by another version of the
                project.
        """
        if self._study_run is None:
            return
        self.check_version()
        differing = differences(self._study_run.data.tags[Tag.PROTOCOL], spec, data_digest)
        if differing:
            raise StudyError(
                f"the study {self.study!r} in {without_secrets(self.stores.tracking_uri)} "
                "was begun with other settings:\n"
                + "\n".join(f"  {line}" for line in differing)
                + "\nIts trials and these would not be one study. Give this one a name (--name "
                f"{self.study}-2) or another folder (--store DIR)."
            )

    def _existing_run(self) -> Run:
        """The study's run.

        Raises:
            StudyError: the store has no such study.
        """
        if self._study_run is None:
            raise StudyError(self.no_such_study())
        return self._study_run

    def no_such_study(self) -> str:
        """The message that the store has no such study."""
        return (
            f"{without_secrets(self.stores.tracking_uri)} has no study {self.study!r}: check its name, --store "
            "and --tracking-uri, or run it first with study/run.py."
        )

    def _study_tags(self) -> dict[str, str]:
        tags: dict[str, str] = self._existing_run().data.tags
        return tags

    def _number(self, tag: Tag) -> int | None:
        """The number in a tag of the study's run; None if there is no run, or none with this tag."""
        stored = None if self._study_run is None else self._study_run.data.tags.get(tag)
        return None if stored is None else int(stored)

    def _search(self, condition: str) -> list[Run]:
        if self._experiment is None:
            return []
        with self._reachable():
            return search_all_runs(self._client, self._experiment.experiment_id, condition)

    def _runs_of_trials(self) -> list[Run]:
        """The runs of trials in the order of beginning, without superseded ones."""
        runs = without_superseded(self._search(f"tags.{Tag.LEVEL} = '{Level.TRIAL}'"))
        return sorted(runs, key=_order)

    def _check_answers(self) -> None:
        """Ask the store once, with short time-outs: MLflow's own would be silent for minutes."""
        uri = self.stores.tracking_uri
        wait_a_bounded_time()
        try:
            if is_server(uri):
                check_server(uri)
            elif (missing := missing_driver(uri)) is not None:
                raise ServerError(missing)
            elif self.stores.tracking_file is None:
                tables = check_database(uri)
                if "studies" in tables and "experiments" not in tables:
                    raise ServerError("this is Optuna's database. Give MLflow a database of its own.")
        except ServerError as error:
            raise StudyError(
                f"the MLflow record at {without_secrets(uri)} cannot be used: {error} Nothing was changed."
            ) from error

    def _first_use(self) -> AbstractContextManager[object]:
        """One process at a time opens a local database: two that make its tables at once fail."""
        if not self.stores.tracking_is_local:
            return nullcontext()
        try:
            return FileLock(self.stores.root / "locks" / ".mlflow.db.lock").acquire(timeout=OPENING_SECONDS)
        except (Timeout, OSError):
            return nullcontext()  # A folder that is not ours can still be read.

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_of_a_store(error):
                raise
            wait_no_longer()
            raise StoreError(
                f"the MLflow record at {without_secrets(self.stores.tracking_uri)} "
                f"cannot be used: {reason(error)} "
                "Check that the server runs (or the folder is writable, with room on the disk) and that the store was "
                "made by this version of MLflow; then run the same command again: finished trials are kept.",
                reason(error),
            ) from error


def has_ended(trial: FinishedTrial | RecordedTrial, stopping: str) -> bool:
    """Whether a finished trial counts as such in a study with this rule of early stopping, empty without one.

    One that another rule has stopped early runs again.
    """
    return trial.status != STOPPED_EARLY or trial.stopping == stopping


def ended_in(spec: StudySpec, finished: Mapping[str, FinishedTrial]) -> dict[str, FinishedTrial]:
    """The finished trials, by key, that count as such in the study as it is now."""
    return {key: trial for key, trial in finished.items() if has_ended(trial, spec.stopping_rule)}


def _last_metrics(run: Run) -> dict[str, float]:
    """The metrics of a trial's run at its last epoch or later.

    One that was not finite at the end was not logged there, and its last value is of an earlier epoch.
    """
    metrics = run.data._metric_objs
    last_epoch = max((metric.step for metric in metrics if metric.key == LAST_EPOCH), default=0)
    return {metric.key: metric.value for metric in metrics if metric.step >= last_epoch}


def _begun(run: Run) -> int:
    """When a trial first began, with fewer replicates perhaps, in milliseconds since 1970."""
    return int(run.data.tags.get(Tag.BEGUN, run.info.start_time))


def usage_of(run: Run) -> Usage:
    """What a trial has used: in this run and, if it is finished, in those that it has replaced.

    A run that is open counts as a begun trial alone: only its driver knows whether it still runs.
    """
    ended = run.info.end_time or run.info.start_time
    used = Allotment.from_tags(run.data.tags).used((ended - run.info.start_time) / 1000)
    finished = run.info.status == "FINISHED" and Tag.USED_BEFORE in run.data.tags
    return used + Usage.from_json(run.data.tags[Tag.USED_BEFORE]) if finished else used


def _place(run: Run) -> int | None:
    return int(run.data.tags[Tag.PLACE]) if Tag.PLACE in run.data.tags else None


def _order(run: Run) -> tuple[int, int, str]:
    """By which runs of trials are in the order of beginning; two that began in the same millisecond keep one order."""
    return _begun(run), run.info.start_time, run.info.run_id


def _key_of(run: Run) -> str:
    """The key of a trial's run by today's formula; the stored one if the run has fields that this version lacks."""
    tags = run.data.tags
    stored: str = tags[Tag.TRIAL_KEY]
    # Runs without this tag are older; their seeds were part of the key.
    if Tag.SEEDS in tags or Tag.DATA_DIGEST not in tags:
        return stored
    try:
        return TrialConfig.from_flat(run.data.params).key(tags[Tag.DATA_DIGEST])
    except ValueError:
        return stored
