"""`rlct.step_size: auto`: one step size for a study, from networks at the ends of what it varies."""

from pathlib import Path
from typing import Any

import pytest

from study.commands.run import main
from study.engine.step_size import (
    Sampled,
    check_auto,
    extremes,
    ladder,
    largest_that_suits,
    sampled,
    study_of_extremes,
)
from study.errors import StudyError
from study.record.outcome import RlctOutcome, describe_trial
from study.record.reader import RecordReader
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.spec import build_spec, read_study
from study.spec.study import StudySpec
from trainables.outcomes import VERDICTS

STUDY: dict[str, Any] = {
    "name": "steps",
    "task": "digits",
    "replicates": 2,
    "sampler": "grid",
    "space": {"hidden_layers": 1, "width": [8, 32], "aux_weight": [0, 1, 5], "target_depth": "last"},
    "training": {"epochs": 10},
    "observer": {"epochs": 1, "width": 8},
}
SOUND = Sampled("ok", "sound", 0.01)


def spec_with(**changes: Any) -> StudySpec:
    return build_spec(STUDY | changes, "steps")


def test_the_ends_are_the_smallest_and_the_largest_network_with_the_least_and_the_greatest_weight() -> None:
    names = [describe_trial(config) for config in extremes(spec_with())]
    assert names == ["1x8 aux 0", "1x8 aux 5 target 1", "1x32 aux 0", "1x32 aux 5 target 1"]


def test_controls_are_no_ends_where_there_is_self_modeling() -> None:
    design = [{"aux_weight": [0, 2]}, {"control": "activation_penalty", "aux_weight": 50}]
    spec = spec_with(sampler="design", space={"hidden_layers": 1, "width": 8, "target_depth": 1}, design=design)
    assert [config.self_model.control for config in extremes(spec)] == ["none", "none"]
    of_controls = spec_with(
        sampler="design", space={"width": 8, "target_depth": 1}, design=[{"control": "dropout", "aux_weight": 0.5}]
    )
    assert [config.self_model.control for config in extremes(of_controls)] == ["dropout"]


@pytest.mark.parametrize(
    "name", ["mnist", "controls", "depth", "objections", "alive", "cifar10", "imdb", "next-layer", "variants"]
)
def test_the_study_of_the_ends_trains_exactly_those_networks(name: str) -> None:
    spec = build_spec(read_study(name), name)
    ends = study_of_extremes(spec)
    assert ends.name.startswith(f"{name}.step-size-")
    trained = list(ends.listed())
    assert [(each.network, each.self_model, each.training) for each in trained] == [
        (each.network, each.self_model, each.training) for each in extremes(spec)
    ]
    assert {each.rlct for each in trained} == {spec.rlct.of_one_estimate()}
    assert {len(each.seeds) for each in trained} == {min(2, spec.replicates)}
    assert {each.observer.epochs for each in trained} == {0}


@pytest.mark.parametrize(
    "changes",
    [
        {"space": STUDY["space"] | {"rlct_localization": 50}},
        {"space": STUDY["space"] | {"rlct_draws": [100, 800], "observer_epochs": 2}, "observer": {"width": 8}},
        {
            "sampler": "design",
            "space": {"width": 8, "target_depth": 1},
            "design": [
                {"hidden_layers": 1, "aux_weight": 0, "rlct_draws": 100},
                {"hidden_layers": 2, "aux_weight": 5, "rlct_draws": 400, "rlct_with_layers": True},
            ],
        },
    ],
)
def test_the_ends_are_sampled_with_their_own_settings(changes: dict[str, Any]) -> None:
    spec = spec_with(**changes)
    of_study = {config.rlct.of_one_estimate() for config in extremes(spec)}
    assert {config.rlct for config in study_of_extremes(spec).listed()} == of_study


def test_the_study_of_the_ends_has_another_name_as_soon_as_anything_of_it_changes() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"training": {"epochs": 11}},
        {"rlct": {"draws": 700}},
        {"replicates": 1},
        {"space": STUDY["space"] | {"width": [8, 16]}},
    ]
    names = [study_of_extremes(spec_with(**change)).name for change in changes]
    assert len(set(names)) == len(names)
    assert names[0] == study_of_extremes(spec_with(question="Another?", observer={"epochs": 0})).name


def test_the_ladder_reaches_from_four_times_the_step_to_a_sixteenth_and_changes_nothing_else() -> None:
    settings = spec_with().rlct
    steps = ladder(settings)
    assert [each.step_size for each in steps] == [0.0012, 0.0006, 0.0003, 0.00015, 7.5e-05, 3.75e-05, 1.87e-05]
    assert {each.model_copy(update={"step_size": 1.0}) for each in steps} == {
        settings.model_copy(update={"step_size": 1.0})
    }


def test_the_bias_is_a_share_of_a_replicates_estimate() -> None:
    outcome = RlctOutcome(
        per_chain=[[9.0, 11.0], [-4.0, -4.0], [0.0, 0.0]],
        initial_loss=[0.1] * 3,
        nbeta=80.0,
        verdicts=["sound", "not_a_minimum", "drifting"],
        reasons=[""] * 3,
        diagnostics={"excess": [0.05, 0.1, 0.1]},
    )
    networks = sampled(["ok", "collapsed", "ok"], outcome)
    assert [(each.status, each.verdict) for each in networks] == [
        ("ok", "sound"),
        ("collapsed", "not_a_minimum"),
        ("ok", "drifting"),
    ]
    assert [each.bias for each in networks] == pytest.approx([0.005, 0.025, float("inf")])


@pytest.mark.parametrize("verdict", list(VERDICTS)[1:])
def test_a_step_suits_only_if_every_network_that_learned_is_sound(verdict: str) -> None:
    bad = Sampled("ok", verdict, 0.01)
    networks = {
        1e-5: [SOUND, SOUND],
        1e-4: [SOUND, SOUND],
        1e-3: [SOUND, bad],
        1e-2: [SOUND, SOUND, Sampled("ok", "sound", 0.03)],
    }
    assert largest_that_suits(networks) == 1e-4
    # A network that has learned nothing is at no minimum, whatever the step.
    collapsed = Sampled("collapsed", verdict, 0.5)
    assert largest_that_suits({step: [*each, collapsed] for step, each in networks.items()}) == 1e-4
    # A replicate that learned counts beside one that did not.
    assert largest_that_suits({1e-4: [SOUND, collapsed, bad], 1e-5: [SOUND, collapsed, SOUND]}) == 1e-5
    assert largest_that_suits({1e-4: [bad]}) is None
    assert largest_that_suits({1e-4: [collapsed]}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": ["digits", "mnist"]}, "auto is for one task"),
        ({"space": STUDY["space"] | {"rlct.step_size": [1e-4, 1e-3]}}, "auto is given, and the trials vary it"),
        ({"sampler": "random", "trials": 5}, "auto is found at the ends of a grid or of a design"),
        ({"name": "a" * 82}, "with rlct.step_size auto it has at most 81 characters"),
    ],
)
def test_a_study_that_cannot_have_one_step_is_refused(changes: dict[str, Any], message: str) -> None:
    check_auto(spec_with(name="a" * 81))
    with pytest.raises(StudyError, match=message):
        check_auto(spec_with(**changes))


AUTO = """
name: steps
task: digits
replicates: 2
sampler: grid
space: {hidden_layers: 1, width: 16, aux_weight: [0, 5], target_depth: last}
training: {epochs: 30}
rlct: {step_size: auto, draws: 400}
observer: {epochs: 0}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def name_of_ends(changes: dict[str, Any]) -> str:
    raw = read_study("steps.yaml")
    return study_of_extremes(build_spec(raw | {"rlct": {"draws": 400}} | changes, "steps")).name


def test_a_study_finds_its_step_once_and_goes_on_with_it(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("steps.yaml").write_text(AUTO)
    command = ["steps.yaml", "--runner", "local"]
    assert main([*command, "--plan"]) == 0
    assert "on 2 trials at the ends of the study" in capfd.readouterr().out.replace("\n", " ")
    assert not Path("runs/mlflow.db").exists()
    stores = Stores.under(Path("runs"))
    # A driver that has ended before its first trial leaves an experiment without a study.
    RecordWriter(stores, "steps").begin()

    assert main(command) == 0
    said = capfd.readouterr().out
    step = RecordReader(stores, "steps").spec().rlct.step_size
    assert f"rlct.step_size auto: {step:g}, for all trials of the study" in said
    ends = RecordReader(stores, name_of_ends({}))
    assert len(ends.finished()) == 2
    estimates = ends.estimates()
    networks = {
        each.step_size: [
            network for key in ends.finished() for network in sampled(["ok", "ok"], estimates[key, each.key()].rlct)
        ]
        for each in ladder(ends.spec().rlct)
    }
    # It is what the record of these networks says, and the recipe's step is among those that suit.
    assert step == largest_that_suits(networks)
    assert step >= 0.0003
    trials = RecordReader(stores, "steps").finished().values()
    assert {trial.config.rlct.step_size for trial in trials} == {step}

    assert main([*command, "--replicates", "3"]) == 0
    said = capfd.readouterr().out
    assert f"rlct.step_size auto: {step:g}, as in the record of the study" in said
    assert len(ends.estimated()) == 14
    grown = RecordReader(stores, "steps").finished().values()
    assert {(trial.config.rlct.step_size, len(trial.seeds)) for trial in grown} == {(step, 3)}


def test_where_no_step_suits_nothing_of_the_study_is_run_and_the_advice_can_be_taken(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Eight draws never settle.
    Path("steps.yaml").write_text(AUTO.replace("draws: 400", "draws: 8").replace("epochs: 30", "epochs: 15"))
    command = ["steps.yaml", "--runner", "local", "--replicates", "1"]
    for draws in ("8", "9"):
        assert main([*command, "--rlct.draws", draws]) == 2
        said = capfd.readouterr().err.replace("\n", " ")
        assert "none of 0.0012, 0.0006, 0.0003, 0.00015, 7.5e-05, 3.75e-05, 1.87e-05 is sound" in said
        assert "Take more rlct.draws" in said
    assert not RecordReader(Stores.under(Path("runs")), "steps").exists
    # And where no network has learned anything, the sampler is not blamed.
    assert main([*command, "--training.epochs", "1", "--training.learning_rate", "1e-6"]) == 2
    assert "no network at the ends of the study has learned its task" in capfd.readouterr().err.replace("\n", " ")


def test_what_is_wrong_with_a_study_is_said_before_its_ends_are_trained(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("steps.yaml").write_text(AUTO)
    assert main(["steps.yaml", "--runner", "local", "--training.train_samples", "1145"]) == 2
    assert "training.train_samples: 1145" in capfd.readouterr().err
    assert not Path("runs/mlflow.db").exists()


def test_a_budget_holds_for_the_ends_too(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("steps.yaml").write_text(AUTO.replace("epochs: 30", "epochs: 1").replace("draws: 400", "draws: 8"))
    assert main(["steps.yaml", "--runner", "local", "--budget.cpu_hours", "1e-7"]) == 2
    assert "Run the same command again, with a larger budget" in capfd.readouterr().err.replace("\n", " ")


def test_a_record_with_several_steps_has_none_to_go_on_with(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = AUTO.replace("epochs: 30", "epochs: 1").replace("draws: 400", "draws: 8").replace("[0, 5]", "0")
    Path("two.yaml").write_text(
        text.replace("step_size: auto, ", "").replace("width: 16", "width: 16, rlct_step_size: [1e-4, 1e-3]")
    )
    Path("auto.yaml").write_text(text)
    assert main(["two.yaml", "--runner", "local"]) == 0
    assert main(["auto.yaml", "--runner", "local"]) == 2
    assert "those of the study 'steps' in the record differ in it" in capfd.readouterr().err.replace("\n", " ")


def test_help_shows_the_values_of_a_study_with_auto(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("steps.yaml").write_text(AUTO)
    with pytest.raises(SystemExit, match="0"):
        main(["steps.yaml", "--help", "rlct"])
    assert "--rlct.step_size" in capfd.readouterr().out
