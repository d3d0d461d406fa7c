"""An open space: any field of a trial is fixed, listed or searched; architectures have sizes of their own."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from study.commands.options import parse_options
from study.errors import StudyError
from study.search.parameters import parameters_of, parameters_of_space, random_trials
from study.spec import StudySpec, build_spec
from trainables.config import NetworkConfig
from trainables.fields import FIELDS, PATHS
from trainables.making import network_of
from trainables.trial import TrialConfig


def spec_with(**changes: Any) -> StudySpec:
    raw: dict[str, Any] = {"name": "test", "task": "digits", "trials": 5, "sampler": "random"}
    return build_spec(raw | changes, "test")


def grid_with(space: dict[str, Any], **changes: Any) -> list[TrialConfig]:
    return list(spec_with(sampler="grid", trials=None, space=space, **changes).listed())


def value_in(config: TrialConfig, name: str) -> Any:
    section, _, key = FIELDS[name].path.rpartition(".")
    return getattr(getattr(config, section) if section else config, key)


# A second value of every field of a trial, besides the task's recipe; what it needs to have an effect.
OTHER_VALUES: dict[str, tuple[Any, dict[str, Any]]] = {
    "architecture": ("convnet", {}),
    "hidden_layers": (2, {}),
    "width": (8, {}),
    "control": ("noise_targets", {"aux_weight": 1}),
    "aux_weight": (3.0, {}),
    "detach_targets": (False, {"aux_weight": 1}),
    "target_form": ("sign", {"aux_weight": 1}),
    "unit_weighting": ("sum", {"aux_weight": 1}),
    "head": ("separate", {"aux_weight": 1}),
    "predict_from": (1, {"aux_weight": 1, "hidden_layers": 2, "head": "separate"}),
    "optimizer": ("adam", {}),
    "learning_rate": (0.1, {}),
    "momentum": (0.5, {}),
    "nesterov": (False, {}),
    "batch_size": (32, {}),
    "epochs": (3, {}),
    "until_loss": (0.2, {}),
    "shuffle": ("once", {}),
    "augment": (True, {}),
    "validation_fraction": (0.1, {}),
    "train_samples": (500, {}),
    "label_noise": (0.2, {}),
    "rlct_sampler": ("rmsprop_sgld", {}),
    "rlct_step_size": (1e-5, {}),
    "rlct_localization": (7.0, {}),
    "rlct_nbeta": ("dataset", {}),
    "rlct_chains": (3, {}),
    "rlct_draws": (99, {}),
    "rlct_burn_in_fraction": (0.2, {}),
    "rlct_batch_size": (64, {}),
    "rlct_seed": (5, {}),
    "rlct_with_balanced": (True, {}),
    "rlct_with_layers": (True, {}),
    "rlct_with_epochs": ("1", {}),
    "observer_epochs": (1, {}),
    "observer_width": (9, {}),
    "observer_learning_rate": (0.1, {}),
    "observer_batch_size": (16, {}),
    "split_seed": (4, {}),
}


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_any_field_can_be_listed_beside_its_recipes_value_and_makes_two_trials(name: str) -> None:
    other, needed = OTHER_VALUES[name]
    (usual,) = grid_with({"aux_weight": 0} | needed)
    trials = grid_with({"aux_weight": 0} | needed | {name: [value_in(usual, name), other]})
    assert [value_in(trial, name) for trial in trials] == [value_in(usual, name), other]
    assert trials[0] == usual
    assert len({trial.key("data") for trial in trials}) == 2


@pytest.mark.parametrize("name", [name for name in OTHER_VALUES if FIELDS[name].section])
def test_a_field_goes_by_its_path_as_well_in_a_file_and_on_the_command_line(name: str) -> None:
    other, needed = OTHER_VALUES[name]
    path = FIELDS[name].path
    fixed = {"aux_weight": 0} | needed
    assert grid_with({key: value for key, value in fixed.items() if key != name} | {path: other}) == grid_with(
        fixed | {name: other}
    )
    words = ["quickstart", "--design", "[]", "--trials", "1", "--sampler", "random"]
    if "head" in needed:
        words += ["--space.hidden_layers", "2", "--space.head", "separate"]
    short, long = (parse_options([*words, f"--space.{each}", str(other)]) for each in (name, path))
    assert short is not None
    assert long is not None
    assert short.spec == long.spec
    assert short.spec.space.names[0:] == long.spec.space.names


def test_a_learning_rate_is_searched_on_a_logarithmic_scale_and_a_width_in_steps() -> None:
    spec = spec_with(
        space={
            "learning_rate": {"low": 1e-3, "high": 0.1, "log": True},
            "width": {"low": 16, "high": 64, "step": 16},
            "aux_weight": [0, 1],
            "batch_size": [32, 64],
        }
    )
    asked, conditional = parameters_of_space(spec)
    assert conditional == set()
    assert asked["learning_rate"] == FloatDistribution(1e-3, 0.1, log=True)
    assert asked["width"] == IntDistribution(16, 64, step=16)
    assert asked["batch_size"] == CategoricalDistribution([32, 64])
    trials = random_trials(spec)
    assert {trial.network.width for trial in trials} == {16, 32, 48, 64}
    assert min(trial.training.learning_rate for trial in trials) < 3e-3
    assert len({trial.training.learning_rate for trial in trials}) == len(trials)
    # A trial outside the space has no such parameter.
    outside = trials[0].model_copy(update={"network": trials[0].network.model_copy(update={"width": 17})})
    assert "width" not in parameters_of(spec, outside)


def test_each_architecture_has_sizes_of_its_own_and_a_baseline_of_each_network() -> None:
    trials = grid_with(
        {
            "width": {"mlp": [64, 128], "convnet": [8]},
            "hidden_layers": {"mlp": 1, "convnet": [1, 2]},
            "aux_weight": [0, 1],
        },
        architecture=["mlp", "convnet"],
    )
    sizes = [
        (t.network.architecture, t.network.hidden_layers, t.network.width, t.self_model.aux_weight) for t in trials
    ]
    assert sizes == [
        *(("mlp", 1, width, weight) for width in (64, 128) for weight in (0, 1)),
        *(("convnet", layers, 8, weight) for layers in (1, 2) for weight in (0, 1)),
    ]
    assert [t.self_model.target_depths for t in trials if t.self_model.aux_weight] == [(1,), (1,), (2,), (3,)]


def test_the_search_chooses_an_architecture_and_then_its_sizes_and_one_of_its_layers() -> None:
    spec = spec_with(
        architecture=["mlp", "convnet"],
        space={
            "width": {"mlp": [32, 64], "convnet": {"low": 4, "high": 8}},
            "hidden_layers": [1, 2],
            "target_depth": "any",
            "aux_weight": {"low": 0.1, "high": 9},
        },
    )
    trials = random_trials(spec)
    widths = {name: {t.network.width for t in trials if t.network.architecture == name} for name in ("mlp", "convnet")}
    assert widths["mlp"] == {32, 64}
    assert widths["convnet"] <= {4, 5, 6, 7, 8}
    assert len(widths["convnet"]) > 2
    for trial in trials:
        names = set(parameters_of(spec, trial))
        assert ("width_of_mlp" in names) == (trial.network.architecture == "mlp")
        assert ("width_of_convnet" in names) == (trial.network.architecture == "convnet")
        assert ("target_depth" in names) == (trial.self_model.aux_weight > 0 and len(trial.layers) > 1)
    assert {t.self_model.target_depths for t in trials if t.network.architecture == "convnet"} > {(1,), (2,), (3,)}


def test_the_architecture_may_stand_in_the_space_or_beside_it_but_once() -> None:
    beside = spec_with(architecture=["mlp", "convnet"])
    assert spec_with(space={"architecture": ["mlp", "convnet"]}) == beside
    options = parse_options(["quickstart", "--design", "[]", "--space.architecture", "mlp,convnet"])
    assert options is not None
    assert options.spec.architectures == ("mlp", "convnet")
    with pytest.raises(StudyError, match=r"space.architecture: architecture is given too. Give it once"):
        spec_with(architecture="mlp", space={"architecture": "convnet"})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"width": {"mlpp": 3}}, r"space.width: there is no 'mlpp' here: .*a range \(low, .* Did you mean 'mlp'"),
        (
            {"width": {"convnet": 8}},
            r"space.width: has values for 'convnet', which the study does not have",
        ),
        ({"learning_rate": {"low": 0, "high": 1}}, r"space.learning_rate.low: should be greater than 0, got 0"),
        ({"learning_rate": {"low": 1, "high": 2, "log": True, "step": 0.1}}, r"a logarithmic range has no step"),
        (
            {"width": {"low": 1, "high": 9, "step": 9}},
            r"space.width: step \(9\) must be above 0 and at most high − low",
        ),
        ({"head": {"low": 1, "high": 2}}, r"space.head: its values are no numbers, so it has no range. Give a list"),
        ({"kernel_size": [3, 5]}, r"space.kernel_size: makes no difference to mlp. Leave it out"),
        ({"architecture": "convnet", "kernel_size": {"low": 1, "high": 7}}, r"space.kernel_size: must be odd.* got 2"),
        ({"target_depth": {"low": 1, "high": 2}}, r"space.target_depth: its values are no numbers, so it has no range"),
        ({"learning_rate": {"low": 0.1, "high": 0.2, "step": 1e-300}}, r"makes more than 1,000,000,000 steps"),
        ({"width": True}, r"space.width: should be a number, got True"),
        ({"width": {"mlp": {"mlp": 8}}}, r"space.width.mlp: values by architecture or task stand here already"),
        ({"lerning_rate": [1, 2]}, r"space.lerning_rate: no such field .*did you mean 'space.learning_rate'"),
        ({"rlct_draw": [1, 2]}, r"did you mean 'space.rlct_draws'"),
        ({"epochs": [0, 5]}, r"space.epochs\[0\]: should be greater than or equal to 1, got 0"),
        ({"optimizer": ["sgd", "adamw"]}, r"space.optimizer\[1\]: .*'sgd' or 'adam', got 'adamw'"),
        ({"width": 8, "network.width": 9}, r"width is given twice, under its short and its long name"),
        ({"validation_fraction": [0, 0.2]}, r"val_accuracy needs a validation split"),
        ({"target_form": ["raw", "sign"], "detach_targets": [True, False]}, r"a sign has no gradient"),
        ({"rlct_draws": [8, 100], "rlct_burn_in_fraction": [0.1, 0.9]}, r"leaves 1, and the diagnostics need"),
    ],
    ids=str,
)
def test_a_wrong_dimension_is_one_clear_error(space: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        spec_with(space=space)
    assert len(str(caught.value).splitlines()) == 2


def test_values_that_an_architecture_lacks_are_asked_for() -> None:
    with pytest.raises(StudyError, match=r"space.width: has no values for 'convnet'. Add them"):
        spec_with(architecture=["mlp", "convnet"], space={"width": {"mlp": [8, 16]}})


def test_a_field_that_the_space_varies_stands_in_no_section() -> None:
    with pytest.raises(StudyError, match=r"space.learning_rate: training.learning_rate is given too. Give it once"):
        spec_with(space={"learning_rate": [0.1, 0.2]}, training={"learning_rate": 0.1})
    spec = spec_with(space={"learning_rate": [0.1, 0.2], "rlct_draws": 50}, training={"epochs": 3})
    written = spec.model_dump(mode="json")
    assert "learning_rate" not in written["training"]
    assert "draws" not in written["rlct"]
    assert build_spec(written, "again") == spec
    assert "learning_rate" not in spec.protocol("digits")["training"]
    assert spec.protocol("digits")["rlct"]["draws"] == 50


def test_the_command_line_moves_a_field_from_a_section_into_the_space_and_back() -> None:
    searched = parse_options(["mnist", "--space.epochs", "5,10"])
    assert searched is not None
    assert {trial.training.epochs for trial in searched.spec.listed()} == {5, 10}
    assert "rlct_step_size" not in searched.spec.space.names
    fixed = parse_options(["controls", "--space.rlct_step_size", "0.00001"])
    assert fixed is not None
    assert {trial.rlct.step_size for trial in fixed.spec.listed()} == {1e-5}


def test_a_design_block_sets_any_field() -> None:
    blocks = [{"aux_weight": [0, 1], "learning_rate": [0.01, 0.02]}, {"architecture": "convnet", "aux_weight": 0}]
    spec = spec_with(
        sampler="design",
        trials=None,
        architecture=["mlp", "convnet"],
        design=[
            {"architecture": "mlp", **blocks[0]},
            blocks[1] | {"learning_rate": 0.03},
        ],
    )
    found = [(t.network.architecture, t.training.learning_rate, t.self_model.aux_weight) for t in spec.listed()]
    assert sorted(found) == sorted(
        [*(("mlp", rate, weight) for rate in (0.01, 0.02) for weight in (0, 1)), ("convnet", 0.03, 0)]
    )


def test_a_field_without_effect_makes_no_other_trial() -> None:
    assert len(grid_with({"aux_weight": 0, "optimizer": ["sgd", "adam"], "momentum": [0.5, 0.9]})) == 3
    assert len(grid_with({"aux_weight": 0, "observer_epochs": [0, 1], "observer_width": [8, 16]})) == 3
    assert len(grid_with({"aux_weight": [0, 1], "head": ["widened", "separate"]})) == 3
    configs = grid_with({"aux_weight": 0, "hidden_layers": [0, 1], "width": [8, 16]}, task="cifar10")
    assert [(c.network.hidden_layers, c.network.width) for c in configs] == [(0, 64), (1, 8), (1, 16)]


numbers = st.floats(0.001, 0.5) | st.lists(st.floats(0.001, 0.5), min_size=1, max_size=3, unique=True)


@settings(max_examples=40, deadline=None)
@given(
    space=st.fixed_dictionaries(
        {},
        optional={
            "learning_rate": numbers,
            "momentum": numbers,
            "epochs": st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
            "optimizer": st.lists(st.sampled_from(["sgd", "adam"]), min_size=1, unique=True),
            "rlct_nbeta": st.lists(st.sampled_from(["batch", "dataset", 3.0]), min_size=1, unique=True),
            "until_loss": st.lists(st.sampled_from([None, 0.1, 0.5]), min_size=1, unique=True),
        },
    ),
    names=st.booleans(),
)
def test_a_grid_is_the_product_of_its_lists_and_survives_being_written(space: dict[str, Any], names: bool) -> None:
    given = {FIELDS[name].path if names else name: value for name, value in space.items()}
    spec = spec_with(sampler="grid", trials=None, space=given | {"aux_weight": 0})
    trials = list(spec.listed())
    sizes = {name: len(value) if isinstance(value, list) else 1 for name, value in space.items()}
    others = (
        sizes.get("learning_rate", 1) * sizes.get("epochs", 1) * sizes.get("rlct_nbeta", 1) * sizes.get("until_loss", 1)
    )
    optimizers = space.get("optimizer", ["sgd"])
    # Adam has no momentum.
    assert len(trials) == others * (("sgd" in optimizers) * sizes.get("momentum", 1) + ("adam" in optimizers))
    assert list(build_spec(spec.model_dump(mode="json"), "again").listed()) == trials
    for trial in trials:
        assert TrialConfig.from_flat({name: str(value) for name, value in trial.flat().items()}) == trial


def test_every_field_of_a_trial_has_one_path() -> None:
    assert set(PATHS.values()) == set(FIELDS)
    assert set(OTHER_VALUES) | {"task", "target_depth"} >= set(FIELDS) - {
        name for name, field in FIELDS.items() if field.role == "network"
    }


def test_equal_trials_have_one_key_however_they_were_made() -> None:
    unused = {"optimizer": "adam", "momentum": 0.5, "learning_rate": 0.001}
    direct = TrialConfig.from_recipe("digits", training=unused, observer={"epochs": 0, "width": 7})
    (listed,) = grid_with({"aux_weight": 0, "width": 64}, training=unused, observer={"epochs": 0, "width": 9})
    assert direct.key("data") == listed.key("data")
    assert direct.key("data") != TrialConfig.from_recipe("digits", training=unused).key("data")


def test_a_single_value_in_the_space_is_a_setting_of_all_trials_and_cannot_change() -> None:
    fixed, other = (spec_with(space={"epochs": epochs}) for epochs in (3, 4))
    assert fixed.protocol("digits")["training"]["epochs"] == 3
    assert fixed.protocol("digits") == spec_with(training={"epochs": 3}).protocol("digits")
    assert fixed.protocol("digits") != other.protocol("digits")
    assert "epochs" not in spec_with(space={"epochs": [3, 4]}).protocol("digits")["training"]


@pytest.mark.parametrize(
    "fields",
    [
        {"space": {"width": {"low": 1, "high": 65536}, "hidden_layers": {"low": 1, "high": 64}}},
        {
            "task": "imdb",
            "architecture": "transformer",
            "space": {
                "width": {"low": 16, "high": 256, "step": 16},
                "attention_head_units": [8, 16],
                "expansion": {"low": 1, "high": 16},
                "context_length": {"low": 1, "high": 65536},
                "hidden_layers": {"low": 1, "high": 12},
            },
        },
    ],
    ids=["mlp", "transformer"],
)
def test_a_space_of_millions_of_networks_is_checked_by_some_thousands(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counted(values: dict[str, Any]) -> NetworkConfig:
        made.append(values)
        return network_of(values)

    monkeypatch.setattr("study.spec.networks.network_of", counted)
    spec_with(**fields)
    assert 100 < len(made) < 10_000


@pytest.mark.parametrize(
    ("space", "others", "reason"),
    [
        (
            {"normalization": ["none", "batch"]},
            {"rlct": {"with_balanced": True}},
            "rlct.with_balanced: a mlp with relu",
        ),
        ({"activation": ["relu", "tanh"]}, {"rlct": {"with_balanced": True}}, "rlct.with_balanced: a mlp with tanh"),
        (
            {"hidden_layers": {"low": 1, "high": 3}, "head": "separate", "predict_from": [0, 1]},
            {},
            "predict_from 1: needs a layer before the one that the head reads; the network has the layers 1 hidden1",
        ),
        (
            {"hidden_layers": [2, 3], "head": "separate", "predict_from": {"low": 0, "high": 2}},
            {},
            "predict_from 2: needs a layer before",
        ),
    ],
)
def test_a_search_that_could_choose_what_no_trial_can_have_is_refused(
    space: dict[str, Any], others: dict[str, Any], reason: str
) -> None:
    weights = {"width": 8, "aux_weight": {"low": 0.1, "high": 10, "log": True}, "target_depth": "last"}
    with pytest.raises(StudyError, match=reason):
        spec_with(sampler="random", trials=5, design=[], space={"hidden_layers": 1} | weights | space, **others)
