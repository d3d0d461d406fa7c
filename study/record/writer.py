"""The MLflow record, written by the driver alone.

The layout is in analysis.layout. A trial run has means over replicates per epoch, with `<name>_se` beside them; a
replicate run has the final values; the trial's artifact history.parquet has every epoch of every replicate. The study's
run explains the names in the record (`description.json`).
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service.utils import _get_store

from analysis.layout import NO_ESTIMATE, VERDICT_SUFFIX, Artifact, Level, Tag
from analysis.tracking import without_superseded
from study.errors import StudyError, disk_errors, last_line, without_secrets
from study.record.describe import describe_record
from study.record.environment import describe_environment
from study.record.journal import begin_log, end_log
from study.record.lease import Lease, StopRequest, held_study, holders_in
from study.record.outbox import EndedEstimate, EndedTrial, EstimateEntry, Former, Outbox, TrialEntry
from study.record.outcome import FAILED, EstimateOutcome, Outcome, RlctOutcome, describe_trial, mean_and_error
from study.record.protocol import DataDigest, as_digest, digest_of, protocol_of
from study.record.reader import FinishedTrial, RecordReader, usage_of
from study.record.stores import StoreError
from study.record.usage import Allotment, total
from study.spec import StudySpec
from study.spec.yaml_text import write_yaml
from trainables.config import RlctConfig
from trainables.measures import is_end_measure
from trainables.outcomes import VERDICTS
from trainables.trial import TrialConfig

# MLflow's own limit for one request.
METRICS_PER_BATCH = 1000
# Characters of a failed trial's reason among its tags; all of it is in error.txt.
LONGEST_REASON = 500


@dataclass
class RecordWriter(RecordReader):
    """Writes one study to the tracking store.

    Raises (all methods):
        StudyError: the tracking store cannot be reached or written.
    """

    lease: Lease | None = field(init=False, default=None)
    _left: float | None = field(init=False, default=None)  # when a driver that died was last heard of
    _trial_runs: dict[str, str] = field(init=False, default_factory=dict)
    _varied: tuple[str, ...] = field(init=False, default=())  # fields in which the study's trials differ
    _deliveries: dict[Path, str] = field(init=False, default_factory=dict)  # runs that an entry of the outbox has begun
    # By key, the interrupted runs of trials that have no result yet.
    _interrupted: dict[str, list[Former]] = field(init=False, default_factory=dict)
    _file: tuple[int, int] | None = field(init=False, default=None)  # device and inode of a record that is a file

    def __post_init__(self) -> None:
        super().__post_init__()
        self.outbox = Outbox(self.stores.outbox_folder(self.study))

    @contextmanager
    def held(self, say: Callable[[str], None] = lambda text: None) -> Iterator[Lease]:
        """Hold the study, so that no other driver writes its record; `say` is told of waiting and of taking over.

        A driver that holds it already goes on holding it. Results that wait in the outbox are put into the record.

        Raises:
            HeldError: another driver holds the study.
        """
        if self.lease is not None:
            yield self.lease
            return
        self._begin_log()
        self._file = self._identity()
        try:
            others = holders_in(self.experiment_tags())
            self._left = max((other.heartbeat for other in others), default=None)
            with held_study(self, self.stores, self.study, say) as lease:
                self.lease = lease
                try:
                    self.empty_outbox(say)
                    yield lease
                finally:
                    self.lease = None
        finally:
            self._file = None
            # Not before: the heartbeat writes to the record too.
            self._end_log()

    @property
    def stop_request(self) -> StopRequest | None:
        """The request that this driver stop, if there is one."""
        return self.lease.stop if self.lease else None

    def begin(self) -> None:
        """Make the study's experiment. Of two drivers that do so at once, the second takes the first one's."""
        self.stores.prepare()
        with self._reachable(), self._first_use():
            self._client = MlflowClient(self.stores.tracking_uri)
            location = self.stores.artifact_location(self.study)
            try:
                self._client.create_experiment(self.study, artifact_location=location)
            except MlflowException as error:
                if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                    raise
        self.refresh()

    def set_experiment_tag(self, name: str, value: str) -> None:
        """Write a tag of the study's experiment."""
        assert self._experiment is not None
        with self._reachable():
            self._client.set_experiment_tag(self._experiment.experiment_id, name, value)

    def delete_experiment_tag(self, name: str) -> None:
        """Remove a tag of the study's experiment, if it is there."""
        assert self._experiment is not None
        with self._reachable():
            try:
                self._client.delete_experiment_tag(self._experiment.experiment_id, name)
            except MlflowException as error:
                if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                    raise

    def open_study(
        self, spec: StudySpec, data_digest: DataDigest, trials: int | None = None, workers: int | None = None
    ) -> None:
        """Begin the study's run, or continue the existing one.

        `trials` is the number of trials of the whole study, `workers` that of trials side by side.

        Raises:
            StudyError: the files of the study lie elsewhere than it is asked for now.
        """
        if not self.exists:
            self.begin()
        self._check_artifact_location()
        self._varied = spec.varied
        with self._writing():
            tags: dict[str, str] = {
                Tag.LEVEL: Level.STUDY,
                Tag.TASK: ", ".join(spec.tasks),
                Tag.QUESTION: spec.question,
                Tag.PROTOCOL: json.dumps(protocol_of(spec, data_digest)),
                Tag.OBJECTIVES: json.dumps(spec.objectives),
                Tag.OPENED: str(_now()),
                Tag.DATA_DIGEST: data_digest if isinstance(data_digest, str) else json.dumps(dict(data_digest)),
                Tag.VALIDATION_SPLIT: "; ".join(map(_describe_validation, spec.values("validation_fraction"))),
                Tag.BUDGET: json.dumps(spec.budget.model_dump(mode="json")),
                Tag.STOPPING: spec.stopping_rule,
                **describe_environment(),
            }
            if trials is not None:
                tags[Tag.TRIALS] = str(trials)
            if workers is not None:
                tags[Tag.WORKERS] = str(workers)
            if self._study_run is None:
                self._study_run = self._create_run(spec.name, tags)
            else:
                self._client.update_run(self._study_id, status="RUNNING")
                if Tag.STOPPED in self._study_tags():
                    self._client.delete_tag(self._study_id, Tag.STOPPED)
                self._client.log_batch(self._study_id, tags=_tags(tags))
                self._study_run = self._client.get_run(self._study_id)
            self._client.log_text(self._study_id, write_yaml(spec.model_dump(mode="json")), Artifact.SPEC)
            self._client.log_text(self._study_id, describe_record().model_dump_json(indent=1), Artifact.DESCRIPTION)
            # Close the runs that a killed driver left open: nothing more is written to them.
            self._close_open_runs(ended=self._left)
            self._delete_what_does_not_count()

    def empty_outbox(self, say: Callable[[str], None] = lambda text: None) -> None:
        """Put what waits in the outbox into the record, and say how much it was; nothing if it has no such study."""
        if not len(self.outbox):
            return
        if self.run_id is None:
            self.refresh()
        if self.run_id is None:
            return
        entries, damaged = self.outbox.entries()
        for text in damaged:
            say(f"A result that waited for the record is damaged and was set aside; it is computed again: {text}")
        for entry in list(entries):
            if isinstance(entry, TrialEntry):
                self.deliver(entry)
            elif not self.deliver_estimate(entry):
                entries.remove(entry)
                aside = self.outbox.set_aside(entry.folder)
                say(f"An estimate that waited for the record was set aside, which no longer has its trial: {aside}")
        if entries:
            say(f"{len(entries)} result(s) that had waited for the record are in it now; none was computed again.")

    def deliver(self, entry: TrialEntry) -> None:
        """Put a trial of the outbox into the record, as if the record had been there, and remove it from the outbox.

        What the record has of its run so far is deleted. If this is cut short, it begins anew with the next call.
        """
        trial = entry.trial
        with self._writing():
            begun = self._deliveries.get(entry.folder)
            runs = self._search(f"tags.{Tag.LEVEL} = '{Level.TRIAL}' and tags.{Tag.TRIAL_KEY} = '{trial.key}'")
            if not any(_has(run, trial) for run in runs):
                former = []
                for run in runs:
                    if run.info.run_id == begun:
                        continue
                    if run.info.start_time == trial.started:
                        self._delete_trial(run.info.run_id)
                        continue
                    if run.info.status == "RUNNING":
                        # An earlier try, whose end could not be recorded.
                        run = self._kill(run.info.run_id, max(trial.started, run.info.start_time))
                    if run.info.status == "KILLED":
                        former.append(_as_former(run))
                self._interrupted[trial.key] = former
                if begun is None:
                    begun = self._deliveries[entry.folder] = self.begin_trial(trial)
                self._trial_runs[trial.key] = begun
                if trial.reason is not None:
                    self.fail_trial(trial.key, trial.reason, trial.host, trial.ended)
                else:
                    self._delete_children(begun)
                    self.log_epochs(trial.key, 1, entry.epochs(), ended=trial.ended)
                    self.finish_trial(
                        trial.key, trial.config, entry.outcome(), entry.files, trial.supersedes, trial.ended
                    )
        self._deliveries.pop(entry.folder, None)
        with disk_errors():
            self.outbox.remove(entry)

    def deliver_estimate(self, entry: EstimateEntry) -> bool:
        """Put an estimate of the outbox into the record, and remove it from the outbox; as `deliver`.

        False if the record no longer has the trial's run, or that was superseded; nothing is done then.
        """
        estimate = entry.estimate
        with self._writing():
            if not self._has_run(estimate.run_id):
                return False
            of_these_settings = f"tags.{Tag.RLCT_SETTINGS} = '{estimate.settings.key()}'"
            runs = self._search(f"tags.`{Tag.PARENT}` = '{estimate.run_id}' and {of_these_settings}")
            if not any(run.info.status == "FINISHED" for run in runs):
                for run in runs:
                    self._client.delete_run(run.info.run_id)
                self.write_estimate(estimate, entry.outcome(), entry.files)
        with disk_errors():
            self.outbox.remove(entry)
        return True

    def ended_trial(
        self,
        key: str,
        config: TrialConfig,
        place: int | None = None,
        supersedes: FinishedTrial | Former | None = None,
        allotment: Allotment | None = None,
    ) -> EndedTrial:
        """What the record is to have of a trial that begins and ends now."""
        now = _now()
        return EndedTrial(
            key=key,
            name=describe_trial(config, self._varied),
            config=config,
            git_commit=self._study_tags()[Tag.GIT_COMMIT],
            started=now,
            ended=now,
            place=place,
            supersedes=Former(supersedes.run_id, supersedes.begun, supersedes.used) if supersedes else None,
            allotment=allotment,
        )

    def start_trial(
        self,
        key: str,
        config: TrialConfig,
        place: int | None = None,
        supersedes: FinishedTrial | Former | None = None,
        allotment: Allotment | None = None,
    ) -> str:
        """Begin the run of a trial that begins now, with its place in the search, if it is known; return the run's id.

        The run may supersede an earlier one with fewer replicates. `allotment` is what the trial has while it runs.
        """
        return self.begin_trial(self.ended_trial(key, config, place, supersedes, allotment))

    def begin_trial(self, trial: EndedTrial) -> str:
        """Begin the run of a trial; return the run's id."""
        config, supersedes = trial.config, trial.supersedes
        self._trial_runs.pop(trial.key, None)
        with self._writing():
            tags: dict[str, str] = {
                Tag.LEVEL: Level.TRIAL,
                Tag.TRIAL_KEY: trial.key,
                Tag.TASK: config.task,
                Tag.SEEDS: json.dumps(config.seeds),
                Tag.VALIDATION_SPLIT: _describe_validation(config.training.validation_fraction),
                Tag.GIT_COMMIT: trial.git_commit,
                Tag.DATA_DIGEST: self._digest_of(config.task),
            }
            if trial.allotment is not None:
                tags |= trial.allotment.tags()
            if trial.place is not None:
                tags[Tag.PLACE] = str(trial.place)
            if supersedes is not None:
                tags |= {Tag.SUPERSEDES: supersedes.run_id, Tag.BEGUN: str(supersedes.begun)}
            run = self._create_run(trial.name, tags, parent=self._study_id, started=trial.started)
            self._client.log_batch(run.info.run_id, params=_params(config.flat()))
        self._trial_runs[trial.key] = str(run.info.run_id)
        return self._trial_runs[trial.key]

    def run_of(self, key: str) -> str:
        """The id of the run of a trial that this driver has begun and not ended."""
        return self._trial_runs[key]

    def place_trial(self, key: str, allotment: Allotment) -> None:
        """Write what a running trial has of the machine that it runs on."""
        with self._writing():
            self._client.log_batch(self._trial_runs[key], tags=_tags(allotment.tags()))

    def touch(self) -> None:
        """Write something small, to see that the record can be written."""
        if self.lease is not None:
            self.lease.beat()
        else:
            self.experiment_tags()

    def log_epochs(
        self,
        key: str,
        first_epoch: int,
        epochs: list[dict[str, list[float]]],
        stage: Mapping[str, str] | None = None,
        ended: int | None = None,
    ) -> None:
        """Log means over replicates, with standard errors, of consecutive epochs; `stage` are tags on how far it is.

        `ended` is when the trial ended, if it has, in milliseconds since 1970.
        """
        now = ended or _now()
        metrics = [
            Metric(name, value, now, step)
            for step, epoch in enumerate(epochs, first_epoch)
            for name, value in mean_and_error(epoch).items()
        ]
        self._log_metrics(self._trial_runs[key], metrics, stage)

    def finish_trial(
        self,
        key: str,
        config: TrialConfig,
        outcome: Outcome,
        artifacts: Path,
        supersedes: FinishedTrial | Former | None = None,
        ended: int | None = None,
    ) -> None:
        """Write a trial's final values, its replicates' runs and its artifacts, and close it.

        `config` has all its seeds, in the order of the outcome's replicates. Then the runs that it supersedes are
        deleted: one with fewer replicates, and interrupted ones. `ended` is when the trial ended, if not now, in
        milliseconds since 1970.
        """
        run_id = self._trial_runs[key]
        now = ended or _now()
        measured = [name for name in outcome.measurements if is_end_measure(name)]
        values = mean_and_error({name: outcome.measurements[name] for name in measured})
        values["seconds"] = sum(outcome.seconds.values())
        values |= {f"seconds_{stage}": seconds for stage, seconds in outcome.seconds.items()}
        with self._writing():
            self._client.log_artifacts(run_id, str(artifacts))
            for index, seed in enumerate(config.seeds):
                self._write_replicate(run_id, key, config, outcome, index, seed, now)
            metrics = [Metric(name, value, now, config.training.epochs) for name, value in values.items()]
            tags = {
                Tag.STATUS: outcome.status,
                **_rlct_tags(outcome.rlct),
                **{f"{name}{VERDICT_SUFFIX}": each.verdict for name, each in outcome.further_rlcts.items()},
                Tag.DEVICE: outcome.device,
                **_place_tags(outcome.host, outcome.node),
                Tag.STAGE: "finished",
            }
            if outcome.stop is not None:
                tags |= {Tag.REASON: outcome.stop.reason, Tag.STOPPING: outcome.stop.rule}
            former = [*self._interrupted.get(key, ()), *([supersedes] if supersedes else ())]
            if former:
                tags[Tag.SUPERSEDES] = ",".join(each.run_id for each in former)
                tags[Tag.USED_BEFORE] = total(each.used for each in former).to_json()
            self._log_metrics(run_id, metrics, tags)
            # Last: a run counts as finished only if all its parts are there.
            self._client.set_terminated(run_id, "FINISHED", ended)
            for each in former:
                self._delete_trial(each.run_id)
        self._interrupted.pop(key, None)
        del self._trial_runs[key]

    def interrupt_trial(self, key: str, ended: int | None = None) -> None:
        """Close a trial's run as killed; the trial starts again in another run.

        `ended` is when it was interrupted, if not now, in milliseconds since 1970.
        """
        with self._writing():
            killed = self._kill(self._trial_runs[key], ended)
        del self._trial_runs[key]
        self._interrupted.setdefault(key, []).append(_as_former(killed))

    def fail_trial(self, key: str, reason: str, host: str | None = None, ended: int | None = None) -> None:
        """Close a trial's run as failed, with its traceback as an artifact; `host` is where it ran, if known.

        `ended` is when the trial ended, if not now, in milliseconds since 1970.
        """
        run_id = self._trial_runs.get(key)
        if run_id is None:
            return
        last = without_secrets(last_line(reason, otherwise="no reason given"))
        tags: dict[str, str] = {Tag.STATUS: FAILED, Tag.REASON: last[:LONGEST_REASON]}
        if host:
            tags[Tag.HOST] = host
        with self._writing():
            self._client.log_text(run_id, without_secrets(reason), Artifact.ERROR)
            self._client.log_batch(run_id, tags=_tags(tags))
            self._client.set_terminated(run_id, "FAILED", ended)
        del self._trial_runs[key]

    def ended_estimate(self, key: str, trial: FinishedTrial, settings: RlctConfig) -> EndedEstimate:
        """What the record is to have of a repeated rlct estimate that has just been made."""
        # The key as the trial's own runs have it.
        return EndedEstimate(trial.stored_key or key, trial.run_id, settings, describe_environment(), _now())

    def write_estimate(self, estimate: EndedEstimate, outcome: EstimateOutcome, artifacts: Path) -> None:
        """Write a repeated rlct estimate as a separate run under the trial's run, which stays unchanged."""
        settings = estimate.settings
        values = mean_and_error({"rlct": outcome.rlct.estimates}) | {"seconds": outcome.seconds}
        tags = {
            Tag.LEVEL: Level.ESTIMATE,
            Tag.TRIAL_KEY: estimate.key,
            Tag.RLCT_SETTINGS: settings.key(),
            **_rlct_tags(outcome.rlct),
            Tag.DEVICE: outcome.device,
            **_place_tags(outcome.host, outcome.node),
            **estimate.environment,
        }
        with self._writing():
            of_trial = self._client.get_run(estimate.run_id).data
            inherited = {name: of_trial.tags[name] for name in (Tag.TASK, Tag.STATUS, Tag.DATA_DIGEST)}
            params = of_trial.params | {f"rlct_{name}": str(value) for name, value in settings.model_dump().items()}
            name, ended = f"rlct {settings.key()}", estimate.ended
            run_id = self._create_run(name, tags | inherited, estimate.run_id, started=ended).info.run_id
            self._client.log_artifacts(run_id, str(artifacts))
            metrics = [Metric(name, value, ended, 0) for name, value in values.items()]
            finite = [metric for metric in metrics if math.isfinite(metric.value)]
            self._client.log_batch(run_id, metrics=finite, params=_params(params))
            self._client.set_terminated(run_id, "FINISHED", ended)

    def close_open_estimates(self) -> None:
        """Close the estimates that a killed driver left half written; they are estimated again."""
        with self._writing():
            self._close_open_runs(f"tags.{Tag.LEVEL} = '{Level.ESTIMATE}'")

    def close_study(self, status: str, reason: str = "") -> None:
        """Close the study's run as FINISHED, FAILED or KILLED, and with it every open run.

        `reason` is why the study has stopped before its end.
        """
        with self._writing():
            if reason:
                self._client.set_tag(self._study_id, Tag.STOPPED, reason[:LONGEST_REASON])
            self._close_open_runs()
            self._trial_runs.clear()
            self._client.set_terminated(self._study_id, status)

    def attach(self, folder: Path, name: str) -> None:
        """Put a folder among the artifacts of the study's run, under that name."""
        with self._reachable():
            self._client.log_artifacts(self._study_id, str(folder), name)

    def _check_artifact_location(self) -> None:
        location = self.stores.artifact_location(self.study)
        existing = self._experiment.artifact_location if self._experiment else location
        if self.stores.artifacts_uri is not None and existing != location:
            raise StudyError(
                f"--artifacts: the files of the study {self.study!r} lie at {without_secrets(str(existing))} since it "
                f"began, and cannot move to {without_secrets(str(location))}. Leave the option out, or give the study "
                "another --name."
            )

    def _begin_log(self) -> None:
        if self.stores.tracking_file is not None:
            begin_log(self.stores.tracking_file)

    def _end_log(self) -> None:
        """Leave a SQLite record as one file, without a write-ahead log beside it."""
        if self.stores.tracking_file is not None:
            # MLflow keeps its connections open; its client has no method that closes them.
            _get_store(self.stores.tracking_uri).engine.dispose()  # type: ignore[no-untyped-call]
            end_log(self.stores.tracking_file)

    @property
    def _study_id(self) -> str:
        return str(self._existing_run().info.run_id)

    def _close_open_runs(
        self, condition: str = f"tags.{Tag.LEVEL} != '{Level.STUDY}'", ended: float | None = None
    ) -> None:
        """Close open runs, as having ended now or at a time in seconds since 1970: they use nothing after it."""
        for run in self._search(f"{condition} and attributes.status = 'RUNNING'"):
            end = None if ended is None else max(int(ended * 1000), run.info.start_time)
            self._client.set_terminated(run.info.run_id, "KILLED", end)

    def _kill(self, run_id: str, ended: int | None = None) -> Run:
        """Close an open run as killed, now or at a time in milliseconds since 1970; return it."""
        self._client.set_terminated(run_id, "KILLED", ended)
        return self._client.get_run(run_id)

    def _delete_what_does_not_count(self) -> None:
        """Delete what a killed driver left: superseded runs, and those of which it had not written what trial they are.

        The latter count as never begun: the search would look for another trial in their place. Interrupted runs are
        remembered, to be superseded.
        """
        runs = self._search(f"tags.{Tag.LEVEL} = '{Level.TRIAL}'")
        count = {run.info.run_id for run in without_superseded(runs)}
        self._interrupted = {}
        for run in runs:
            if run.info.run_id not in count or not run.data.params:
                self._delete_trial(run.info.run_id)
            elif run.info.status == "KILLED":
                self._interrupted.setdefault(run.data.tags[Tag.TRIAL_KEY], []).append(_as_former(run))

    def _delete_trial(self, run_id: str) -> None:
        """Delete a trial's run and those under it; MLflow can restore them until `mlflow gc`."""
        self._delete_children(run_id)
        try:
            # Last: as long as it is there, the next driver deletes what is left.
            self._client.delete_run(run_id)
        except MlflowException as error:
            # The record was lost, and this is a new one.
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise

    def _has_run(self, run_id: str) -> bool:
        """Whether the record has a run that was not deleted."""
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            return False

    def _delete_children(self, run_id: str) -> None:
        for run in self._search(f"tags.`{Tag.PARENT}` = '{run_id}'"):
            self._client.delete_run(run.info.run_id)

    def _write_replicate(
        self, parent: str, key: str, config: TrialConfig, outcome: Outcome, index: int, seed: int, now: int
    ) -> None:
        tags: dict[str, str] = {
            Tag.LEVEL: Level.REPLICATE,
            Tag.TRIAL_KEY: key,
            Tag.TASK: config.task,
            Tag.REPLICATE: str(index),
            Tag.REPLICATE_KEY: config.replicate_key(seed, self._digest_of(config.task)),
            Tag.STATUS: outcome.replicate_statuses[index],
            Tag.VERDICT: NO_ESTIMATE,
        }
        if outcome.rlct is not None:
            tags |= {
                Tag.VERDICT: outcome.rlct.verdicts[index],
                Tag.VERDICT_REASON: outcome.rlct.reasons[index],
                **_caveats(outcome.rlct.caveats[index] if outcome.rlct.caveats else ()),
            }
        for name, further in outcome.further_rlcts.items():
            tags |= {f"{name}{VERDICT_SUFFIX}": further.verdicts[index], f"{name}_reason": further.reasons[index]}
            if further.caveats[index]:
                tags[f"{name}_caveats"] = ", ".join(further.caveats[index])
        run_id = self._create_run(f"replicate {index}", tags, parent=parent).info.run_id
        values = {name: float(per_replicate[index]) for name, per_replicate in outcome.measurements.items()}
        diagnostics = {} if outcome.rlct is None else outcome.rlct.diagnostics
        values |= {f"rlct_{name}": per_replicate[index] for name, per_replicate in diagnostics.items()}
        metrics = [Metric(name, value, now, config.training.epochs) for name, value in values.items()]
        params = _params(config.flat() | {"seed": seed})
        self._client.log_batch(run_id, metrics=[m for m in metrics if math.isfinite(m.value)], params=params)
        self._client.set_terminated(run_id, "FINISHED")

    def _digest_of(self, task: str) -> str:
        return digest_of(as_digest(self._study_tags()[Tag.DATA_DIGEST]), task)

    def _create_run(
        self, name: str, tags: Mapping[str, str], parent: str | None = None, started: int | None = None
    ) -> Run:
        assert self._experiment is not None
        nested = {Tag.PARENT: parent} if parent else {}
        every = {str(tag): str(value) for tag, value in (dict(tags) | nested).items()}
        return self._client.create_run(self._experiment.experiment_id, started, every, name)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        if self._file is not None and self._identity() != self._file:
            # An open connection would go on writing into a file that no longer has a name.
            raise StoreError(
                f"the record {self.stores.tracking_file} was deleted or exchanged while the study ran. Put it back "
                "(a copy from a backup will do), then run the same command again.",
                f"{self.stores.tracking_file} was deleted or exchanged. Put it back.",
            )
        with super()._reachable():
            yield

    def _identity(self) -> tuple[int, int] | None:
        """Device and inode of a record that is a file; None of another one, and of one that is gone."""
        file = self.stores.tracking_file
        try:
            found = None if file is None else file.stat()
        except OSError:
            return None
        return None if found is None else (found.st_dev, found.st_ino)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write to the record, unless another driver has taken the study over."""
        if self.lease is not None:
            self.lease.check()
        with self._reachable():
            yield

    def _log_metrics(self, run_id: str, metrics: list[Metric], tags: Mapping[str, str] | None = None) -> None:
        # A metric that does not apply is left out, and so is an infinite one, for which MLflow would store a finite
        # number.
        finite = [metric for metric in metrics if math.isfinite(metric.value)]
        with self._writing():
            # Tags need no request of their own, unless there are no metrics.
            for start in range(0, max(len(finite), 1 if tags else 0), METRICS_PER_BATCH):
                batch = finite[start : start + METRICS_PER_BATCH]
                self._client.log_batch(run_id, metrics=batch, tags=_tags({} if start else tags or {}))


def _as_former(run: Run) -> Former:
    return Former(run.info.run_id, run.info.start_time, usage_of(run))


def _has(run: Run, trial: EndedTrial) -> bool:
    """Whether a run is the finished one of a trial, or the failed one of a trial that failed."""
    if trial.reason is not None:
        return bool(run.info.status == "FAILED" and run.info.start_time == trial.started)
    seeds = set(json.loads(run.data.tags.get(Tag.SEEDS, "[]")))
    return run.info.status == "FINISHED" and seeds.issuperset(trial.config.seeds)


def _describe_validation(fraction: float) -> str:
    if fraction == 0:
        return "none (published recipe: trained on all training data, test split reported)"
    return f"{fraction:.0%} of the training data, stratified"


def _rlct_tags(outcome: RlctOutcome | None) -> dict[str, str]:
    if outcome is None:
        return {Tag.VERDICT: NO_ESTIMATE}
    return {
        Tag.VERDICT: outcome.verdict,
        Tag.VERDICT_REASON: outcome.reason,
        Tag.VERDICT_ADVICE: VERDICTS[outcome.verdict].advice,
        Tag.NBETA: f"{outcome.nbeta:.6g}",
        **_caveats(outcome.all_caveats),
    }


def _caveats(names: Iterable[str]) -> dict[str, str]:
    found = ", ".join(names)
    return {Tag.CAVEATS: found} if found else {}


def _place_tags(host: str, node: str) -> dict[str, str]:
    return {Tag.HOST: host, Tag.NODE: node} if node else {Tag.HOST: host}


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(name, str(value)) for name, value in values.items()]


def _tags(values: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(str(name), str(value)) for name, value in values.items()]


def _now() -> int:
    return int(time.time() * 1000)
