"""What every runner must do, and what the one in this process does without Ray."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from study.commands.run import main
from study.engine.execute import Execution, execute
from study.engine.plan import make_plan
from study.engine.resources import Resources
from study.engine.runner import RunTrial
from study.engine.runners import RUNNERS, make_runner
from study.errors import StudyError
from study.record.outcome import Outcome
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.search.search import Search, Suggestion
from study.spec import StudySpec, build_spec
from tests.study.conftest import RayCluster
from tests.study.stores import fresh_stores
from tests.study.synthetic import runs_of
from trainables.tasks import TaskData

STUDY: dict[str, Any] = {
    "name": "small",
    "question": "Is it the same everywhere?",
    "task": "digits",
    "replicates": 2,
    "sampler": "design",
    "space": {"hidden_layers": 1, "width": 8, "target_depth": 1},
    "design": [{"aux_weight": [0, 1]}, {"control": "noise_targets", "aux_weight": 2}],
    "training": {"epochs": 3},
    "rlct": {"draws": 10, "chains": 2, "batch_size": 32},
    "observer": {"epochs": 1, "width": 8},
}


class Heard:
    """A watcher that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def started(self, trial: RunTrial) -> None:
        self.events.append(("started", trial.key))

    def advanced(self, trial: RunTrial, stage: str) -> None:
        self.events.append(("advanced", trial.key))

    def finished(self, trial: RunTrial, outcome: Outcome) -> None:
        self.events.append(("finished", trial.key))

    def failed(self, trial: RunTrial, reason: str) -> None:
        self.events.append(("failed", trial.key))


@pytest.fixture(scope="module")
def spec() -> StudySpec:
    return build_spec(STUDY, "small")


@pytest.fixture(scope="module")
def ran(
    spec: StudySpec, digits: TaskData, ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Stores, Execution, Heard]]:
    """The same study run by every runner, each with stores of its own."""
    ran = {}
    for kind in RUNNERS:
        stores = fresh_stores(tmp_path_factory.mktemp(kind))
        plan = make_plan(spec, [digits], None)
        address = ray_cluster.address if kind == "ray" else None
        heard = Heard()
        runner = make_runner(kind, Resources(address), stores, spec.name)
        ran[kind] = (stores, execute(plan, RecordWriter(stores, spec.name), runner, heard), heard)
    return ran


def by_key(stores: Stores, level: str) -> dict[tuple[str, str], Run]:
    runs = runs_of(stores, "small", f"tags.level = '{level}'")
    return {(run.data.tags["trial_key"], run.data.tags.get("replicate", "")): run for run in runs}


def measured(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.data.metrics.items() if not name.startswith("seconds")}


def test_every_runner_says_what_ended_and_how(ran: dict[str, tuple[Stores, Execution, Heard]]) -> None:
    for _, execution, _ in ran.values():
        assert execution == Execution(finished=3, failed=0, interrupted=False)


def test_every_runner_leaves_the_same_record_bit_for_bit(ran: dict[str, tuple[Stores, Execution, Heard]]) -> None:
    (reference, _, _), *others = ran.values()
    for stores, _, _ in others:
        for level in ("trial", "replicate"):
            expected, found = by_key(reference, level), by_key(stores, level)
            assert expected.keys() == found.keys()
            for key, run in expected.items():
                assert measured(found[key]) == measured(run)
                assert found[key].data.params == run.data.params
                assert found[key].info.status == run.info.status == "FINISHED"


def test_every_runner_leaves_the_same_artifacts(ran: dict[str, tuple[Stores, Execution, Heard]]) -> None:
    for stores, _, _ in ran.values():
        client = MlflowClient(stores.tracking_uri)
        for run in by_key(stores, "trial").values():
            folder = Path(client.download_artifacts(run.info.run_id, ""))
            files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
            assert files == {
                "checkpoint/weights.safetensors",
                "history.parquet",
                "outcome.json",
                "rlct/trace.parquet",
                "rlct/trace.png",
            }


def test_a_watcher_hears_of_every_trial_from_its_start_to_its_end(
    ran: dict[str, tuple[Stores, Execution, Heard]],
) -> None:
    for stores, _, heard in ran.values():
        for key, _ in by_key(stores, "trial"):
            events = [event for event, of_trial in heard.events if of_trial == key]
            assert events[0] == "started"
            assert events[-1] == "finished"
            assert set(events[1:-1]) == {"advanced"}


def test_an_interrupt_ends_the_local_runner_and_keeps_what_has_finished(
    spec: StudySpec, digits: TaskData, tmp_path: Path
) -> None:
    stores = fresh_stores(tmp_path)

    class Interrupting(Heard):
        def finished(self, trial: RunTrial, outcome: Outcome) -> None:
            raise KeyboardInterrupt

    runner = make_runner("local", Resources(), stores, spec.name)
    execution = execute(make_plan(spec, [digits], None), RecordWriter(stores, spec.name), runner, Interrupting())
    assert execution == Execution(finished=1, failed=0, interrupted=True)
    record = RecordWriter(stores, spec.name)
    assert len(record.finished()) == 1
    (study,) = runs_of(stores, "small", "tags.level = 'study'")
    assert study.info.status == "KILLED"
    rest = execute(make_plan(spec, [digits], record), record, runner, Heard())
    assert rest == Execution(finished=2, failed=0, interrupted=False)


@pytest.mark.parametrize("kind", RUNNERS)
def test_a_trial_that_the_record_has_and_optuna_could_not_be_told_of_gets_its_values_next_time(
    kind: str, spec: StudySpec, digits: TaskData, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    def locked(search: Search, suggestion: Suggestion, outcome: Outcome, recorded: bool) -> None:
        raise StudyError("the database is locked")

    stores = fresh_stores(tmp_path)
    address = ray_cluster.address if kind == "ray" else None
    runner = make_runner(kind, Resources(address, concurrent=1), stores, spec.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "tell", locked)
        with pytest.raises(StudyError, match="the database is locked"):
            execute(make_plan(spec, [digits], None), RecordWriter(stores, spec.name), runner, Heard())
    record = RecordWriter(stores, spec.name)
    (key,) = record.finished()
    execution = execute(
        make_plan(spec, [digits], record), record, make_runner("local", Resources(), stores, spec.name), Heard()
    )
    assert execution == Execution(finished=2, failed=0, interrupted=False)
    study = optuna.load_study(study_name="small", storage=stores.optuna_url)
    states = {trial.user_attrs["trial_key"]: trial.state for trial in study.trials if trial.state != TrialState.FAIL}
    assert states[key] == TrialState.COMPLETE
    assert set(states) == set(record.finished())


def test_an_interrupt_is_told_as_one_even_where_the_record_cannot_be_closed(
    spec: StudySpec, digits: TaskData, tmp_path: Path
) -> None:
    class Gone(RecordWriter):
        def close_study(self, status: str, reason: str = "") -> None:
            raise StudyError("the record is gone")

    class Interrupting(Heard):
        def started(self, trial: RunTrial) -> None:
            raise KeyboardInterrupt

    stores = fresh_stores(tmp_path)
    runner = make_runner("local", Resources(), stores, spec.name)
    execution = execute(make_plan(spec, [digits], None), Gone(stores, spec.name), runner, Interrupting())
    assert execution == Execution(finished=0, failed=0, interrupted=True)


def test_what_another_driver_has_finished_since_the_plan_was_made_is_not_run_again(
    spec: StudySpec, digits: TaskData, ran: dict[str, tuple[Stores, Execution, Heard]]
) -> None:
    stores, _, _ = ran["local"]
    # As it was before the other driver began.
    outdated = make_plan(spec, [digits], None)
    heard = Heard()
    runner = make_runner("local", Resources(), stores, spec.name)
    assert execute(outdated, RecordWriter(stores, spec.name), runner, heard) == Execution(0, 0, interrupted=False)
    assert heard.events == []


def test_a_study_that_is_held_is_refused_before_the_runner_connects(
    spec: StudySpec, digits: TaskData, ran: dict[str, tuple[Stores, Execution, Heard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores, _, _ = ran["local"]
    runner = make_runner("local", Resources(), stores, spec.name)
    monkeypatch.setattr(runner, "connected", lambda: pytest.fail("the runner was connected"))
    with RecordWriter(stores, spec.name).held(), pytest.raises(StudyError, match="'small' is held by"):
        execute(make_plan(spec, [digits], None), RecordWriter(stores, spec.name), runner, Heard())


def test_the_local_runner_works_where_there_is_no_ray(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(str(STUDY))
    code = (
        "import sys\n"
        "class NoRay:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'ray': raise ModuleNotFoundError('no ray here')\n"
        "sys.meta_path.insert(0, NoRay())\n"
        "from study.commands.run import main\n"
        "raise SystemExit(main(['small.yaml', '--runner', 'local']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "[3/3, 0 running, 0 failed" in done.stdout
    assert "runs/reports/small/report.html" in done.stdout
    assert not (tmp_path / "runs" / "ray").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address", "127.0.0.1:6379"], "--address names a Ray cluster"),
        (["--concurrent", "2"], "--concurrent 2: --runner local runs one trial after the other"),
        (["--gpus-per-trial", "1"], "--gpus-per-trial: PyTorch finds no GPU on this machine"),
        (["--runner", "slurm"], "--runner: invalid choice: 'slurm'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_the_local_runner_cannot_do_is_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "small.yaml").write_text(str(STUDY))
    runner = [] if "--runner" in arguments else ["--runner", "local"]
    assert main(["small.yaml", *runner, *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "runs").exists(), "nothing was created"


def test_a_ledger_that_cannot_write_ends_the_local_run_at_once(
    spec: StudySpec, digits: TaskData, tmp_path: Path
) -> None:
    class Full(RecordWriter):
        def log_epochs(self, *arguments: Any) -> None:
            raise StudyError("the disk is full")

    stores = fresh_stores(tmp_path)
    heard = Heard()
    runner = make_runner("local", Resources(), stores, spec.name)
    with pytest.raises(StudyError, match="the disk is full"):
        execute(make_plan(spec, [digits], None), Full(stores, spec.name), runner, heard)
    assert [event for event, _ in heard.events] == ["started"]
