"""Whether two stores hold the same study: keys, values, files and the Optuna study, to the last bit.

Times, the place where a trial ran and ids of runs differ between any two runs of a study, and are not compared.
"""

import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pandas as pd
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from safetensors import safe_open

from analysis.layout import Artifact, Level, Tag
from analysis.tracking import quieten_mlflow, search_all_runs
from study.record.stores import Stores

# Tags of trials and replicates that say where and by which commit a run was made, and after which interruptions.
OF_THE_PLACE = {Tag.HOST, Tag.NODE, Tag.NODE_TYPE, Tag.NODE_SHARE}
OF_THE_RUN = OF_THE_PLACE | {Tag.GIT_COMMIT, Tag.PARENT, Tag.SUPERSEDES, Tag.USED_BEFORE}
OF_THE_OUTCOME = {"seconds", "host", "node"}
TABLES = (Artifact.HISTORY, Artifact.RLCT_TRACE)


class Place(NamedTuple):
    """The stores of a study, and the SQLite file in which the tracking store has its runs."""

    stores: Stores
    database: Path


class Recorded(NamedTuple):
    """A study in a tracking store, whose database is a SQLite file."""

    client: MlflowClient
    metrics: dict[str, dict[str, list[tuple[int, float]]]]  # step and value of every point, by run and name
    trials: dict[str, list[Run]]  # all runs of each key
    replicates: dict[str, list[Run]]  # all runs under each trial's run
    study: list[Run]

    @classmethod
    def of(cls, place: "Place", study: str) -> "Recorded":
        """The runs of a study."""
        quieten_mlflow()
        client = MlflowClient(place.stores.tracking_uri)
        experiment = client.get_experiment_by_name(study)
        assert experiment is not None
        trials: dict[str, list[Run]] = {}
        replicates: dict[str, list[Run]] = {}
        whole = []
        for run in search_all_runs(client, experiment.experiment_id, ""):
            level = run.data.tags[Tag.LEVEL]
            if level == Level.TRIAL:
                trials.setdefault(run.data.tags[Tag.TRIAL_KEY], []).append(run)
            elif level == Level.REPLICATE:
                replicates.setdefault(run.data.tags[Tag.PARENT], []).append(run)
            else:
                whole.append(run)
        return cls(client, _metrics(place.database), trials, replicates, whole)

    def finished(self, key: str) -> list[Run]:
        """The finished runs of a trial: there is to be one."""
        return [run for run in self.trials.get(key, []) if run.info.status == "FINISHED"]

    def left_over(self) -> Counter[str]:
        """How many other runs of trials there are, by status."""
        return Counter(run.info.status for runs in self.trials.values() for run in runs) - Counter(
            {"FINISHED": len(self.trials)}
        )


def differences(found: Place, reference: Place, study: str) -> list[str]:
    """In what the study differs from the one in `reference`: a line each, none if they are the same."""
    records = _of_records(Recorded.of(found, study), Recorded.of(reference, study))
    return [*records, *_of_optuna(found.stores, reference.stores, study)]


def _metrics(database: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Every point of every metric of every run: with MLflow's client it would take a request for each metric."""
    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened:
        for run, name, step, value in opened.execute(
            "select run_uuid, key, step, value from metrics order by run_uuid, key, step, value"
        ):
            points.setdefault(run, {}).setdefault(name, []).append((step, value))
    return points


def _of_records(found: Recorded, expected: Recorded) -> Iterator[str]:
    if [run.info.status for run in found.study] != ["FINISHED"]:
        yield f"the study's run: {[run.info.status for run in found.study]}"
    for key in found.trials.keys() ^ expected.trials.keys():
        yield f"trial {key}: {'not in the reference' if key in found.trials else 'missing'}"
    if others := found.left_over():
        yield f"runs of trials beside the finished ones: {dict(others)}"
    for key in found.trials.keys() & expected.trials.keys():
        runs, (reference,) = found.finished(key), expected.finished(key)
        if len(runs) != 1:
            yield f"trial {key}: {len(runs)} finished runs"
            continue
        for what in _of_trials(found, runs[0], expected, reference):
            yield f"trial {key}: {what}"


def _of_trials(found: Recorded, run: Run, expected: Recorded, reference: Run) -> Iterator[str]:
    yield from _of_runs(found, run, expected, reference)
    yield from _of_files(found, run, expected, reference)
    replicates = [
        _by_replicate(record.replicates[each.info.run_id]) for record, each in ((found, run), (expected, reference))
    ]
    if replicates[0].keys() != replicates[1].keys() or len(replicates[0]) != len(found.replicates[run.info.run_id]):
        yield f"replicates {sorted(replicates[0])} in {len(found.replicates[run.info.run_id])} runs"
        return
    for index, replicate in replicates[0].items():
        for what in _of_runs(found, replicate, expected, replicates[1][index]):
            yield f"replicate {index}: {what}"


def _by_replicate(runs: list[Run]) -> dict[str, Run]:
    return {run.data.tags[Tag.REPLICATE]: run for run in runs if run.info.status == "FINISHED"}


def _of_runs(found: Recorded, run: Run, expected: Recorded, reference: Run) -> Iterator[str]:
    """Names, parameters, tags, and every value of every metric."""
    if run.info.run_name != reference.info.run_name:
        yield f"the name {run.info.run_name}"
    if run.data.params != reference.data.params:
        yield "parameters"
    tags = [
        {name: value for name, value in each.data.tags.items() if name not in OF_THE_RUN} for each in (run, reference)
    ]
    for name in tags[0].keys() | tags[1].keys():
        if tags[0].get(name) != tags[1].get(name):
            yield f"tag {name}: {tags[0].get(name)!r} for {tags[1].get(name)!r}"
    points = [record.metrics[each.info.run_id] for record, each in ((found, run), (expected, reference))]
    for name in points[0].keys() | points[1].keys():
        if not name.startswith("seconds") and points[0].get(name) != points[1].get(name):
            yield f"metric {name}"


def _of_files(found: Recorded, run: Run, expected: Recorded, reference: Run) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        here, there = (
            _files(record, each, Path(folder) / name)
            for name, record, each in (("here", found, run), ("there", expected, reference))
        )
        if here.keys() != there.keys():
            yield f"files {sorted(here)} for {sorted(there)}"
        for name in here.keys() & there.keys() - {Artifact.RLCT_PICTURE}:
            if not _same_file(name, here[name], there[name]):
                yield f"the content of {name}"


def _files(record: Recorded, run: Run, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    download_artifacts(run_id=run.info.run_id, dst_path=str(folder), tracking_uri=record.client.tracking_uri)
    return {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}


def _same_file(name: str, file: Path, reference: Path) -> bool:
    if name in TABLES:
        return pd.read_parquet(file).equals(pd.read_parquet(reference))
    if name == Artifact.OUTCOME:
        outcomes = [json.loads(each.read_text()) for each in (file, reference)]
        # As text: NaN is not equal to itself.
        first, second = (
            json.dumps({key: value for key, value in outcome.items() if key not in OF_THE_OUTCOME})
            for outcome in outcomes
        )
        return first == second
    if name == Artifact.CHECKPOINT:
        return _tensors(file) == _tensors(reference)
    return file.read_bytes() == reference.read_bytes()


def _tensors(file: Path) -> tuple[Any, dict[str, bytes]]:
    """The content of a checkpoint, whose parts may be in any order in the file."""
    with safe_open(file, "numpy") as content:
        return content.metadata(), {name: content.get_tensor(name).tobytes() for name in content.keys()}  # noqa: SIM118


def _of_optuna(stores: Stores, reference: Stores, study: str) -> Iterator[str]:
    """One trial with a result for each key, with the same values, and no result more."""
    found, expected = (_results(each, study) for each in (stores, reference))
    for key in found.keys() | expected.keys():
        if len(found.get(key, [])) != 1:
            yield f"Optuna: {len(found.get(key, []))} trials with the result of {key}"
        elif found[key] != expected.get(key):
            yield f"Optuna: the trial {key} differs"


def _results(stores: Stores, study: str) -> Mapping[str, list[tuple[Any, ...]]]:
    loaded = optuna.load_study(study_name=study, storage=stores.optuna_url)
    results: dict[str, list[tuple[Any, ...]]] = {}
    for trial in loaded.trials:
        attributes = {name: value for name, value in trial.user_attrs.items() if name not in ("run_id", "seconds")}
        if "rlct_verdict" in attributes:
            own = {name: value for name, value in attributes.items() if not name.startswith("seconds")}
            results.setdefault(own["trial_key"], []).append(
                (trial.state, trial.values, trial.params, trial.constraints, own)
            )
    return results
