"""Replicates that are added to finished trials."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from analysis.layout import Artifact, Level, Tag
from study.commands.main import main as study_command
from study.commands.run import main
from study.engine.execute import Execution, execute
from study.engine.plan import Plan, make_plan
from study.engine.resources import Resources
from study.engine.runners import make_runner
from study.engine.worker import run_trial
from study.record.overview import overview
from study.record.reader import RecordReader
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.spec import StudySpec, build_spec
from tests.kept import CONTROLS, GOING_ON, unpack_kept_record
from tests.study.conftest import RUNNERS_WITH_SERVICES, RayCluster
from tests.study.stores import fresh_stores
from tests.study.synthetic import runs_of
from tests.study.test_runners import STUDY, Heard
from trainables.checkpoint import load_checkpoint
from trainables.tasks import TaskData

# Trained on another number of threads, or with another number of replicates, sums are rounded in another order.
TOLERANCE = 1e-4


# The study with one trial, and with two.
ONE: dict[str, Any] = {"design": [{"aux_weight": 1}]}
TWO: dict[str, Any] = {"design": [{"aux_weight": [0, 1]}]}


def spec_of(replicates: int, **changes: Any) -> StudySpec:
    return build_spec(STUDY | {"replicates": replicates} | changes, "small")


def run(
    spec: StudySpec, data: TaskData, stores: Stores, kind: str = "local", address: str | None = None
) -> tuple[Execution, Heard]:
    """Run the study as a command does."""
    record = RecordWriter(stores, spec.name)
    plan = make_plan(spec, [data], record)
    heard = Heard()
    return execute(plan, record, make_runner(kind, Resources(address), stores, spec.name), heard), heard


def plan_of(spec: StudySpec, data: TaskData, stores: Stores) -> Plan:
    return make_plan(spec, [data], RecordReader(stores, spec.name))


def runs_at(stores: Stores, level: Level) -> list[Run]:
    return runs_of(stores, "small", f"tags.level = '{level}' and attributes.status = 'FINISHED'")


def replicates_of(stores: Stores) -> dict[tuple[str, int], Run]:
    """The runs of replicates by trial key and seed; each is there once."""
    runs = runs_at(stores, Level.REPLICATE)
    found = {(run.data.tags["trial_key"], int(run.data.params["seed"])): run for run in runs}
    assert len(found) == len(runs)
    return found


def trials_of(stores: Stores) -> dict[str, Run]:
    runs = runs_at(stores, Level.TRIAL)
    found = {run.data.tags["trial_key"]: run for run in runs}
    assert len(found) == len(runs)
    return found


def trained(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that come from training."""
    others = ("rlct", "seconds")
    return {name: value for name, value in metrics.items() if not name.startswith(others)}


def artifact(stores: Stores, run: Run, folder: Path, name: str) -> Path:
    return Path(MlflowClient(stores.tracking_uri).download_artifacts(run.info.run_id, name, str(folder)))


def assert_same_as_at_once(grown: Stores, at_once: Stores, folder: Path) -> None:
    """Check that a study that has grown has what the same study has that was run at once."""
    expected_trials, expected = trials_of(at_once), replicates_of(at_once)
    trials, replicates = trials_of(grown), replicates_of(grown)
    assert trials.keys() == expected_trials.keys()
    assert replicates.keys() == expected.keys()
    for each, run in replicates.items():
        assert run.data.tags["replicate"] == expected[each].data.tags["replicate"]
        assert run.data.tags["replicate_key"] == expected[each].data.tags["replicate_key"]
        assert trained(run.data.metrics) == pytest.approx(trained(expected[each].data.metrics), rel=TOLERANCE)
        assert run.data.metrics.keys() == expected[each].data.metrics.keys()
        assert run.data.params == expected[each].data.params
    for key, run in trials.items():
        assert run.data.params == expected_trials[key].data.params
        assert run.data.tags["seeds"] == expected_trials[key].data.tags["seeds"]
        assert run.data.tags["status_detail"] == expected_trials[key].data.tags["status_detail"]
        assert run.data.metrics.keys() == expected_trials[key].data.metrics.keys()
        assert trained(run.data.metrics) == pytest.approx(trained(expected_trials[key].data.metrics), rel=TOLERANCE)
        assert epochs_of(grown, run) == pytest.approx(epochs_of(at_once, expected_trials[key]), rel=TOLERANCE)
        assert_same_files(
            partial(artifact, grown, run, folder), partial(artifact, at_once, expected_trials[key], folder)
        )


def epochs_of(stores: Stores, run: Run) -> dict[int, float]:
    """The mean training loss of each epoch."""
    history = MlflowClient(stores.tracking_uri).get_metric_history(run.info.run_id, "train_loss")
    by_step = {metric.step: metric.value for metric in history}
    assert sorted(by_step) == list(range(1, STUDY["training"]["epochs"] + 1))
    return by_step


def assert_same_files(file: Callable[[str], Path], expected: Callable[[str], Path]) -> None:
    history, history_at_once = (pd.read_parquet(of(Artifact.HISTORY)) for of in (file, expected))
    pd.testing.assert_frame_equal(history, history_at_once, rtol=TOLERANCE)
    checkpoint, checkpoint_at_once = (load_checkpoint(of(Artifact.CHECKPOINT)) for of in (file, expected))
    assert checkpoint.config == checkpoint_at_once.config
    weights = checkpoint_at_once.network.state_dict()
    for name, tensor in checkpoint.network.state_dict().items():
        np.testing.assert_allclose(tensor, weights[name], rtol=TOLERANCE, atol=1e-6)
    trace, trace_at_once = (pd.read_parquet(of(Artifact.RLCT_TRACE)) for of in (file, expected))
    same = ["draw", "replicate", "chain", "kept"]
    pd.testing.assert_frame_equal(trace[same], trace_at_once[same])
    outcome, outcome_at_once = (json.loads(of(Artifact.OUTCOME).read_text()) for of in (file, expected))
    assert outcome.keys() == outcome_at_once.keys()
    assert outcome["replicate_statuses"] == outcome_at_once["replicate_statuses"]
    assert outcome["rlct"]["initial_loss"] == pytest.approx(outcome_at_once["rlct"]["initial_loss"], rel=TOLERANCE)
    assert len(outcome["rlct"]["per_chain"]) == len(outcome_at_once["rlct"]["per_chain"])
    assert file(Artifact.RLCT_PICTURE).stat().st_size > 0


@pytest.fixture(scope="module")
def at_once(digits: TaskData, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """The study with four replicates, run at once."""
    stores = fresh_stores(tmp_path_factory.mktemp("at-once"))
    run(spec_of(4), digits, stores)
    return stores


@pytest.mark.parametrize("kind", RUNNERS_WITH_SERVICES)
def test_a_study_that_grows_runs_the_new_seeds_alone_and_has_what_it_would_have_had_at_once(
    kind: str, digits: TaskData, at_once: Stores, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    grown = fresh_stores(tmp_path)
    address = ray_cluster.address if kind == "ray" else None
    run(spec_of(2), digits, grown)
    first = replicates_of(grown)
    seconds = {key: trial.data.metrics["seconds"] for key, trial in trials_of(grown).items()}
    plan = plan_of(spec_of(4), digits, grown)
    assert (plan.done, plan.remaining, len(plan.growing)) == (3, 0, 3)
    assert {growth.config.seeds for growth in plan.growing} == {(2, 3)}
    execution, heard = run(spec_of(4), digits, grown, kind, address)
    assert execution == Execution(finished=3, failed=0, interrupted=False)
    for key, trial in trials_of(grown).items():
        assert [event for event, of in heard.events if of == key and event != "advanced"] == ["started", "finished"]
        assert trial.data.metrics["seconds"] > seconds[key]
    assert_same_as_at_once(grown, at_once, tmp_path)
    for each, before in first.items():
        now = replicates_of(grown)[each].data.metrics
        assert now == before.data.metrics, "what has run is not run again"
    assert plan_of(spec_of(4), digits, grown).to_do == 0


def test_a_study_grows_in_steps(digits: TaskData, tmp_path: Path) -> None:
    grown, at_once = fresh_stores(tmp_path / "grown"), fresh_stores(tmp_path / "at-once")
    for replicates in (2, 3, 5):
        run(spec_of(replicates, **ONE), digits, grown)
    run(spec_of(5, **ONE), digits, at_once)
    assert_same_as_at_once(grown, at_once, tmp_path)
    assert json.loads(next(iter(trials_of(grown).values())).data.tags["seeds"]) == [0, 1, 2, 3, 4]


def test_fewer_replicates_than_there_are_leave_nothing_to_do(digits: TaskData, tmp_path: Path) -> None:
    stores = fresh_stores(tmp_path)
    run(spec_of(3, **ONE), digits, stores)
    before = {key: trial.info.run_id for key, trial in trials_of(stores).items()}
    assert plan_of(spec_of(2, **ONE), digits, stores).to_do == 0
    run(spec_of(2, **ONE), digits, stores)
    assert {key: trial.info.run_id for key, trial in trials_of(stores).items()} == before
    assert {trial.data.params["replicates"] for trial in trials_of(stores).values()} == {"3"}


def test_replicates_that_stop_at_a_loss_keep_their_values_up_to_the_last_epoch(
    digits: TaskData, tmp_path: Path
) -> None:
    # The first seeds stop earlier than others.
    stopping = {"epochs": 12, "until_loss": 0.6}
    grown, at_once = fresh_stores(tmp_path / "grown"), fresh_stores(tmp_path / "at-once")
    space = {"design": [{"aux_weight": 0}], "training": stopping}
    for replicates in (1, 2, 4):
        run(spec_of(replicates, **space), digits, grown)
    run(spec_of(4, **space), digits, at_once)
    ((key, trial),) = trials_of(grown).items()
    history = pd.read_parquet(artifact(grown, trial, tmp_path, Artifact.HISTORY))
    expected = pd.read_parquet(artifact(at_once, trials_of(at_once)[key], tmp_path, Artifact.HISTORY))
    assert expected.groupby("seed")["epochs_trained"].max().nunique() > 1, "some stop before others"
    assert expected["epoch"].max() < stopping["epochs"]
    pd.testing.assert_frame_equal(history, expected, rtol=TOLERANCE)


def failing_deletion(client: MlflowClient, run_id: str) -> None:
    raise KeyboardInterrupt


def test_a_driver_that_dies_before_it_deletes_the_earlier_run_leaves_the_new_one_in_its_place(
    digits: TaskData, tmp_path: Path
) -> None:
    stores, spec = fresh_stores(tmp_path), spec_of(3, **ONE)
    run(spec_of(2, **ONE), digits, stores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "delete_run", failing_deletion)
        execution, _ = run(spec, digits, stores)
    assert execution.interrupted
    both = runs_at(stores, Level.TRIAL)
    assert len(both) == 2
    reader = RecordReader(stores, "small")
    (trial,) = reader.finished().values()
    assert trial.seeds == (0, 1, 2)
    assert [trial.seeds for trial in reader.trials()] == [(0, 1, 2)]
    assert plan_of(spec, digits, stores).to_do == 0
    # The next driver that opens the record deletes the earlier run, with its replicates.
    RecordWriter(stores, "small").open_study(spec, digits.digest())
    assert {run.info.run_id for run in runs_at(stores, Level.TRIAL)} == {trial.run_id}
    assert {run.data.tags[Tag.PARENT] for run in runs_at(stores, Level.REPLICATE)} == {trial.run_id}
    assert len(replicates_of(stores)) == 3


def test_a_trial_that_is_interrupted_while_it_grows_stays_as_it_was_and_grows_next_time(
    digits: TaskData, tmp_path: Path
) -> None:
    stores, spec = fresh_stores(tmp_path), spec_of(3, **TWO)
    run(spec_of(2, **TWO), digits, stores)
    before = trials_of(stores)
    trial_by_trial = iter([None, KeyboardInterrupt()])

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if (error := next(trial_by_trial)) is not None:
            raise error
        return run_trial(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("study.engine.worker.run_trial", interrupted)
        execution, _ = run(spec, digits, stores)
    assert execution == Execution(finished=1, failed=0, interrupted=True)
    after = trials_of(stores)
    assert sum(after[key].info.run_id == run.info.run_id for key, run in before.items()) == 1
    seen = overview(RecordReader(stores, "small"))
    assert (seen.trials.finished, seen.trials.failed, seen.trials.to_run, seen.trials.to_grow) == (2, 0, 0, 1)
    assert seen.replicates == (2, 3)
    execution, _ = run(spec, digits, stores)
    assert execution == Execution(finished=1, failed=0, interrupted=False)
    assert len(replicates_of(stores)) == 6
    assert overview(RecordReader(stores, "small")).trials.to_grow == 0


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_a_trial_whose_earlier_result_cannot_be_merged_stays_as_it_was_and_the_others_grow(
    damage: str, digits: TaskData, tmp_path: Path
) -> None:
    stores, spec = fresh_stores(tmp_path), spec_of(3, **TWO)
    run(spec_of(2, **TWO), digits, stores)
    key, broken = next(iter(trials_of(stores).items()))
    (file,) = stores.root.rglob(f"{broken.info.run_id}/artifacts/{Artifact.CHECKPOINT}")
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2])
    execution, heard = run(spec, digits, stores)
    assert execution == Execution(finished=1, failed=1, interrupted=False)
    assert [event for event, of in heard.events if of == key] == ["started", "failed"]
    reader = RecordReader(stores, "small")
    assert sorted(trial.seeds for trial in reader.finished().values()) == [(0, 1), (0, 1, 2)]
    assert reader.finished()[key].run_id == broken.info.run_id
    (failed,) = (trial for trial in reader.trials() if trial.state == "FAILED")
    assert "cannot be merged" in failed.reason
    assert broken.info.run_id in failed.reason
    seen = overview(reader)
    assert (seen.trials.finished, seen.trials.failed, seen.trials.to_grow) == (2, 1, 0)
    assert reader.failed() == {key}
    # Once its files are whole again, it grows.
    file.write_bytes(content)
    assert study_command(["retry", "small", "--store", str(stores.root), "--runner", "local"]) == 0
    assert len(replicates_of(stores)) == 6
    assert RecordReader(stores, "small").failed() == set()


SEARCHED: dict[str, Any] = {
    "sampler": "random",
    "trials": 3,
    "space": {"hidden_layers": 1, "width": 8, "target_depth": 1, "aux_weight": {"low": 0.1, "high": 10}},
    "design": [{"aux_weight": 0}],
}


@pytest.mark.parametrize("kind", RUNNERS_WITH_SERVICES)
def test_a_searched_study_grows_before_new_trials_are_searched(
    kind: str, digits: TaskData, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    stores = fresh_stores(tmp_path)
    run(spec_of(1, **SEARCHED), digits, stores)
    first = list(trials_of(stores))
    spec = spec_of(2, **SEARCHED | {"trials": 4})
    plan = plan_of(spec, digits, stores)
    assert (plan.done, plan.remaining, len(plan.growing), plan.to_do) == (3, 1, 3, 4)
    execution, heard = run(spec, digits, stores, kind, ray_cluster.address if kind == "ray" else None)
    assert execution == Execution(finished=4, failed=0, interrupted=False)
    started = [key for event, key in heard.events if event == "started"]
    assert sorted(started[:3]) == sorted(first)
    assert started[3] not in first
    assert len(replicates_of(stores)) == 8


def test_a_record_of_an_earlier_version_grows(
    tmp_path: Path, digits: TaskData, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = unpack_kept_record(tmp_path, GOING_ON).folder
    stores = Stores.under(folder)
    reader = RecordReader(stores, CONTROLS)
    before = {key: reader.outcome(trial) for key, trial in reader.finished().items()}
    spec = reader.spec()
    monkeypatch.chdir(tmp_path)
    larger = spec.model_dump(mode="json") | {"replicates": 3}
    (tmp_path / "larger.yaml").write_text(json.dumps(larger))
    assert main(["larger.yaml", "--store", str(folder), "--runner", "local"]) == 0
    assert "7 of 7 trials are finished, 7 of them get 1 more replicate." in capfd.readouterr().out
    after = RecordReader(stores, CONTROLS).finished()
    assert after.keys() == before.keys()
    for key, trial in after.items():
        assert trial.seeds == (0, 1, 2)
        assert trial.stored_key is None
        earlier, now = before[key], RecordReader(stores, CONTROLS).outcome(trial)
        assert earlier is not None
        assert now is not None
        assert now.rlct is not None
        assert earlier.rlct is not None
        assert now.rlct.per_chain[:2] == earlier.rlct.per_chain
        assert now.measurements["val_accuracy"][:2] == earlier.measurements["val_accuracy"]
        assert all(np.isfinite(now.measurements["rlct_chain_se"]))
    # Estimates of the earlier runs lack the new replicates: they are made again, over all.
    assert study_command(["rlct", "estimate", CONTROLS, "--store", str(folder), "--runner", "local"]) == 0
    assert "0 of 7 estimates are there already, 7 to do." in capfd.readouterr().out
    assert len(RecordReader(stores, CONTROLS).estimated()) == 7
