"""`rlct.step_size: auto`: one step size for a study, from networks at the ends of what it varies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from study.commands.run import main
from study.engine.step_size import bias, check_auto, extremes, ladder, largest_that_suits, study_of_extremes
from study.errors import StudyError
from study.record.outcome import RlctOutcome, describe_trial
from study.record.reader import RecordReader
from study.record.stores import Stores
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


def spec_with(**changes: Any) -> StudySpec:
    return build_spec(STUDY | changes, "steps")


def outcome_of(verdicts: list[str], excess: list[float], estimates: list[float]) -> RlctOutcome:
    return RlctOutcome(
        per_chain=[[estimate, estimate] for estimate in estimates],
        initial_loss=[0.1] * len(verdicts),
        nbeta=80.0,
        verdicts=verdicts,
        reasons=[""] * len(verdicts),
        diagnostics={"excess": excess},
    )


SOUND = outcome_of(["sound", "sound"], [0.05, 0.1], [10.0, 10.0])


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
    "name", ["mnist", "controls", "depth", "objections", "cifar10", "imdb", "architectures", "next-layer", "quickstart"]
)
def test_the_study_of_the_ends_trains_exactly_those_networks(name: str) -> None:
    spec = build_spec(read_study(name), name)
    ends = study_of_extremes(spec)
    assert ends.name == f"{name}.step-size"
    trained = list(ends.listed())
    assert [(each.network, each.self_model, each.training) for each in trained] == [
        (each.network, each.self_model, each.training) for each in extremes(spec)
    ]
    assert {each.rlct for each in trained} == {spec.rlct.of_one_estimate()}
    assert {len(each.seeds) for each in trained} == {min(2, spec.replicates)}


def test_the_ladder_spans_two_orders_of_magnitude_around_the_recipe_and_changes_nothing_else() -> None:
    settings = spec_with().rlct
    steps = ladder(settings)
    assert [each.step_size for each in steps] == [0.0012, 0.0006, 0.0003, 0.00015, 7.5e-05, 3.75e-05, 1.87e-05]
    assert {each.model_copy(update={"step_size": 1.0}) for each in steps} == {
        settings.model_copy(update={"step_size": 1.0})
    }


def test_the_bias_is_the_largest_share_of_a_replicates_estimate() -> None:
    assert bias(SOUND) == pytest.approx(0.01)
    assert bias(outcome_of(["sound"], [0.1], [-4.0])) == pytest.approx(0.025)
    assert bias(outcome_of(["sound"], [0.1], [0.0])) == float("inf")


@pytest.mark.parametrize("verdict", list(VERDICTS)[1:])
def test_a_step_suits_only_if_all_networks_that_learned_are_sound(verdict: str) -> None:
    other = outcome_of(["sound", verdict], [0.05, 0.1], [10.0, 10.0])
    outcomes: Mapping[float, list[tuple[str, RlctOutcome]]] = {
        1e-5: [("ok", SOUND), ("ok", SOUND)],
        1e-4: [("ok", SOUND), ("ok", SOUND)],
        1e-3: [("ok", SOUND), ("ok", other)],
        1e-2: [("ok", SOUND), ("ok", SOUND), ("ok", outcome_of(["sound"], [0.03], [1.0]))],
    }
    assert largest_that_suits(outcomes) == 1e-4
    # A collapsed network has no minimum, at whatever step.
    assert largest_that_suits({step: [*each, ("collapsed", other)] for step, each in outcomes.items()}) == 1e-4
    assert largest_that_suits({1e-4: [("ok", other)]}) is None
    assert largest_that_suits({1e-4: [("collapsed", SOUND)]}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": ["digits", "mnist"]}, "auto is for one task"),
        ({"space": STUDY["space"] | {"rlct.step_size": [1e-4, 1e-3]}}, "auto is given, and the space varies it"),
        ({"sampler": "random", "trials": 5}, "auto is found on listed trials, and this study has none"),
    ],
)
def test_a_study_that_cannot_have_one_step_is_refused(changes: dict[str, Any], message: str) -> None:
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


def test_a_study_finds_its_step_once_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("steps.yaml").write_text(AUTO)
    command = ["steps.yaml", "--runner", "local"]
    assert main([*command, "--plan"]) == 0
    assert "on 2 trials at the ends of the study; planned with 0.0003" in capfd.readouterr().out
    assert not Path("runs/mlflow.db").exists()

    assert main(command) == 0
    said = capfd.readouterr().out
    stores = Stores.under(Path("runs"))
    step = RecordReader(stores, "steps").spec().rlct.step_size
    assert f"rlct.step_size auto: {step:g}, for all trials of the study" in said
    ends = RecordReader(stores, "steps.step-size")
    assert len(ends.finished()) == 2
    settings = ladder(ends.spec().rlct)
    estimates = {each.step_size: [ends.estimate(key, each.key()).rlct for key in ends.finished()] for each in settings}
    # It is what the record of these networks says, and the recipe's step is among those that suit.
    assert step == largest_that_suits({size: [("ok", each) for each in of_size] for size, of_size in estimates.items()})
    assert step >= 0.0003
    assert all(bias(estimate) <= 0.02 for estimate in estimates[step])
    trials = RecordReader(stores, "steps").finished().values()
    assert {trial.config.rlct.step_size for trial in trials} == {step}

    assert main([*command, "--replicates", "3"]) == 0
    said = capfd.readouterr().out
    assert f"rlct.step_size auto: {step:g}, as in the record of the study" in said
    assert len(RecordReader(stores, "steps.step-size").estimated()) == 14
    grown = RecordReader(stores, "steps").finished().values()
    assert {(trial.config.rlct.step_size, len(trial.seeds)) for trial in grown} == {(step, 3)}


def test_where_no_step_suits_nothing_of_the_study_is_run_and_the_error_says_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Eight draws never settle.
    Path("steps.yaml").write_text(AUTO.replace("draws: 400", "draws: 8").replace("epochs: 30", "epochs: 1"))
    assert main(["steps.yaml", "--runner", "local"]) == 2
    said = capfd.readouterr()
    assert "none of 0.0012, 0.0006, 0.0003, 0.00015, 7.5e-05, 3.75e-05, 1.87e-05 is sound" in said.err + said.out
    assert "Take more rlct.draws" in said.err + said.out
    assert not RecordReader(Stores.under(Path("runs")), "steps").exists
