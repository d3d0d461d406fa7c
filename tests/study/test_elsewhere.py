"""`python -m study status`, `stop`, `retry`, `why`, `list`: what a user sees of a study from elsewhere."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import study.engine.worker
from study.commands.main import main
from study.commands.run import main as run
from study.record.lease import Lease
from study.record.reader import RecordReader
from study.record.stores import Stores
from study.record.writer import RecordWriter
from tests.study.synthetic import DIGEST, falling, make_outcome, runs_of, sweep_spec, write_study
from trainables.trial import TrialConfig

SMALL = """
question: Does it fail?
task: digits
replicates: 1
sampler: grid
space: {hidden_layers: 1, width: 8, target_depth: 1, aux_weight: [0, 1, 2]}
training: {epochs: 2}
rlct: {draws: 8, chains: 2, batch_size: 32}
observer: {epochs: 0}
"""
# Long enough for others to look at it while it runs.
LONG = SMALL.replace("epochs: 2}", "epochs: 200}").replace("[0, 1, 2]", str(list(range(10))))
FINISHED, RUNNING = (f"tags.level = 'trial' and attributes.status = '{status}'" for status in ("FINISHED", "RUNNING"))
RUN_LOCAL = ("--runner", "local")


def looked_at(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """The exit code of a command and its --json."""
    capfd.readouterr()
    code = main([*arguments, "--json"])
    return code, json.loads(capfd.readouterr().out)


@pytest.fixture(scope="module")
def failed_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a study in which the trial with weight 1 failed."""
    folder = tmp_path_factory.mktemp("failed")
    (folder / "small.yaml").write_text(SMALL)
    run_trial = study.engine.worker.run_trial

    def failing(config: TrialConfig, *arguments: Any, **options: Any) -> Any:
        if config.self_model.aux_weight == 1:
            raise MemoryError("no room for postgresql://ada:hunter2@db/x")
        return run_trial(config, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(study.engine.worker, "run_trial", failing)
        assert run(["small.yaml", *RUN_LOCAL]) == 1
    return folder


@pytest.fixture
def failed(failed_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same store, in the current folder, for a test to read."""
    monkeypatch.chdir(failed_store)
    return failed_store


def test_the_status_of_a_study_that_ended_has_its_counts_its_best_and_why_trials_failed(
    failed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, seen = looked_at(capfd, "status", "small")
    assert code == 0
    assert (seen["study"], seen["question"]) == ("small", "Does it fail?")
    assert (seen["state"], seen["driver"]) == ("failed", None)
    assert seen["trials"] == {
        "total": 3,
        "finished": 2,
        "failed": 1,
        "running": 0,
        "to_run": 0,
        "to_grow": 0,
        "outside": 0,
        "stopped_early": 0,
    }
    (broken,) = seen["failed"]
    assert broken["name"] == "1x8 aux 1 target 1"
    assert broken["host"]
    assert broken["reason"].startswith("MemoryError: no room")
    finished = runs_of(Stores.under(failed / "runs"), "small", FINISHED)
    (best,) = [each for each in seen["best"] if each["objective"] == "val_accuracy"]
    assert best["value"] == max(trial.data.metrics["val_accuracy"] for trial in finished)
    assert main(["status", "small"]) == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert "2 of 3 finished, 1 failed, 0 running, 0 to run" in printed
    assert "MemoryError: no room" in printed


def test_trials_that_a_grid_no_longer_lists_are_counted_apart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stores = Stores.under(tmp_path / "runs")

    def values(config: TrialConfig, index: int) -> dict[str, float]:
        return {"val_accuracy": 0.5 + 0.01 * config.self_model.aux_weight}

    record = write_study(stores, sweep_spec(weights=(0, 1, 2, 10), replicates=2), values, tmp_path / "files")
    with record.held():
        record.open_study(sweep_spec(weights=(0, 1, 5), replicates=3), DIGEST, trials=3)
        record.close_study("KILLED")
    where = ("--store", str(stores.root))
    _, seen = looked_at(capfd, "status", "made-up", *where)
    counts = {"total": 3, "finished": 2, "failed": 0, "running": 0, "to_run": 1, "to_grow": 2, "outside": 2}
    assert seen["trials"] == counts | {"stopped_early": 0}
    (best,) = [each for each in seen["best"] if each["objective"] == "val_accuracy"]
    assert best["value"] == pytest.approx(0.51), "of the trials that the study has now"
    assert main(["status", "made-up", *where]) == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert "2 of 3 finished, 0 failed, 0 running, 1 to run; 2 more outside the study's space" in printed


@pytest.mark.parametrize("is_reached", [True, False], ids=["record there", "record away"])
def test_the_status_says_how_many_results_wait_for_the_record_and_where(
    is_reached: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stores = Stores.under(tmp_path / "runs")
    spec = sweep_spec(weights=(0, 1), replicates=2)
    record = write_study(stores, spec, falling, tmp_path / "files")
    for config in spec.listed():
        ended = record.ended_trial(config.key(DIGEST), config)
        record.outbox.put(ended, make_outcome(config, falling), tmp_path / "files")
    where = ["--store", str(stores.root)]
    waits = f"2 result(s) wait for the record in {stores.root}/outbox/made-up: the driver, or the same command later,"
    if not is_reached:
        where += ["--tracking-uri", "http://127.0.0.1:9"]
        assert main(["status", "made-up", *where]) == main(["status", "made-up", "--json", *where]) == 2
        output, error = capfd.readouterr()
        assert output == ""
        assert error.count("http://127.0.0.1:9 cannot be used: the connection is refused") == 2
        assert " ".join(error.split()).count(waits) == 2
        return
    _, seen = looked_at(capfd, "status", "made-up", *where)
    assert seen["waiting"] == {"results": 2, "place": f"{stores.root}/outbox/made-up"}
    assert main(["status", "made-up", *where]) == 0
    assert waits in " ".join(capfd.readouterr().out.split())
    with record.held():
        pass
    _, seen = looked_at(capfd, "status", "made-up", *where)
    assert seen["waiting"] == {"results": 0, "place": None}


@pytest.mark.parametrize("how", ["number", "key", "name"])
def test_why_gives_the_traceback_and_the_machine(how: str, failed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, seen = looked_at(capfd, "status", "small")
    (broken,) = seen["failed"]
    trial = {"number": str(broken["number"]), "key": broken["key"][:6], "name": broken["name"]}[how]
    code, why = looked_at(capfd, "why", "small", trial)
    assert code == 0
    assert (why["key"], why["state"], why["host"]) == (broken["key"], "FAILED", broken["host"])
    assert why["traceback"].startswith("Traceback (most recent call last)")
    assert "in failing" in why["traceback"]
    assert main(["why", "small", trial]) == 0
    printed = capfd.readouterr().out
    assert f"trial {broken['number']}, {broken['name']} (key {broken['key']}) failed at 2" in printed
    assert f" on {broken['host']}, at the stage: " in printed
    assert "MemoryError: no room" in printed


def test_a_trial_that_did_not_fail_is_said_not_to_have(failed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "small", "1"]) == 0
    printed = capfd.readouterr().out
    assert "trial 1, 1x8 aux 0 (key " in printed
    assert "did not fail: it finished (" in printed


def test_what_is_no_trial_is_one_message_that_names_the_failed_ones(
    failed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["why", "small", "nothing"]) == 2
    error = capfd.readouterr().err
    assert "'nothing' is no trial of the study 'small'; name one of them:\n  2  " in error
    assert error.count("\n") == 2


def test_retry_runs_the_failed_trials_and_no_others_from_the_record_alone(
    failed_store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(failed_store)
    (failed_store / "small.yaml").unlink()
    finished = runs_of(Stores.under(Path("runs")), "small", FINISHED)
    code, outcome = looked_at(capfd, "retry", "small", *RUN_LOCAL)
    assert (code, outcome) == (
        0,
        {"study": "small", "to_retry": 1, "finished": 1, "failed": 0, "interrupted": False},
    )
    after = runs_of(Stores.under(Path("runs")), "small", FINISHED)
    assert len(after) == len(finished) + 1 == 3
    _, seen = looked_at(capfd, "status", "small")
    assert (seen["state"], seen["trials"]["failed"], seen["failed"]) == ("finished", 0, [])
    assert main(["retry", "small", *RUN_LOCAL]) == 0
    assert "No trial of 'small' has failed: nothing to run again." in capfd.readouterr().out


def test_a_driver_that_died_just_before_it_was_asked_to_stop_is_said_to_have(
    failed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = RecordWriter(Stores.under(failed / "runs"), "small")
    # Its lock is not here, as with a driver on another machine: it seems alive until its heartbeat is late.
    dead = Lease(record, "small", interval=0.1)
    for _ in dead.claiming():
        pass
    code, outcome = looked_at(capfd, "stop", "small")
    dead.release()
    assert (code, outcome["outcome"], outcome["driver"]) == (0, "nobody_runs_it", None)


@pytest.mark.parametrize("command", ["status", "stop", "retry"])
def test_a_study_that_is_not_there_is_one_message(
    command: str, failed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "smal"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: sqlite:///")
    assert "has no study 'smal': check its name" in error


@pytest.mark.parametrize("command", ["list", "status", "stop", "retry", "why"])
def test_the_help_of_a_command_says_what_its_json_has(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capfd.readouterr().out
    assert f"usage: python -m study {command}" in printed
    assert "--json prints " in printed


def test_list_and_status_of_a_store_without_studies_of_two_that_died_and_of_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stores, store = Stores.under(tmp_path / "runs"), ("--store", str(tmp_path / "runs"))
    assert main(["list", *store]) == 0
    assert "has no studies yet" in capfd.readouterr().out
    monkeypatch.setattr(sys, "argv", ["study/run.py", "third"])
    for name in ("one", "two"):
        RecordWriter(stores, name).open_study(sweep_spec(name=name, weights=(0, 1)), DIGEST, trials=2)
    RecordWriter(stores, "not-begun").begin()
    record, spec = RecordWriter(stores, "third"), sweep_spec(name="third", weights=(0, 1))
    (first, second) = list(spec.listed())
    first_key, second_key = (trial.key(DIGEST) for trial in (first, second))
    record.begin()
    with record.held():
        record.open_study(spec, DIGEST, trials=2)
        (tmp_path / "files").mkdir()
        record.start_trial(first_key, first)
        record.finish_trial(first_key, first, make_outcome(first, falling), tmp_path / "files")
        record.start_trial(second_key, second)
        record.log_epochs(second_key, 1, [], {"stage": "epoch 7/60", "host": "node-7"})
        _, seen = looked_at(capfd, "status", "third", *store)
        _, studies = looked_at(capfd, "list", *store)
        assert main(["list", *store]) == 0
    assert capfd.readouterr().out.count("Is it so?") == 3
    assert [(each["study"], each["state"], each["trials"]["total"]) for each in studies] == [
        ("one", "died", 2),
        ("third", "running", 2),
        ("two", "died", 2),
    ]
    assert seen["state"] == "running"
    assert seen["driver"]["command"] == "study/run.py third"
    counts = {"total": 2, "finished": 1, "failed": 0, "running": 1, "to_run": 0, "to_grow": 0, "outside": 0}
    assert seen["trials"] == counts | {"stopped_early": 0}
    (running,) = seen["running"]
    assert (running["number"], running["stage"], running["host"]) == (2, "epoch 7/60", "node-7")
    assert seen["trials_per_hour"] > 0
    assert seen["seconds_left"] > 0


def _exists(stores: Stores) -> bool:
    return (stores.root / "mlflow.db").exists() and RecordReader(stores, "long").exists


@contextmanager
def driver(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A driver of the long study in a process of its own, once it runs its first trial."""
    command = [sys.executable, "-m", "study.run", "long.yaml", *RUN_LOCAL]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        stores = Stores.under(folder / "runs")
        while not (_exists(stores) and runs_of(stores, "long", RUNNING)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_study_that_is_run_elsewhere_is_refused_and_can_be_stopped_gently_or_at_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.yaml").write_text(LONG)
    stores = Stores.under(tmp_path / "runs")
    with driver(tmp_path) as process:
        for command in (["long.yaml", *RUN_LOCAL], ["long.yaml"]):
            assert run(command) == 2
            error = capfd.readouterr().err
            assert f"(process {process.pid}) since 2" in error
            assert "python -m study stop long" in error
        assert main(["rlct", "estimate", "long", *RUN_LOCAL]) == 2, "no other writer either"
        capfd.readouterr()
        assert run(["long.yaml", *RUN_LOCAL, "--plan"]) == 0
        code, stopped = looked_at(capfd, "stop", "long")
        assert (code, stopped["driver"]["pid"]) == (0, process.pid)
        # Its trial may end while the command waits.
        assert stopped["outcome"] in ("stopping", "stopped")
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "")
    assert "asked for it." in output
    assert "the same command does the rest" in output
    runs = runs_of(stores, "long", "tags.level = 'trial'")
    assert {trial.info.status for trial in runs} == {"FINISHED"}, "the running trial ended"
    before = len(runs)
    assert 1 <= before < 10
    with driver(tmp_path) as process:
        code, stopped = looked_at(capfd, "stop", "long", "--now")
        assert code == 0
        assert stopped["outcome"] in ("stopping", "stopped")
        process.communicate(timeout=120)
    assert process.returncode == 130
    states = [trial.info.status for trial in runs_of(stores, "long", "tags.level = 'trial'")]
    assert states.count("KILLED") == 1
    _, seen = looked_at(capfd, "status", "long")
    assert (seen["state"], seen["trials"]["finished"]) == ("interrupted", states.count("FINISHED"))
    code, nobody = looked_at(capfd, "stop", "long")
    assert (code, nobody) == (0, {"study": "long", "outcome": "nobody_runs_it", "driver": None})


def test_an_estimate_whose_checkpoint_is_missing_fails_alone(
    failed_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(failed_store)
    (first, second, *_) = runs_of(Stores.under(Path("runs")), "small", FINISHED)
    checkpoint = Path(first.info.artifact_uri.removeprefix("file://")) / "checkpoint"
    shutil.move(checkpoint, tmp_path / "kept")
    try:
        assert main(["rlct", "estimate", "small", *RUN_LOCAL, "--draws", "9"]) == 1
    finally:
        shutil.move(tmp_path / "kept", checkpoint)
    lines = capfd.readouterr().out.splitlines()
    (failure,) = [line for line in lines if "failed: " in line]
    assert f" {first.info.run_name}, " in failure
    assert "the record has no checkpoint of this trial (checkpoint/weights.safetensors is missing)" in failure
    assert any(f" {second.info.run_name}, " in line and ": rlct " in line for line in lines)
