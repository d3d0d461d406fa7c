"""The MLflow record, written by the driver alone.

The layout is in analysis.layout. A trial run has means over replicates per epoch, with `<name>_se` beside them; a
replicate run has the final values; the trial's artifact history.parquet has every epoch of every replicate. The study's
run explains the names in the record (`description.json`).
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service.utils import _get_store

from analysis.layout import Artifact, Level, Tag
from analysis.tracking import without_superseded
from study.errors import StudyError, last_line, without_secrets
from study.record.describe import describe_record
from study.record.environment import describe_environment
from study.record.journal import begin_log, end_log
from study.record.lease import Lease, StopRequest, held_study
from study.record.outcome import FAILED, EstimateOutcome, Outcome, RlctOutcome, describe_trial, mean_and_error
from study.record.protocol import DataDigest, as_digest, digest_of, protocol_of
from study.record.reader import FinishedTrial, RecordReader
from study.spec import StudySpec
from study.spec.yaml_text import write_yaml
from trainables.config import RlctConfig
from trainables.measures import end_measures
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
    _trial_runs: dict[str, str] = field(init=False, default_factory=dict)
    _varied: tuple[str, ...] = field(init=False, default=())  # fields in which the study's trials differ

    @contextmanager
    def held(self, say: Callable[[str], None] = lambda text: None) -> Iterator[Lease]:
        """Hold the study, so that no other driver writes its record; `say` is told of waiting and of taking over.

        A driver that holds it already goes on holding it.

        Raises:
            HeldError: another driver holds the study.
        """
        if self.lease is not None:
            yield self.lease
            return
        self._begin_log()
        try:
            with held_study(self, self.stores, self.study, say) as lease:
                self.lease = lease
                try:
                    yield lease
                finally:
                    self.lease = None
        finally:
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
                self._client.log_batch(self._study_id, tags=_tags(tags))
                self._study_run = self._client.get_run(self._study_id)
            self._client.log_text(self._study_id, write_yaml(spec.model_dump(mode="json")), Artifact.SPEC)
            self._client.log_text(self._study_id, describe_record().model_dump_json(indent=1), Artifact.DESCRIPTION)
            # Close the runs that a killed driver left open: nothing more is written to them.
            self._close_open_runs()
            self._delete_superseded()

    def start_trial(
        self, key: str, config: TrialConfig, place: int | None = None, supersedes: FinishedTrial | None = None
    ) -> str:
        """Begin the run of a trial with its place in the search, if it is known; return the run's id.

        The run may supersede an earlier one with fewer replicates.
        """
        with self._writing():
            study_tags = self._study_tags()
            tags: dict[str, str] = {
                Tag.LEVEL: Level.TRIAL,
                Tag.TRIAL_KEY: key,
                Tag.TASK: config.task,
                Tag.SEEDS: json.dumps(config.seeds),
                Tag.VALIDATION_SPLIT: _describe_validation(config.training.validation_fraction),
                Tag.GIT_COMMIT: study_tags[Tag.GIT_COMMIT],
                Tag.DATA_DIGEST: self._digest_of(config.task),
            }
            if place is not None:
                tags[Tag.PLACE] = str(place)
            if supersedes is not None:
                tags |= {Tag.SUPERSEDES: supersedes.run_id, Tag.BEGUN: str(supersedes.begun)}
            run = self._create_run(describe_trial(config, self._varied), tags, parent=self._study_id)
            self._client.log_batch(run.info.run_id, params=_params(config.flat()))
            self._trial_runs[key] = run.info.run_id
        return self._trial_runs[key]

    def log_epochs(
        self, key: str, first_epoch: int, epochs: list[dict[str, list[float]]], stage: Mapping[str, str] | None = None
    ) -> None:
        """Log means over replicates, with standard errors, of consecutive epochs; `stage` are tags on how far it is."""
        now = _now()
        metrics = [
            Metric(name, value, now, step)
            for step, epoch in enumerate(epochs, first_epoch)
            for name, value in mean_and_error(epoch).items()
        ]
        self._log_metrics(self._trial_runs[key], metrics, stage)

    def finish_trial(
        self, key: str, config: TrialConfig, outcome: Outcome, artifacts: Path, supersedes: FinishedTrial | None = None
    ) -> None:
        """Write a trial's final values, its replicates' runs and its artifacts, and close it.

        `config` has all its seeds, in the order of the outcome's replicates. Then a run that it supersedes is deleted.
        """
        run_id = self._trial_runs[key]
        now = _now()
        values = mean_and_error({measure.name: outcome.measurements[measure.name] for measure in end_measures()})
        values["seconds"] = sum(outcome.seconds.values())
        values |= {f"seconds_{stage}": seconds for stage, seconds in outcome.seconds.items()}
        with self._writing():
            self._client.log_artifacts(run_id, str(artifacts))
            for index, seed in enumerate(config.seeds):
                self._write_replicate(run_id, key, config, outcome, index, seed)
            self._log_metrics(
                run_id, [Metric(name, value, now, config.training.epochs) for name, value in values.items()]
            )
            tags = {
                Tag.STATUS: outcome.status,
                **_rlct_tags(outcome.rlct),
                Tag.DEVICE: outcome.device,
                **_place_tags(outcome.host, outcome.node),
                Tag.STAGE: "finished",
            }
            self._client.log_batch(run_id, tags=_tags(tags))
            # Last: a run counts as finished only if all its parts are there.
            self._client.set_terminated(run_id, "FINISHED")
            if supersedes is not None:
                self._delete_trial(supersedes.run_id)
        del self._trial_runs[key]

    def interrupt_trial(self, key: str) -> None:
        """Close a trial's run as killed; the trial starts again in another run."""
        with self._writing():
            self._client.set_terminated(self._trial_runs.pop(key), "KILLED")

    def fail_trial(self, key: str, reason: str, host: str | None = None) -> None:
        """Close a trial's run as failed, with its traceback as an artifact; `host` is where it ran, if known."""
        run_id = self._trial_runs.pop(key, None)
        if run_id is None:
            return
        last = without_secrets(last_line(reason, otherwise="no reason given"))
        tags: dict[str, str] = {Tag.STATUS: FAILED, Tag.REASON: last[:LONGEST_REASON]}
        if host:
            tags[Tag.HOST] = host
        with self._writing():
            self._client.log_text(run_id, without_secrets(reason), Artifact.ERROR)
            self._client.log_batch(run_id, tags=_tags(tags))
            self._client.set_terminated(run_id, "FAILED")

    def write_estimate(
        self, key: str, trial: FinishedTrial, settings: RlctConfig, outcome: EstimateOutcome, artifacts: Path
    ) -> None:
        """Write a repeated rlct estimate as a separate run under the trial's run, which stays unchanged."""
        values = mean_and_error({"rlct": outcome.rlct.estimates}) | {"seconds": outcome.seconds}
        tags = {
            Tag.LEVEL: Level.ESTIMATE,
            # As the trial's own runs have it.
            Tag.TRIAL_KEY: trial.stored_key or key,
            Tag.RLCT_SETTINGS: settings.key(),
            **_rlct_tags(outcome.rlct),
            Tag.DEVICE: outcome.device,
            **_place_tags(outcome.host, outcome.node),
            **describe_environment(),
        }
        with self._writing():
            of_trial = self._client.get_run(trial.run_id).data
            inherited = {name: of_trial.tags[name] for name in (Tag.TASK, Tag.STATUS, Tag.DATA_DIGEST)}
            params = of_trial.params | {f"rlct_{name}": str(value) for name, value in settings.model_dump().items()}
            run_id = self._create_run(f"rlct {settings.key()}", tags | inherited, parent=trial.run_id).info.run_id
            self._client.log_artifacts(run_id, str(artifacts))
            now = _now()
            self._log_metrics(run_id, [Metric(name, value, now, 0) for name, value in values.items()])
            self._client.log_batch(run_id, params=_params(params))
            self._client.set_terminated(run_id, "FINISHED")

    def close_open_estimates(self) -> None:
        """Close the estimates that a killed driver left half written; they are estimated again."""
        with self._writing():
            self._close_open_runs(f"tags.{Tag.LEVEL} = '{Level.ESTIMATE}'")

    def close_study(self, status: str) -> None:
        """Close the study's run as FINISHED, FAILED or KILLED, and with it every open run."""
        with self._writing():
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

    def _close_open_runs(self, condition: str = f"tags.{Tag.LEVEL} != '{Level.STUDY}'") -> None:
        for run in self._search(f"{condition} and attributes.status = 'RUNNING'"):
            self._client.set_terminated(run.info.run_id, "KILLED")

    def _delete_superseded(self) -> None:
        """Delete the superseded runs that a killed driver left."""
        runs = self._search(f"tags.{Tag.LEVEL} = '{Level.TRIAL}'")
        count = {run.info.run_id for run in without_superseded(runs)}
        for run in runs:
            if run.info.run_id not in count:
                self._delete_trial(run.info.run_id)

    def _delete_trial(self, run_id: str) -> None:
        """Delete a trial's run and those under it; MLflow can restore them until `mlflow gc`."""
        for run in self._search(f"tags.`{Tag.PARENT}` = '{run_id}'"):
            self._client.delete_run(run.info.run_id)
        # Last: as long as it is there, the next driver deletes what is left.
        self._client.delete_run(run_id)

    def _write_replicate(
        self, parent: str, key: str, config: TrialConfig, outcome: Outcome, index: int, seed: int
    ) -> None:
        tags: dict[str, str] = {
            Tag.LEVEL: Level.REPLICATE,
            Tag.TRIAL_KEY: key,
            Tag.TASK: config.task,
            Tag.REPLICATE: str(index),
            Tag.REPLICATE_KEY: config.replicate_key(seed, self._digest_of(config.task)),
            Tag.STATUS: outcome.replicate_statuses[index],
            Tag.VERDICT: outcome.rlct.verdicts[index],
            Tag.VERDICT_REASON: outcome.rlct.reasons[index],
        }
        run_id = self._create_run(f"replicate {index}", tags, parent=parent).info.run_id
        values = {name: float(per_replicate[index]) for name, per_replicate in outcome.measurements.items()}
        values |= {f"rlct_{name}": per_replicate[index] for name, per_replicate in outcome.rlct.diagnostics.items()}
        now = _now()
        metrics = [Metric(name, value, now, config.training.epochs) for name, value in values.items()]
        params = _params(config.flat() | {"seed": seed})
        self._client.log_batch(run_id, metrics=[m for m in metrics if math.isfinite(m.value)], params=params)
        self._client.set_terminated(run_id, "FINISHED")

    def _digest_of(self, task: str) -> str:
        return digest_of(as_digest(self._study_tags()[Tag.DATA_DIGEST]), task)

    def _create_run(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> Run:
        assert self._experiment is not None
        nested = {Tag.PARENT: parent} if parent else {}
        every = {str(tag): str(value) for tag, value in (dict(tags) | nested).items()}
        return self._client.create_run(self._experiment.experiment_id, tags=every, run_name=name)

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


def _describe_validation(fraction: float) -> str:
    if fraction == 0:
        return "none (published recipe: trained on all training data, test split reported)"
    return f"{fraction:.0%} of the training data, stratified"


def _rlct_tags(outcome: RlctOutcome) -> dict[str, str]:
    return {
        Tag.VERDICT: outcome.verdict,
        Tag.VERDICT_REASON: outcome.reason,
        Tag.VERDICT_ADVICE: VERDICTS[outcome.verdict].advice,
        Tag.NBETA: f"{outcome.nbeta:.6g}",
    }


def _place_tags(host: str, node: str) -> dict[str, str]:
    return {Tag.HOST: host, Tag.NODE: node} if node else {Tag.HOST: host}


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(name, str(value)) for name, value in values.items()]


def _tags(values: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(str(name), str(value)) for name, value in values.items()]


def _now() -> int:
    return int(time.time() * 1000)
