"""The MLflow record, written by the driver alone.

Experiment = study. A run for the study, under it a run per trial, under that a run per replicate; the tag `level` says
which. A trial run carries per-epoch means over its replicates with `<name>_se` beside them; a replicate run carries its
final values; every epoch of every replicate is the artifact history.parquet of the trial run.
"""

import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from analysis.tracking import quieten_mlflow, search_all_runs
from study.environment import describe_environment
from study.errors import StudyError, first_line, without_password
from study.outcome import EstimateOutcome, Outcome, RlctOutcome, describe_trial, mean_and_error
from study.spec import StudySpec, build_spec, read_study
from study.stores import Stores
from trainables.config import PROTOCOL_VERSION, RlctConfig
from trainables.experiment import FINAL_METRICS
from trainables.rlct import ADVICE
from trainables.trial import TrialConfig

SPEC_FILE = "spec.yaml"
# MLflow's own limit for one request.
METRICS_PER_BATCH = 1000


@dataclass(frozen=True)
class FinishedTrial:
    """What the record says of a finished trial: its name, status_detail, rlct_verdict and metrics."""

    run_id: str
    name: str
    status: str
    rlct_verdict: str
    metrics: Mapping[str, float]


@dataclass
class Record:
    """One study in the tracking store.

    Raises (all methods):
        StudyError: the tracking store cannot be reached or written.
    """

    stores: Stores
    study: str
    _client: MlflowClient = field(init=False)
    _experiment: Experiment | None = field(init=False, default=None)
    _study_run: Run | None = field(init=False, default=None)
    _trial_runs: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        quieten_mlflow()
        if self.stores.is_empty:
            return
        with self._reachable():
            self._client = MlflowClient(self.stores.tracking_uri)
            self._experiment = self._client.get_experiment_by_name(self.study)
        if self._experiment is not None:
            if self._experiment.lifecycle_stage != "active":
                raise StudyError(
                    f"the MLflow experiment {self.study!r} was deleted and still holds its name. Restore it with "
                    f"'mlflow experiments restore', remove it with 'mlflow gc', or give the study another --name."
                )
            runs = self._search("tags.level = 'study'")
            self._study_run = runs[0] if runs else None

    # What is there already

    def finished(self) -> dict[str, "FinishedTrial"]:
        """The trials that have a finished result, by key."""
        runs = self._search("tags.level = 'trial' and attributes.status = 'FINISHED'")
        return {
            run.data.tags["trial_key"]: FinishedTrial(
                run.info.run_id,
                run.info.run_name or "",
                run.data.tags["status_detail"],
                run.data.tags["rlct_verdict"],
                run.data.metrics,
            )
            for run in runs
        }

    def spec(self) -> StudySpec:
        """The study as it was last run.

        Raises:
            StudyError: the store has no such study.
        """
        if self._study_run is None:
            raise StudyError(
                f"{without_password(self.stores.tracking_uri)} has no study {self.study!r}: check its name, --store "
                "and --tracking-uri, or run it first with study/run.py."
            )
        with tempfile.TemporaryDirectory() as folder:
            file = self.download(self._study_id, SPEC_FILE, Path(folder))
            return build_spec(read_study(str(file)), str(file))

    def download(self, run_id: str, artifact: str, folder: Path) -> Path:
        """Fetch an artifact of a run into a folder."""
        with self._reachable():
            return Path(self._client.download_artifacts(run_id, artifact, str(folder)))

    def estimated(self) -> set[tuple[str, str]]:
        """Keys of the trial and of the settings of every rlct that was estimated again."""
        runs = self._search("tags.level = 'estimate' and attributes.status = 'FINISHED'")
        return {(run.data.tags["trial_key"], run.data.tags["rlct_settings"]) for run in runs}

    def check_protocol(self, spec: StudySpec, data_digest: str) -> None:
        """A study's trials share everything but their place in the space.

        Raises:
            StudyError: this study was begun with something else; names what differs.
        """
        if self._study_run is None:
            return
        before = json.loads(self._study_run.data.tags["protocol"])
        now = _protocol(spec, data_digest)
        differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if differing:
            lines = [f"  {key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in differing]
            raise StudyError(
                f"the study {self.study!r} in {without_password(self.stores.tracking_uri)} "
                "was begun with other settings:\n"
                + "\n".join(lines)
                + "\nIts trials and these would not be one study. Give this one a name (--name "
                f"{self.study}-2) or another folder (--store DIR)."
            )

    # Writing

    def open_study(self, spec: StudySpec, data_digest: str) -> None:
        """Begin the study's run, or go on with the one it has."""
        self.stores.prepare()
        with self._reachable():
            if self._experiment is None:
                self._client = MlflowClient(self.stores.tracking_uri)
                location = (self.stores.artifacts / self.study).as_uri() if self.stores.tracking_is_local else None
                experiment_id = self._client.create_experiment(self.study, artifact_location=location)
                self._experiment = self._client.get_experiment(experiment_id)
            protocol = _protocol(spec, data_digest)
            tags = {
                "level": "study",
                "task": spec.task,
                "question": spec.question,
                "protocol": json.dumps(protocol),
                "objectives": json.dumps(spec.objectives),
                "data_digest": data_digest,
                "validation_split": _describe_validation(spec),
                **describe_environment(),
            }
            if self._study_run is None:
                self._study_run = self._create_run(spec.name, tags)
            else:
                self._client.update_run(self._study_id, status="RUNNING")
                self._client.log_batch(self._study_id, tags=_tags(tags))
            self._client.log_text(self._study_id, _as_yaml(spec), SPEC_FILE)
            # Runs that a killed driver left open will never be written again.
            self._close_open_runs()

    def start_trial(self, key: str, config: TrialConfig) -> None:
        """Begin a trial's run."""
        with self._reachable():
            tags = {
                "level": "trial",
                "trial_key": key,
                "task": config.task,
                "git_commit": self._study.data.tags["git_commit"],
                "data_digest": self._study.data.tags["data_digest"],
                "validation_split": self._study.data.tags["validation_split"],
            }
            run = self._create_run(describe_trial(config), tags, parent=self._study_id)
            self._client.log_batch(run.info.run_id, params=_params(config.flat()))
            self._trial_runs[key] = run.info.run_id

    def log_epochs(self, key: str, first_epoch: int, epochs: list[dict[str, list[float]]]) -> None:
        """Log means over replicates, with standard errors, of consecutive epochs."""
        now = _now()
        metrics = [
            Metric(name, value, now, step)
            for step, epoch in enumerate(epochs, first_epoch)
            for name, value in mean_and_error(epoch).items()
        ]
        self._log_metrics(self._trial_runs[key], metrics)

    def finish_trial(self, key: str, config: TrialConfig, outcome: Outcome, artifacts: Path) -> None:
        """Write a trial's final values, its replicates' runs and its artifacts, and close it."""
        run_id = self._trial_runs[key]
        now = _now()
        values = mean_and_error({name: outcome.measurements[name] for name in FINAL_METRICS})
        values["seconds"] = sum(outcome.seconds.values())
        values |= {f"seconds_{stage}": seconds for stage, seconds in outcome.seconds.items()}
        with self._reachable():
            self._client.log_artifacts(run_id, str(artifacts))
            for index, seed in enumerate(config.seeds):
                self._write_replicate(run_id, key, config, outcome, index, seed)
            self._log_metrics(
                run_id, [Metric(name, value, now, config.training.epochs) for name, value in values.items()]
            )
            tags = {
                "status_detail": outcome.status,
                **_rlct_tags(outcome.rlct),
                "device": outcome.device,
                "host": outcome.host,
            }
            self._client.log_batch(run_id, tags=_tags(tags))
            # Last: only a run whose every part is there counts as finished.
            self._client.set_terminated(run_id, "FINISHED")
        del self._trial_runs[key]

    def fail_trial(self, key: str, reason: str) -> None:
        """Close a trial's run as failed, with its traceback as an artifact."""
        run_id = self._trial_runs.pop(key, None)
        if run_id is None:
            return
        with self._reachable():
            self._client.log_text(run_id, reason, "error.txt")
            self._client.set_tag(run_id, "status_detail", "failed")
            self._client.set_terminated(run_id, "FAILED")

    def write_estimate(
        self, key: str, trial: FinishedTrial, settings: RlctConfig, outcome: EstimateOutcome, artifacts: Path
    ) -> None:
        """Write an estimate made again, in a run of its own under the trial's; what the trial has stays as it is."""
        values = mean_and_error({"rlct": outcome.rlct.estimates}) | {"seconds": outcome.seconds}
        tags = {
            "level": "estimate",
            "trial_key": key,
            "rlct_settings": settings.key(),
            **_rlct_tags(outcome.rlct),
            "device": outcome.device,
            "host": outcome.host,
            **describe_environment(),
        }
        with self._reachable():
            of_trial = self._client.get_run(trial.run_id).data
            inherited = {name: of_trial.tags[name] for name in ("task", "status_detail", "data_digest")}
            params = of_trial.params | {f"rlct_{name}": str(value) for name, value in settings.model_dump().items()}
            run_id = self._create_run(f"rlct {settings.key()}", tags | inherited, parent=trial.run_id).info.run_id
            self._client.log_artifacts(run_id, str(artifacts))
            now = _now()
            self._log_metrics(run_id, [Metric(name, value, now, 0) for name, value in values.items()])
            self._client.log_batch(run_id, params=_params(params))
            self._client.set_terminated(run_id, "FINISHED")

    def close_open_estimates(self) -> None:
        """Close what a killed driver left half written; it is estimated again."""
        with self._reachable():
            self._close_open_runs("tags.level = 'estimate'")

    def close_study(self, status: str) -> None:
        """Close the study's run as FINISHED, FAILED or KILLED, and every run that is still open with it."""
        with self._reachable():
            self._close_open_runs()
            self._trial_runs.clear()
            self._client.set_terminated(self._study_id, status)

    def attach(self, folder: Path, name: str) -> None:
        """Put a folder among the artifacts of the study's run, under that name."""
        with self._reachable():
            self._client.log_artifacts(self._study_id, str(folder), name)

    # Helpers

    @property
    def _study(self) -> Run:
        assert self._study_run is not None, "open_study first"
        return self._study_run

    @property
    def _study_id(self) -> str:
        return str(self._study.info.run_id)

    def _close_open_runs(self, condition: str = "tags.level != 'study'") -> None:
        for run in self._search(f"{condition} and attributes.status = 'RUNNING'"):
            self._client.set_terminated(run.info.run_id, "KILLED")

    def _write_replicate(
        self, parent: str, key: str, config: TrialConfig, outcome: Outcome, index: int, seed: int
    ) -> None:
        tags = {
            "level": "replicate",
            "trial_key": key,
            "task": config.task,
            "replicate": str(index),
            "status_detail": outcome.replicate_statuses[index],
            "rlct_verdict": outcome.rlct.verdicts[index],
            "rlct_reason": outcome.rlct.reasons[index],
        }
        run_id = self._create_run(f"replicate {index}", tags, parent=parent).info.run_id
        values = {name: float(per_replicate[index]) for name, per_replicate in outcome.measurements.items()}
        values |= {f"rlct_{name}": per_replicate[index] for name, per_replicate in outcome.rlct.diagnostics.items()}
        now = _now()
        metrics = [Metric(name, value, now, config.training.epochs) for name, value in values.items()]
        params = _params(config.flat() | {"seed": seed})
        self._client.log_batch(run_id, metrics=[m for m in metrics if math.isfinite(m.value)], params=params)
        self._client.set_terminated(run_id, "FINISHED")

    def _create_run(self, name: str, tags: dict[str, str], parent: str | None = None) -> Run:
        assert self._experiment is not None
        nested = {"mlflow.parentRunId": parent} if parent else {}
        return self._client.create_run(self._experiment.experiment_id, tags=tags | nested, run_name=name)

    def _log_metrics(self, run_id: str, metrics: list[Metric]) -> None:
        # A metric that does not apply is left out, and so is one that is infinite: MLflow would store a finite number.
        finite = [metric for metric in metrics if math.isfinite(metric.value)]
        with self._reachable():
            for start in range(0, len(finite), METRICS_PER_BATCH):
                self._client.log_batch(run_id, metrics=finite[start : start + METRICS_PER_BATCH])

    def _search(self, condition: str) -> list[Run]:
        if self._experiment is None:
            return []
        with self._reachable():
            return search_all_runs(self._client, self._experiment.experiment_id, condition)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise StudyError(
                f"the MLflow record at {without_password(self.stores.tracking_uri)} "
                f"cannot be used: {first_line(error)} "
                "Check that the server runs (or the folder is writable, with room on the disk) and that the store was "
                "made by this version of MLflow; then run the same command again: finished trials are kept."
            ) from error


def _protocol(spec: StudySpec, data_digest: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in spec.protocol.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    # Objectives in their order: they are the columns of the Optuna study.
    flat["objectives"] = [list(item) for item in spec.objectives.items()]
    return flat | {"data_digest": data_digest, "protocol_version": PROTOCOL_VERSION}


def _describe_validation(spec: StudySpec) -> str:
    fraction = spec.training.validation_fraction
    if fraction == 0:
        return "none (published recipe: trained on all training data, test split reported)"
    return f"{fraction:.0%} of the training data, stratified"


def _rlct_tags(outcome: RlctOutcome) -> dict[str, str]:
    return {
        "rlct_verdict": outcome.verdict,
        "rlct_reason": outcome.reason,
        "rlct_advice": ADVICE[outcome.verdict],
        "nbeta": f"{outcome.nbeta:.6g}",
    }


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(name, str(value)) for name, value in values.items()]


def _tags(values: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(name, value) for name, value in values.items()]


def _as_yaml(spec: StudySpec) -> str:
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _now() -> int:
    return int(time.time() * 1000)
