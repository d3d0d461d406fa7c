"""A study that its budget stops: what is recorded, what the user sees, and how it goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

import study.engine.worker
from study.commands.main import main
from study.commands.run import main as run
from study.record.reader import RecordReader
from study.record.stores import Stores
from study.record.usage import Allotment, Machine, Usage
from study.record.writer import RecordWriter
from study.spec import build_spec
from tests.study.conftest import RayCluster
from tests.study.stores import fresh_stores
from tests.study.synthetic import DIGEST, falling, make_outcome, runs_of, sweep_spec
from trainables.trial import TrialConfig

SMALL = """
question: Does it stop?
task: digits
replicates: 1
sampler: grid
space: {hidden_layers: 1, width: 8, target_depth: 1, aux_weight: [0, 1, 2]}
training: {epochs: 2}
rlct: {draws: 8, chains: 2, batch_size: 32}
observer: {epochs: 0}
"""
HOUR = 3600.0
MICROSECOND = 1e-6 / HOUR  # in hours; the record has times in milliseconds, as whole numbers


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the small study."""
    (tmp_path / "small.yaml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_small(capfd: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """The exit code and the output of the small study, on one line."""
    capfd.readouterr()
    code = run(["small.yaml", "--runner", "local", *options])
    return code, " ".join(capfd.readouterr().out.split())


def status_of(capfd: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """The status of the small study as JSON, and as a person sees it."""
    capfd.readouterr()
    assert main(["status", "small", "--json"]) == 0
    seen = json.loads(capfd.readouterr().out)
    assert main(["status", "small"]) == 0
    return seen, " ".join(capfd.readouterr().out.split())


def states_of(folder: Path) -> list[str]:
    return [trial.state for trial in RecordReader(Stores.under(folder / "runs"), "small").trials()]


def test_a_study_begins_no_more_trials_than_its_budget_and_goes_on_when_it_is_raised(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, printed = run_small(capfd, "--budget.trials", "2")
    assert code == 3
    assert printed.endswith(
        "The budget has stopped the study: budget.trials: 2 of 2 trials used. Everything finished is kept. "
        "To go on, raise budget.trials, in the study file or with --budget.trials."
    )
    assert states_of(folder) == ["FINISHED"] * 2
    (study_run,) = runs_of(Stores.under(folder / "runs"), "small", "tags.level = 'study'")
    assert study_run.info.status == "KILLED"
    assert study_run.data.tags["stopped"] == "budget.trials: 2 of 2 trials used"
    seen, words = status_of(capfd)
    assert (seen["state"], seen["stopped"]) == ("interrupted", "budget.trials: 2 of 2 trials used")
    assert {"name": "trials", "used": 2, "limit": 2} in seen["budget"]
    assert "state interrupted: budget.trials: 2 of 2 trials used last" in words, "the same command does not go on"
    assert "budget 2 of 2 trials used" in words

    code, printed = run_small(capfd, "--budget.trials", "2")
    assert code == 3
    assert "The budget is spent, nothing was run: budget.trials: 2 of 2 trials used." in printed
    assert states_of(folder) == ["FINISHED"] * 2

    code, printed = run_small(capfd, "--budget.trials", "3")
    assert code == 0, "a budget that is enough for all trials stops nothing"
    assert states_of(folder) == ["FINISHED"] * 3
    seen, _ = status_of(capfd)
    assert (seen["state"], seen["stopped"]) == ("finished", None)


def test_cpu_hours_and_money_are_counted_over_all_runs_of_the_command(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, printed = run_small(capfd, "--budget.cpu_hours", "1e-5", "--cpus-per-trial", "2")
    assert code == 3
    assert "of 1e-05 CPU-hours used" in printed
    assert states_of(folder) == ["FINISHED"], "the first one ran to its end"
    (trial,) = RecordReader(Stores.under(folder / "runs"), "small").trials()
    assert trial.used.cpu_hours == pytest.approx(2 * (trial.ended - trial.started) / HOUR, abs=MICROSECOND)
    assert trial.allotment.cpus == 2
    code, printed = run_small(capfd, "--budget", "{money: 1e-6, prices: {default: 100}}")
    assert code == 3
    assert "nothing was run: budget.money:" in printed
    code, printed = run_small(capfd, "--budget.cpu_hours", "1")
    assert code == 0
    seen, _ = status_of(capfd)
    used = {each["name"]: each["used"] for each in seen["budget"]}
    assert used["trials"] == 3
    assert trial.used.cpu_hours < used["cpu_hours"] < 0.1


def test_more_failures_than_may_be_stop_the_study_and_its_user_is_told_where_to_look(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(config: TrialConfig, *arguments: Any, **options: Any) -> Any:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(study.engine.worker, "run_trial", failing)
        code, printed = run_small(capfd, "--budget.max_failed_trials", "1")
    assert code == 3
    assert states_of(folder) == ["FAILED"] * 2
    assert "budget.max_failed_trials: 2 trial(s) failed, and 1 may: " in printed
    key = printed.rpartition("python -m study why small ")[2].split()[0].rstrip(".")
    assert main(["why", "small", key]) == 0
    assert "MemoryError: no room" in capfd.readouterr().out
    _, words_of_status = status_of(capfd)
    assert "2 trial(s) failed, and 1 may" in words_of_status
    assert "; the same command goes on" in words_of_status
    code, _ = run_small(capfd, "--budget.max_failed_trials", "1")
    assert code == 0, "earlier failures do not count"
    assert states_of(folder).count("FINISHED") == 3


def test_retry_keeps_to_the_budget_of_the_record(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_trial = study.engine.worker.run_trial

    def failing(config: TrialConfig, *arguments: Any, **options: Any) -> Any:
        if config.self_model.aux_weight == 0:
            raise MemoryError("no room")
        return run_trial(config, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(study.engine.worker, "run_trial", failing)
        code, _ = run_small(capfd, "--budget.trials", "3")
    assert code == 1, "all three have begun: nothing was left to stop"
    assert main(["retry", "small", "--runner", "local"]) == 3
    assert "nothing was run: budget.trials: 3 of 3 trials used" in " ".join(capfd.readouterr().out.split())


def test_the_plan_says_what_is_used_and_what_will_not_be_enough(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    budget = "{trials: 2, cpu_hours: 1000, money: 1e-9, prices: {default: 1}, hours: 8, max_failed_trials: 4}"
    _, printed = run_small(capfd, "--plan", "--budget", budget)
    assert "budget 0 of 2 trials used, 3 more to run: too little, the study will stop before its end" in printed
    assert "0 of 1,000 CPU-hours used, about" in printed
    assert "0 of 1e-09 units of money used, about" in printed
    assert "8 hours for a run of the command 4 trials may fail in a run of the command" in printed
    run_small(capfd, "--budget.trials", "2")
    _, printed = run_small(capfd, "--plan", "--budget.trials", "2")
    assert "budget 2 of 2 trials used: it is spent" in printed
    _, printed = run_small(capfd, "--plan", "--budget.trials", "4")
    assert "budget 2 of 4 trials used, 1 more to run " in printed


def test_a_trial_with_more_replicates_has_used_what_all_its_runs_have(tmp_path: Path) -> None:
    spec = sweep_spec(weights=(0,), replicates=2)
    record = RecordWriter(fresh_stores(tmp_path / "runs"), spec.name)
    record.begin()
    (config,) = spec.listed()
    key, files = config.key(DIGEST), tmp_path / "files"
    files.mkdir()
    node = Allotment(2, 0).on(Machine(8, 0, "cpu"))
    with record.held():
        record.open_study(spec, DIGEST)
        expected = Usage()
        for _ in range(3):
            earlier = record.finished().get(key)
            record.start_trial(key, config, supersedes=earlier, allotment=Allotment(2, 0))
            record.place_trial(key, node)
            record.finish_trial(key, config, make_outcome(config, falling), files, supersedes=earlier)
            (run_of_trial,) = record.trials()
            expected += node.used(run_of_trial.ended - run_of_trial.started)
        record.start_trial(key, config, supersedes=record.finished()[key], allotment=Allotment(2, 0))
        record.fail_trial(key, "no room")
        record.close_study("KILLED")
    _, failed = record.trials()
    expected += Allotment(2, 0).used(failed.ended - failed.started)
    used = record.usage()
    assert used.trials == expected.trials == 4
    assert used.cpu_hours == pytest.approx(expected.cpu_hours, abs=4 * MICROSECOND)
    assert used.node_hours.keys() == {"cpu", ""}
    assert used.node_hours["cpu"] == pytest.approx(expected.node_hours["cpu"], abs=4 * MICROSECOND)


def test_a_trial_whose_driver_died_has_used_the_time_until_the_driver_was_last_heard_of(tmp_path: Path) -> None:
    spec = sweep_spec(weights=(0,), replicates=2)
    stores = fresh_stores(tmp_path / "runs")
    record = RecordWriter(stores, spec.name)
    record.begin()
    (config,) = spec.listed()
    with record.held() as lease:
        record.open_study(spec, DIGEST)
        record.start_trial(config.key(DIGEST), config, allotment=Allotment(4, 0))
        lease.beat()
        (heard,) = [tag for name, tag in record.experiment_tags().items() if name.startswith("lease.")]
    # The tag of a driver that has died an hour ago.
    (trial,) = record.trials()
    left = json.loads(heard) | {"id": "dead", "heartbeat": trial.started + 90.0}
    record.set_experiment_tag("lease.dead", json.dumps(left))
    assert record.usage() == Usage(1, 0, 0, {"": 0.0})
    taking_over = RecordWriter(stores, spec.name)
    with taking_over.held():
        taking_over.open_study(spec, DIGEST)
        assert taking_over.usage().cpu_hours == pytest.approx(4 * 90 / HOUR, rel=1e-3)
        taking_over.close_study("KILLED")


def test_trials_of_records_that_do_not_say_what_they_had_count_as_one_cpu(tmp_path: Path) -> None:
    spec = sweep_spec(weights=(0,), replicates=2)
    record = RecordWriter(fresh_stores(tmp_path / "runs"), spec.name)
    record.begin()
    (config,) = spec.listed()
    with record.held():
        record.open_study(spec, DIGEST)
        record.start_trial(config.key(DIGEST), config)
        record.fail_trial(config.key(DIGEST), "no room")
        record.close_study("FAILED")
    (trial,) = record.trials()
    assert trial.used.cpu_hours == pytest.approx((trial.ended - trial.started) / HOUR, abs=MICROSECOND)
    assert trial.used.cpu_hours > 0


def test_a_search_that_its_budget_stopped_goes_on_where_it_was(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    search = SMALL.replace("sampler: grid", "sampler: random\ntrials: 3").replace("[0, 1, 2]", "{low: 1, high: 9}")
    (folder / "small.yaml").write_text(search)
    assert run_small(capfd, "--budget.trials", "1")[0] == 3
    assert run_small(capfd, "--budget.trials", "2")[0] == 3
    assert run_small(capfd)[0] == 0
    at_once = build_spec({"name": "small", **_yaml(search)}, "small")
    stopped = [trial.key for trial in RecordReader(Stores.under(folder / "runs"), "small").trials()]
    assert run_small(capfd, "--store", "at-once")[0] == 0
    assert at_once.trials == 3
    assert stopped == [trial.key for trial in RecordReader(Stores.under(folder / "at-once"), "small").trials()]


@pytest.mark.services
def test_on_ray_the_study_stops_too_and_its_trials_have_their_share_of_a_node(
    folder: Path, capfd: pytest.CaptureFixture[str], ray_cluster: RayCluster
) -> None:
    capfd.readouterr()
    assert run(["small.yaml", "--address", ray_cluster.address, "--budget.trials", "2"]) == 3
    assert "budget.trials: 2 of 2 trials used" in " ".join(capfd.readouterr().out.split())
    trials = RecordReader(Stores.under(folder / "runs"), "small").trials()
    assert [trial.state for trial in trials] == ["FINISHED"] * 2
    for trial in trials:
        assert trial.allotment == Allotment(1, 0, "", 0.5), "the cluster is one node of two CPUs, which has no type"


def _yaml(text: str) -> dict[str, Any]:
    from study.spec.yaml_text import read_yaml

    fields: dict[str, Any] = read_yaml(text, "small.yaml")
    return fields
