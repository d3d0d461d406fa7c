"""The MLflow record, on SQLite and on a real MLflow server."""

import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import study.record.lease
import study.record.protocol
from study.errors import StudyError
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.spec import build_spec
from tests.study.stores import fresh_stores
from tests.study.synthetic import DIGEST, falling, make_outcome, runs_of, sweep_spec, write_study
from trainables.config import PROTOCOL_VERSION
from trainables.measures import MEASURES


class Server(NamedTuple):
    """An MLflow server that takes a while to start."""

    uri: str
    process: "subprocess.Popen[bytes]"

    def wait(self) -> None:
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health") as response:
                if response.status == 200:
                    return
            time.sleep(0.5)
        pytest.fail("the MLflow server did not start")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real MLflow server on loopback, which starts while the tests of SQLite run."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{folder}/server.db",
            "--artifacts-destination",
            str(folder / "artifacts"),
        ],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    yield Server(f"http://127.0.0.1:{port}", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module", params=["sqlite", "server"])
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: Server) -> Stores:
    if request.param == "sqlite":
        return fresh_stores(tmp_path_factory.mktemp("store"))
    server.wait()
    return Stores.under(tmp_path_factory.mktemp("store"), tracking_uri=server.uri)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """A store in which a study was begun."""
    stores = Stores.under(tmp_path_factory.mktemp("begun"))
    RecordWriter(stores, "made-up").open_study(sweep_spec(), DIGEST)
    return stores


@pytest.fixture
def study_name(request: pytest.FixtureRequest) -> str:
    """A separate name for every test: the stores are shared."""
    return re.sub(r"\W+", "-", str(request.node.name)).strip("-")


def test_the_record_is_the_documented_one(stores: Stores, tmp_path: Path, study_name: str) -> None:
    spec = sweep_spec(name=study_name, weights=(0, 5))
    write_study(stores, spec, falling, tmp_path / "files")
    client = MlflowClient(stores.tracking_uri)
    runs = runs_of(stores, spec.name)
    by_level = {
        level: [run for run in runs if run.data.tags["level"] == level] for level in ("study", "trial", "replicate")
    }
    assert {level: len(found) for level, found in by_level.items()} == {"study": 1, "trial": 2, "replicate": 8}
    assert {run.info.status for run in runs} == {"FINISHED"}

    study_run = by_level["study"][0]
    assert study_run.data.tags["task"] == "digits"
    assert study_run.data.tags["question"] == "Is it so?"
    assert study_run.data.tags["validation_split"] == "20% of the training data, stratified"
    assert {"git_commit", "data_digest", "version.torch", "version.ray", "protocol"} <= study_run.data.tags.keys()
    assert [artifact.path for artifact in client.list_artifacts(study_run.info.run_id)] == [
        "description.json",
        "spec.yaml",
    ]

    trial = next(run for run in by_level["trial"] if run.data.params["aux_weight"] == "5.0")
    assert trial.data.tags["mlflow.parentRunId"] == study_run.info.run_id
    config = next(config for config in spec.listed() if config.self_model.aux_weight == 5)
    assert trial.data.params == {name: str(value) for name, value in config.flat().items()}
    assert {"trial_key", "task", "status_detail", "rlct_verdict", "git_commit"} <= trial.data.tags.keys()
    assert trial.data.tags["seeds"] == "[0, 1, 2, 3]"
    for name in (name for measure in MEASURES.values() for name in measure.names(config.layers)):
        assert name in trial.data.metrics
        assert f"{name}_se" in trial.data.metrics
    outcome = make_outcome(config, falling)
    rlct = np.array(outcome.measurements["rlct"])
    assert trial.data.metrics["rlct"] == pytest.approx(rlct.mean())
    assert trial.data.metrics["rlct_se"] == pytest.approx(rlct.std(ddof=1) / math.sqrt(len(rlct)))
    assert [m.step for m in client.get_metric_history(trial.info.run_id, "weight_std")] == [1, 2]
    assert [artifact.path for artifact in client.list_artifacts(trial.info.run_id)] == ["history.parquet"]

    replicates = [run for run in by_level["replicate"] if run.data.tags["mlflow.parentRunId"] == trial.info.run_id]
    assert sorted(run.data.params["seed"] for run in replicates) == ["0", "1", "2", "3"]
    for run in replicates:
        index = int(run.data.tags["replicate"])
        assert run.data.tags["replicate_key"] == config.replicate_key(int(run.data.params["seed"]), DIGEST)
        assert run.data.metrics["rlct"] == pytest.approx(rlct[index])
        assert {"trial_key", "status_detail", "rlct_verdict"} <= run.data.tags.keys()


def test_only_a_trial_that_was_closed_counts_as_finished(stores: Stores, study_name: str) -> None:
    spec = sweep_spec(name=study_name, weights=(0, 5))
    record = RecordWriter(stores, spec.name)
    record.open_study(spec, DIGEST)
    config = next(spec.listed())
    key = config.key(DIGEST)
    record.start_trial(key, config)
    assert record.finished() == {}
    # As after the death of a driver: another driver opens the study.
    again = RecordWriter(stores, spec.name)
    again.open_study(spec, DIGEST)
    assert [run.info.status for run in runs_of(stores, spec.name, "tags.level = 'trial'")] == ["KILLED"]
    assert len(runs_of(stores, spec.name, "tags.level = 'study'")) == 1


def test_a_run_whose_driver_died_before_it_said_which_trial_it_is_counts_as_never_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    spec = sweep_spec()
    config = next(iter(spec.listed()))
    record = RecordWriter(Stores.under(tmp_path), spec.name)
    record.open_study(spec, DIGEST)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", die)
        with pytest.raises(KeyboardInterrupt):
            record.start_trial(config.key(DIGEST), config, place=0)
    assert len(record.trials()) == 1
    record.open_study(spec, DIGEST)
    assert record.trials() == []


def test_a_failed_trial_keeps_its_reason(stores: Stores, study_name: str) -> None:
    spec = sweep_spec(name=study_name, weights=(0, 5))
    record = RecordWriter(stores, spec.name)
    record.open_study(spec, DIGEST)
    config = next(spec.listed())
    record.start_trial("some-key", config)
    record.fail_trial("some-key", "Traceback: no memory left")
    (run,) = runs_of(stores, spec.name, "tags.level = 'trial'")
    assert (run.info.status, run.data.tags["status_detail"]) == ("FAILED", "failed")
    path = MlflowClient(stores.tracking_uri).download_artifacts(run.info.run_id, "error.txt")
    assert Path(path).read_text() == "Traceback: no memory left"


def test_one_driver_holds_a_study_and_one_that_fell_silent_is_taken_over(
    stores: Stores, study_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_INTERVAL", "SERVER_INTERVAL"):
        monkeypatch.setattr(study.record.lease, name, 0.2)
    first, second = (RecordWriter(stores, study_name) for _ in range(2))
    first.begin()
    second.begin()
    assert first.experiment_tags() == second.experiment_tags() == {}, "both use one experiment"
    held = first.held()
    held.__enter__()
    with pytest.raises(StudyError, match=rf"{study_name!r} is held by .* since"), second.held():
        pytest.fail("two hold the study")
    assert second.holder() == first.holder() is not None
    # The process stops, and its locks go with it; its heartbeat stays as it is.
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "delete_experiment_tag", lambda record, name: None)
        held.__exit__(None, None, None)
    said: list[str] = []
    with second.held(said.append) as lease:
        assert len(lease.taken_over) == 1
    assert said[-1].startswith("Taken over from ")


def test_a_study_that_goes_on_with_other_settings_is_refused_with_what_differs(begun: Stores) -> None:
    spec = sweep_spec()
    other = build_spec(spec.model_dump() | {"trials": None, "replicates": 7, "training": {"epochs": 9}}, "other")
    with pytest.raises(StudyError, match="begun with other settings") as caught:
        RecordWriter(begun, spec.name).check_protocol(other, DIGEST)
    assert "replicates" not in str(caught.value), "they can be added"
    assert "training.epochs: 60 then, 9 now" in str(caught.value)
    assert "--name made-up-2" in str(caught.value)


def test_a_setting_that_a_record_does_not_have_counts_as_its_default(begun: Stores) -> None:
    spec = sweep_spec()
    stored = study.record.protocol.protocol_of(spec, DIGEST)
    for name in ("training.augment", "rlct.seed", "split_seed"):
        del stored[name]
    assert study.record.protocol.differences(json.dumps(stored), spec, DIGEST) == []
    other = build_spec(spec.model_dump() | {"trials": None, "rlct": {"seed": 3}}, "other")
    assert "rlct.seed: 0 then, 3 now" in study.record.protocol.differences(json.dumps(stored), other, DIGEST)


def test_a_study_may_grow_by_weights_and_change_its_question(begun: Stores) -> None:
    spec = sweep_spec()
    larger = sweep_spec(weights=(0, 1, 2, 5, 10, 20, 50))
    RecordWriter(begun, spec.name).check_protocol(larger.model_copy(update={"question": "And now?"}), DIGEST)


def test_other_data_is_another_study(begun: Stores) -> None:
    spec = sweep_spec()
    with pytest.raises(StudyError, match="data_digest"):
        RecordWriter(begun, spec.name).check_protocol(spec, "1" * 64)


def test_another_version_of_the_protocol_is_another_study(begun: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = sweep_spec()
    monkeypatch.setattr(study.record.protocol, "PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    with pytest.raises(StudyError, match=f"protocol version {PROTOCOL_VERSION}, here {PROTOCOL_VERSION + 1}"):
        RecordWriter(begun, spec.name).check_protocol(spec, DIGEST)


def test_looking_at_an_empty_store_creates_nothing(tmp_path: Path) -> None:
    record = RecordWriter(Stores.under(tmp_path / "store"), "any")
    assert record.finished() == {}
    assert not (tmp_path / "store").exists()


def test_a_local_store_is_asked_for_a_study_before_mlflow_is(begun: Stores, tmp_path: Path) -> None:
    assert begun.may_have("made-up")
    assert not begun.may_have("another")
    assert not Stores.under(tmp_path / "nothing").may_have("made-up")
    assert Stores.under(tmp_path, tracking_uri="http://127.0.0.1:9").may_have("made-up")
    (tmp_path / "mlflow.db").write_text("no database")
    assert Stores.under(tmp_path).may_have("made-up"), "MLflow says what is wrong with it"


def test_a_server_that_cannot_be_reached_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"http://127.0.0.1:9 cannot be used: the connection is refused"):
        RecordWriter(Stores.under(tmp_path, tracking_uri="http://127.0.0.1:9"), "any")


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(StudyError, match=r"mlflow.db is damaged: it is no SQLite database"):
        RecordWriter(Stores.under(tmp_path), "any")


def test_a_store_that_cannot_be_created_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StudyError, match=r"--store .*cannot be created"):
        Stores.under(tmp_path / "file" / "store").prepare()
