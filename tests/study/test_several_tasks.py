"""Studies over several tasks: each with its own recipe, data and digest, in one record."""

import json
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from analysis import read_record
from study.commands.main import main as study_command
from study.commands.options import parse_options
from study.commands.run import main
from study.engine.execute import execute
from study.engine.plan import Plan, make_plan
from study.engine.resources import Resources
from study.engine.runners import make_runner
from study.errors import StudyError
from study.record.outcome import describe_trial
from study.record.protocol import differences, protocol_of
from study.record.reader import RecordReader
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.search.parameters import offers, parameters_of, parameters_of_space, random_trials
from study.spec import StudySpec, build_spec
from tests.study.conftest import RUNNERS_WITH_SERVICES, RayCluster
from tests.study.synthetic import runs_of
from tests.study.test_runners import Heard
from tests.study.trained import write_trained_study
from tests.trainables.small_files import write_small_files
from trainables.tasks import TASKS, TaskData, load_task

STUDY: dict[str, Any] = {
    "name": "two",
    "question": "Do two tasks agree?",
    "task": ["digits", "mnist"],
    "replicates": 2,
    "sampler": "grid",
    "space": {"hidden_layers": 1, "width": 8, "aux_weight": [0, 1], "target_depth": 1},
    "training": {"epochs": 1, "batch_size": 5, "validation_fraction": 0.5},
    "rlct": {"draws": 8, "chains": 2, "batch_size": 8},
    "observer": {"epochs": 0},
    "objectives": {"val_accuracy": "maximize", "weight_std": "minimize"},
}
DIGESTS = {"digits": "0" * 64, "mnist": "1" * 64}


def spec_of(**changes: Any) -> StudySpec:
    return build_spec(STUDY | changes, "two")


@pytest.fixture
def data(digits: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, TaskData]:
    """Digits, and a small MNIST in the format of the real one; its folder is the one that commands look in."""
    root = tmp_path / "data"
    write_small_files("mnist", root, monkeypatch)
    monkeypatch.setenv("SELF_MODELING_DATA", str(root))
    return {"digits": digits, "mnist": load_task("mnist", root)}


def plan_of(spec: StudySpec, data: dict[str, TaskData], stores: Stores) -> Plan:
    return make_plan(spec, [data[task] for task in spec.tasks], RecordReader(stores, spec.name))


def run(spec: StudySpec, data: dict[str, TaskData], stores: Stores, kind: str = "local", at: str | None = None) -> int:
    """Run the study as a command does; return how many trials ended with a result."""
    record = RecordWriter(stores, spec.name)
    plan = make_plan(spec, [data[task] for task in spec.tasks], record)
    execution = execute(plan, record, make_runner(kind, Resources(at), stores, spec.name), Heard())
    assert (execution.failed, execution.interrupted) == (0, False)
    return execution.finished


def test_each_task_has_what_its_recipe_says_where_the_study_says_nothing() -> None:
    spec = spec_of(training={"epochs": 7}, rlct={"draws": 30})
    assert [trial.task for trial in spec.listed()] == ["digits", "digits", "mnist", "mnist"]
    for trial in spec.listed():
        recipe = TASKS[trial.task].recipe
        assert trial.training == recipe.training.model_copy(update={"epochs": 7})
        assert trial.rlct == recipe.rlct.model_copy(update={"draws": 30})
        assert spec.training_of(trial.task) == trial.training
        assert spec.rlct_of(trial.task) == trial.rlct
    assert TASKS["digits"].recipe.training.learning_rate != TASKS["mnist"].recipe.training.learning_rate


def test_the_trials_are_those_of_the_studies_of_each_task() -> None:
    several = [trial.key(DIGESTS[trial.task]) for trial in spec_of().listed()]
    alone = [trial.key(DIGESTS[task]) for task in DIGESTS for trial in spec_of(task=task).listed()]
    assert several == alone
    assert len(set(several)) == 4


def test_a_study_that_is_written_and_read_is_the_same() -> None:
    space = {"hidden_layers": 1, "aux_weight": [0, 1], "learning_rate": {"digits": [0.1, 0.2], "imdb": 0.3}}
    training = {name: value for name, value in STUDY["training"].items() if name != "epochs"}
    for spec in (
        spec_of(),
        spec_of(task=["digits", "imdb"], space=space, training=training),
        spec_of(task=["digits", "mnist"], architecture=["convnet", "mlp"]),
        spec_of(task=["mnist"]),
    ):
        written = spec.model_dump(mode="json")
        again = build_spec(written, "two")
        assert again.model_dump(mode="json") == written
        assert list(again.listed()) == list(spec.listed())
        assert protocol_of(again, DIGESTS | {"imdb": "2"}) == protocol_of(spec, DIGESTS | {"imdb": "2"})


def test_every_task_has_the_architectures_that_take_its_inputs() -> None:
    space = {"hidden_layers": 1, "aux_weight": 0}
    of_recipes = spec_of(task=["digits", "imdb"], space=space)
    assert [of_recipes.architectures_of(task) for task in of_recipes.tasks] == [("mlp",), ("embedding_bag",)]
    given = spec_of(task=["digits", "imdb"], architecture=["transformer", "convnet", "mlp"], space=space)
    assert [given.architectures_of(task) for task in given.tasks] == [("convnet", "mlp"), ("transformer",)]
    assert [(trial.task, trial.network.architecture) for trial in given.listed()] == [
        ("digits", "convnet"),
        ("digits", "mlp"),
        ("imdb", "transformer"),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": ["digits", "imdb"], "architecture": "mlp"}, "architecture: none takes the inputs of 'imdb'"),
        ({"architecture": ["mlp", "transformer"]}, "'transformer' takes the inputs of none of the tasks digits, mnist"),
        ({"task": ["digits", "digits"]}, "task: the choices must differ"),
        ({"task": ["digits", "mnits"]}, "did you mean 'mnist'"),
        ({"task": []}, "task: List should have at least 1 item"),
        ({"space": {"width": {"digits": [8, 16]}}}, "space.width: has no values for 'mlp' of 'mnist'. Add them"),
        ({"space": {"width": {"imdb": [8, 16]}}}, "space.width: has values for 'imdb', which the study does not have"),
        ({"space": {"task": ["digits"]}}, "space.task: task is given too. Give it once"),
        ({"sampler": "design", "design": [{"aux_weight": 1}]}, r"design\[0\].task: missing, and the study has several"),
        (
            {"sampler": "design", "design": [{"task": "imdb", "aux_weight": 1}]},
            r"design\[0\].task: 'imdb' is no task of the study",
        ),
        (
            {"sampler": "design", "design": [{"task": "mnist", "architecture": "convnet", "aux_weight": 1}]},
            r"design\[0\].architecture: 'convnet' is none of the study's for mnist: mlp",
        ),
        # The recipe of MNIST trains on all training data.
        ({"training": {"validation_fraction": {}}}, "training.validation_fraction"),
        (
            {"task": ["digits", "imdb"], "architecture": ["mlp", "embedding_bag"], "training": {"augment": True}},
            "task 'imdb' has no augmentation",
        ),
        ({"objectives": {"gauss_rate_hidden2": "minimize"}}, "objectives.gauss_rate_hidden2: no such measure"),
    ],
)
def test_wrong_studies_of_several_tasks_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(StudyError, match=reason):
        spec_of(**changes)


def test_an_architecture_that_the_study_lacks_is_refused_in_a_design_of_one_task_too() -> None:
    with pytest.raises(StudyError, match=r"design\[0\].architecture: 'resnet18' is none of the study's for digits"):
        spec_of(task="digits", sampler="design", design=[{"architecture": "resnet18", "aux_weight": 1}])


def test_design_blocks_name_tasks() -> None:
    design = [{"task": "mnist", "aux_weight": [0, 2]}, {"task": ["digits", "mnist"], "aux_weight": 3, "width": 4}]
    spec = spec_of(sampler="design", design=design)
    assert [(trial.task, trial.self_model.aux_weight, trial.network.width) for trial in spec.listed()] == [
        ("mnist", 0, 8),
        ("mnist", 2, 8),
        ("digits", 3, 4),
        ("mnist", 3, 4),
    ]
    assert spec.varied[0] == "task"


def test_the_search_chooses_the_task_first_and_values_by_task() -> None:
    spec = spec_of(
        architecture=["mlp", "convnet"],
        sampler="tpe",
        trials=8,
        space={
            "hidden_layers": [1, 2],
            "width": {"digits": [4, 8], "mnist": {"low": 16, "high": 32}},
            "kernel_size": {"convnet": [3, 5]},
            "aux_weight": [0, 1, 2],
            "target_depth": ["last", 1],
        },
    )
    asked, _ = parameters_of_space(spec)
    assert next(iter(asked)) == "task"
    assert {"task", "architecture", "width_of_digits", "width_of_mnist", "kernel_size_of_convnet"} <= asked.keys()
    trials = random_trials(spec)
    assert {trial.task for trial in trials} == {"digits", "mnist"}
    for trial in trials:
        assert trial.network.width in ([4, 8] if trial.task == "digits" else range(16, 33))
        assert offers(spec, trial)
        found = parameters_of(spec, trial)
        assert found["task"][0] == trial.task
        assert {name: distribution for name, (_, distribution) in found.items()}.items() <= asked.items()
        assert describe_trial(trial, spec.varied).startswith(f"{trial.task} {trial.network.architecture} ")
    assert not offers(spec_of(task="digits"), next(trial for trial in trials if trial.task == "mnist"))


def test_the_command_line_names_several_tasks(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(json.dumps(STUDY | {"task": "digits"}))
    for words, tasks in (
        (["--task", "digits,mnist"], ("digits", "mnist")),
        (["--task", "mnist"], ("mnist",)),
        (["--space.task", "mnist,digits"], ("mnist", "digits")),
        ([], ("digits",)),
    ):
        options = parse_options([str(file), *words])
        assert options is not None
        assert options.spec.tasks == tasks
        assert options.spec.model_dump() == spec_of(task=list(tasks)).model_dump()


def test_a_task_may_be_added_and_none_left_out() -> None:
    alone, several = spec_of(task="digits"), spec_of()
    before = json.dumps(protocol_of(alone, DIGESTS["digits"]))
    assert differences(before, several, DIGESTS) == []
    assert differences(before, several, DIGESTS | {"digits": "2"}) == [
        "digits: data_digest: " + "'" + "0" * 64 + "' then, '2' now"
    ]
    together = json.dumps(protocol_of(several, DIGESTS))
    assert differences(together, several, DIGESTS) == []
    assert differences(together, spec_of(rlct=STUDY["rlct"] | {"seed": 3}), DIGESTS) == ["rlct.seed: 0 then, 3 now"]
    [gone] = differences(together, alone, DIGESTS["digits"])
    assert gone.startswith("task: digits, mnist then, digits now")
    assert json.loads(together)["data_digest"] == DIGESTS
    assert json.loads(before)["data_digest"] == DIGESTS["digits"]


def test_the_sizes_of_every_task_are_checked(data: dict[str, TaskData], tmp_path: Path) -> None:
    spec = spec_of(rlct=STUDY["rlct"] | {"batch_size": 16})
    with pytest.raises(StudyError, match="16 is more than the 10 training samples of mnist"):
        plan_of(spec, data, Stores.under(tmp_path / "runs"))


def test_a_study_of_two_tasks_runs_goes_on_and_reports_each(
    data: dict[str, TaskData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(json.dumps(STUDY))
    stores = Stores.under(tmp_path / "runs")
    # One task first; the other is added.
    assert main(["two.yaml", "--runner", "local", "--task", "digits"]) == 0
    alone = {run.info.run_id for run in runs_of(stores, "two", "tags.level = 'trial'")}
    capfd.readouterr()
    assert main(["two.yaml", "--plan"]) == 0
    planned = capfd.readouterr().out
    for line in ("digits: 719 training", "mnist: 10 training, 10 validation, 10 test", "to run  ", "2 trials"):
        assert line in planned
    assert main(["two.yaml", "--runner", "local"]) == 0
    trials = runs_of(stores, "two", "tags.level = 'trial'")
    assert alone < {run.info.run_id for run in trials}
    digests = {task: each.digest() for task, each in data.items()}
    expected = {trial.key(digests[trial.task]): trial.task for trial in spec_of().listed()}
    assert {run.data.tags["trial_key"]: run.data.tags["task"] for run in trials} == expected
    for run in trials:
        assert run.data.tags["data_digest"] == digests[run.data.tags["task"]]
    [of_study] = runs_of(stores, "two", "tags.level = 'study'")
    assert of_study.data.tags["task"] == "digits, mnist"
    assert json.loads(of_study.data.tags["data_digest"]) == digests
    record = read_record(stores.tracking_uri, "two")
    assert set(record.replicates["task"]) == {"digits", "mnist"}
    study = optuna.load_study(study_name="two", storage=stores.optuna_url)
    finished = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert sorted(trial.params["task"] for trial in finished) == ["digits", "digits", "mnist", "mnist"]
    assert (stores.report_folder("two") / "report.html").exists()
    # The same command runs nothing, and the record says all that is needed to go on.
    capfd.readouterr()
    assert main(["two.yaml", "--runner", "local"]) == 0
    assert "All 4 trials are finished already" in capfd.readouterr().out
    assert RecordReader(stores, "two").spec().model_dump() == spec_of().model_dump()
    assert study_command(["retry", "two", "--runner", "local"]) == 0
    assert study_command(["rlct", "estimate", "two", "--runner", "local", "--draws", "10"]) == 0
    estimates = runs_of(stores, "two", "tags.level = 'estimate'")
    assert sorted(run.data.tags["task"] for run in estimates) == ["digits", "digits", "mnist", "mnist"]
    # What is not given is as in the trials of each task.
    for run in estimates:
        own = TASKS[run.data.tags["task"]].recipe.rlct
        assert float(run.data.params["rlct_step_size"]) == own.step_size
        assert (run.data.params["rlct_draws"], run.data.params["rlct_batch_size"]) == ("10", "8")
    assert TASKS["digits"].recipe.rlct.step_size != TASKS["mnist"].recipe.rlct.step_size
    key = capfd.readouterr().out.rstrip().splitlines()[-1].split("--rlct ")[1]
    again = read_record(stores.tracking_uri, "two", key)
    assert again.replicates["rlct"].notna().all()
    assert again.rlct_settings["draws"] == "10"
    assert "step_size" not in again.rlct_settings, "the tasks differ in it"
    # A calibration is of one task's trials; the networks of the small MNIST learn nothing.
    assert study_command(["rlct", "calibrate", "two", "--runner", "local", "--step_size", "2e-4", "--plan"]) == 0
    planned = capfd.readouterr().out
    assert "mnist, settings " in planned
    assert "rlct of 2 finished trials" in planned


def test_trials_with_settings_of_their_own_are_calibrated_around_these(digits: TaskData, tmp_path: Path) -> None:
    stores = Stores.under(tmp_path / "runs")
    spec = spec_of(task="digits", replicates=1, space=STUDY["space"] | {"rlct_localization": [30, 60]})
    write_trained_study(stores, spec, digits, tmp_path / "files")
    options = ["--store", str(stores.root), "--runner", "local", "--step_size", "2e-4", "--localization", "40"]
    assert study_command(["rlct", "calibrate", "two", *options]) == 0
    folder = stores.report_folder("two") / "rlct-calibration"
    tables = [pd.read_csv(file) for file in folder.glob("digits-*/settings.csv")]
    assert len(tables) == 2
    own_step = TASKS["digits"].recipe.rlct.step_size
    for table in tables:
        assert set(table["step_size"]) == {2e-4, own_step}
        assert set(table["trials"]) == {2}
    assert {frozenset(table["localization"]) for table in tables} == {frozenset({30.0, 40.0}), frozenset({60.0, 40.0})}


@pytest.mark.parametrize("kind", RUNNERS_WITH_SERVICES)
def test_every_runner_gives_each_trial_the_data_of_its_task(
    kind: str, data: dict[str, TaskData], tmp_path: Path, ray_cluster: RayCluster
) -> None:
    stores, at = Stores.under(tmp_path / "runs"), ray_cluster.address if kind == "ray" else None
    spec = spec_of(
        replicates=1,
        sampler="random",
        trials=3,
        space={"width": [4, 8], "aux_weight": [0, 1]},
        design=[{"task": ["digits", "mnist"], "width": 4, "aux_weight": 1}],
    )
    assert run(spec, data, stores, kind, at) == 3
    grown = build_spec(spec.model_dump(mode="json") | {"replicates": 2}, "two")
    assert run(grown, data, stores, kind, at) == 3
    trials = runs_of(stores, "two", "tags.level = 'trial'")
    assert {each.data.tags["task"] for each in trials} == {"digits", "mnist"}
    assert {each.data.tags["seeds"] for each in trials} == {"[0, 1]"}
