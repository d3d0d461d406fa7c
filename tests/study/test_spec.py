import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.errors import StudyError
from study.spec import StudySpec, build_spec, named_studies, read_study
from study.spec.yaml_text import read_yaml
from trainables.tasks import TASKS
from trainables.trial import TrialConfig


def spec_with(**changes: Any) -> StudySpec:
    raw: dict[str, Any] = {"name": "test", "task": "digits", "trials": 5}
    return build_spec(raw | changes, "test")


def grid_with(space: dict[str, Any], **changes: Any) -> StudySpec:
    return spec_with(sampler="grid", trials=None, space=space, **changes)


def design_of(*blocks: dict[str, Any], **changes: Any) -> StudySpec:
    return spec_with(sampler="design", trials=None, design=list(blocks), **changes)


def configs_of(spec: StudySpec) -> list[TrialConfig]:
    """The trials that the study lists."""
    return list(spec.listed())


def by_depth(depths: tuple[int, ...]) -> str:
    return "+".join(map(str, depths))


@pytest.mark.parametrize("name", named_studies())
def test_every_named_study_is_valid_and_states_its_question(name: str) -> None:
    spec = build_spec(read_study(name), name)
    assert spec.name == name
    assert "?" in spec.question
    assert list(spec.listed()) or spec.trials


def test_quickstart_is_what_the_readme_promises() -> None:
    spec = build_spec(read_study("quickstart"), "quickstart")
    assert spec.task == "digits"
    assert spec.trials is not None
    assert spec.trials >= 24
    assert spec.replicates == 5
    assert spec.objectives == {"val_accuracy": "maximize", "weight_std": "minimize", "rlct": "minimize"}
    assert 0.0 in {config.self_model.aux_weight for config in spec.listed()}


def test_mnist_is_the_published_recipe() -> None:
    spec = build_spec(read_study("mnist"), "mnist")
    assert spec.training.model_dump() == {
        "optimizer": "sgd",
        "learning_rate": 0.005,
        "momentum": 0.9,
        "nesterov": True,
        "batch_size": 512,
        "epochs": 50,
        "shuffle": "once",
        "augment": False,
        "until_loss": None,
        "validation_fraction": 0.0,
        "train_samples": None,
        "label_noise": 0.0,
    }
    assert (spec.rlct.step_size, spec.rlct.localization, spec.rlct.chains, spec.rlct.draws) == (1e-4, 100, 4, 1000)
    assert (spec.rlct.nbeta, spec.rlct.batch_size) == ("batch", 512)
    assert spec.replicates == 10
    trials = list(spec.listed())
    assert {trial.network.width for trial in trials} == {64, 128, 256, 512}
    assert {trial.self_model.aux_weight for trial in trials} == {0, 1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 100}


@pytest.mark.parametrize("task", TASKS)
def test_fields_that_are_left_out_are_the_tasks_recipe(task: str) -> None:
    spec = spec_with(task=task, training={"epochs": 3})
    recipe = TASKS[task].recipe
    assert spec.training == recipe.training.model_copy(update={"epochs": 3})
    assert spec.rlct == recipe.rlct


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lerning_rate": 1}, r"lerning_rate: no such field .*did you mean 'training.learning_rate'\?"),
        ({"learning_rate": 1}, r"did you mean 'training.learning_rate'\?"),
        ({"task": "mnits"}, r"task 'mnits' is unknown: did you mean 'mnist'\?"),
        ({"architecture": "cnn"}, r"architecture 'cnn' is unknown: .*the architectures are .*mlp"),
        ({"architecture": "mlpp"}, r"architecture 'mlpp' is unknown: did you mean 'mlp'\?"),
        ({"replicates": 0}, r"replicates: should be greater than or equal to 1, got 0"),
        ({"training": {"learning_rate": -1}}, r"training.learning_rate: should be greater than 0, got -1"),
        ({"space": {"width": "wide"}}, r"space.width: .*got 'wide'"),
        ({"space": {"width": {"low": 9, "high": 3}}}, r"space.width: low \(9\) must be below high \(3\)"),
        ({"space": {"target_depth": 4}}, r"no network of the study has 4; the deepest has the layers 1 hidden1$"),
        ({"space": {"target_depth": "hidden2"}}, r"no network of the study has 'hidden2'; .* the layers 1 hidden1$"),
        ({"space": {"target_depth": "1+all"}}, r"space.target_depth: not a target"),
        ({"space": {"target_depth": 0}}, r"space.target_depth: not a target"),
        ({"space": {"target_depth": "the last"}}, r"space.target_depth: not a target"),
        ({"space": {"hidden_layers": [1, 3], "target_depth": 2}}, r"may choose 1 hidden layer.*Raise the lower end"),
        ({"space": {"aux_weight": [1, 1]}}, r"the choices must differ"),
        ({"space": {"aux_weight": [-1]}}, r"space.aux_weight\[0\]: should be greater than or equal to 0"),
        ({"objectives": {"test_accuracy": "maximize"}}, r"objectives.test_accuracy"),
        ({"objectives": {"weight_std_hidden2": "minimize"}}, r"no such measure; did you mean 'weight_std_hidden1'\?"),
        ({"objectives": {"weight_std_": "minimize"}}, r"no such measure; did you mean 'weight_std'\?"),
        ({"training": {"validation_fraction": 0}}, r"val_accuracy needs a validation split"),
        ({"trials": None}, r"sampler 'tpe' needs a number of trials"),
        ({"sampler": "grid"}, r"trials: sampler 'grid' runs all listed points; leave trials out"),
        ({"sampler": "design"}, r"design: sampler 'design' runs the design points, and none are listed"),
        ({"sampler": "design", "design": [{"aux_weight": 0}]}, r"'design' runs all listed points; leave trials out"),
        ({"space": {"hidden_layers": {"low": 0, "high": 3, "log": True}}}, r"a logarithmic range begins at 1"),
        ({"space": {"hidden_layers": 100}}, r"space.hidden_layers: .*got 100"),
        ({"task": "imdb", "training": {"augment": True}}, r"training.augment: task 'imdb' has no augmentation"),
        ({"objectives": {"observer_r2": "maximize"}, "observer": {"epochs": 0}}, r"observer_r2 needs an observer"),
        ({"space": {"control": "dropuot"}}, r"control 'dropuot' is unknown: did you mean 'dropout'\?"),
        ({"space": {"head": "seperate"}}, r"space.head: .*got 'seperate'"),
        ({"detach_targets": False}, r"detach_targets: no such field .*did you mean 'space.detach_targets'\?"),
        ({"observer": {"epochs": -1}}, r"observer.epochs: should be greater than or equal to 0, got -1"),
        ({"sampler": "grid", "trials": None, "space": {"width": {"low": 3, "high": 9}}}, r"a grid needs values"),
        ({"design": [{"aux_weight": 3}]}, r"design\[0\].aux_weight: 3.0 lies outside space.aux_weight"),
        ({"space": {"width": [8, 9]}, "design": [{"aux_weight": 0}]}, r"design\[0\].width: missing"),
        ({"design": [{"aux_weight": [0, 1, 5, 10, 20, 50]}]}, r"trials: 5 is less than the 6 design points"),
        ({"trials": 7}, r"trials: 7 is more than the 6 different trials of the space. Lower it"),
        ({"space": {"width": [16, "x"]}}, r"space.width\[1\]: .*got 'x'"),
        ({"rlct": {"chains": 1}}, r"rlct.chains: should be greater than or equal to 2"),
        ({"name": "a/b"}, r"name: .*got 'a/b'"),
    ],
    ids=str,
)
def test_bad_input_is_one_clear_error_naming_field_value_and_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        spec_with(**changes)
    # The heading, and one line for the one wrong field.
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"design": [{"widht": 8}]},
            r"design\[0\].widht: no such field \(value 8\); did you mean 'design\[0\].width'\?",
        ),
        ({"design": [{}, {"training.epoch": 8}]}, r"did you mean 'design\[1\].training.epochs'\?"),
        ({"design": [{"draws": 8}]}, r"did you mean 'design\[0\].rlct_draws'\?"),
        ({"design": [{"replicates": 8}]}, r"design\[0\].replicates: .*did you mean 'replicates'\?"),
        (
            {"design": [{"width": {"low": 1, "high": 3}}]},
            r"design\[0\].width: takes a value or a list of values, and no",
        ),
        ({"space": {"training": {"epochs": 3}}}, r"its fields stand here one by one, such as training.optimizer"),
        (
            {"space": {"width": {"lo": 1, "hi": 3}}},
            r"space.width: there is no 'lo' and 'hi' here: a mapping has the parts of a range "
            r"\(low, high, log, step\), or values by architecture or task. Did you mean 'low' and 'high'\?",
        ),
        (
            {"space": {"width": {"low": 1, "hi": 3}}},
            r"space.width.hi: .*mean 'space.width.high'\? a range here has low,",
        ),
        ({"space": {"width": {"mlp": {"low": 1, "hi": 3}}}}, r"space.width.mlp.hi: .*mean 'space.width.mlp.high'\?"),
        ({"space": {"width": {"mpl": [64]}}}, r"there is no 'mpl' here: .* Did you mean 'mlp'\?"),
        ({"space": {"optimizer": {"lo": 1}}}, r"there is no 'lo' here: a mapping has values by architecture or task$"),
        (
            {"space": {"width": {}}},
            r"space.width: it is empty: a mapping has the parts of a range \(low, high, log, step\)",
        ),
        ({"space": {"architecture": ["mlp", "convent"]}}, r"space.architecture\[1\]: .*did you mean 'convnet'\?"),
        (
            {"space": {"training.epochs": [0, 1]}},
            r"space.training.epochs\[0\]: should be greater than or equal to 1, got 0",
        ),
        ({"training": {"width": 8}}, r"training.width: no such field .*did you mean 'space.width'\?"),
        (
            {"training": {"nonsense": 8}},
            r"training.nonsense: no such field .*the fields here are optimizer, learning_rate",
        ),
        ({"widht": 8}, r"widht: no such field .*did you mean 'space.width'\?"),
        ({"training.epochs": 8}, r"training.epochs: no such field .*write it as training: \{epochs: …\}"),
        (
            {"space": {"aux_weight": {"low": 0, "high": 5}}},
            r"space.aux_weight.low: must be above 0, such as 0.1: weight 0, the baseline, is searched beside the range "
            r"with baseline: true, as it is by default, got 0",
        ),
        (
            {"space": {"aux_weight": {"low": 1, "high": 5, "step": 1}}},
            r"has no step. Leave step out, or set log: false",
        ),
        ({"space": [1]}, r"space: should be a mapping, got \[1\]"),
    ],
    ids=str,
)
def test_a_misspelt_or_misplaced_field_is_one_error_that_says_what_belongs_there(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        spec_with(**changes)
    assert len(str(caught.value).splitlines()) == 2


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(StudyError) as caught:
        spec_with(replicates=0, seed=-1, training={"epochs": 0})
    for field in ("replicates", "seed", "training.epochs"):
        assert f"  {field}: " in str(caught.value)


def test_a_grid_is_every_point_that_a_network_has_with_one_baseline_per_network() -> None:
    space = {"hidden_layers": [1, 2], "width": [8, 16], "aux_weight": [0, 1], "target_depth": [1, 2, "last"]}
    spec = spec_with(sampler="grid", trials=None, space=space)
    configs = list(spec.listed())
    # Per width: one layer: baseline and target 1 ("last" is the same); two layers: baseline and targets 1, 2.
    assert len(configs) == 2 * (2 + 3)
    assert len({config.key("data") for config in configs}) == len(configs)


@given(
    layers=st.integers(1, 4),
    target=st.one_of(
        st.integers(1, 4), st.sampled_from(["last", "all", "1+2", "2+1", "3+1+3", "hidden2", "hidden3+1", "hidden4+4"])
    ),
)
def test_a_target_is_a_set_of_layers_of_the_network_or_the_point_does_not_exist(layers: int, target: int | str) -> None:
    space = {"hidden_layers": layers, "aux_weight": 1.0, "target_depth": target}
    numbers = {int(digit) for digit in str(target) if digit.isdigit()}
    try:
        spec = spec_with(space=space, trials=1)
    except StudyError as error:
        assert "no network of the study has" in str(error)  # noqa: PT017
        assert max(numbers) > layers
        return
    trials = spec.all_trials()
    assert trials is not None
    (config,) = trials
    expected = {"last": {layers}, "all": set(range(1, layers + 1))}.get(str(target), numbers)
    assert config.self_model.target_depths == tuple(sorted(expected))


@pytest.mark.parametrize(
    ("task", "architecture", "space", "target", "depths"),
    [
        ("digits", "mlp", {"hidden_layers": 3}, "hidden2", (2,)),
        ("digits", "mlp", {"hidden_layers": 3}, "hidden3+hidden1", (1, 3)),
        ("digits", "convnet", {"hidden_layers": 2}, "conv2+dense", (2, 3)),
        ("digits", "convnet", {"hidden_layers": 2}, "last", (3,)),
        ("cifar10", "resnet18", {"hidden_layers": 1}, "block8+hidden1", (9, 10)),
        ("cifar10", "resnet18", {"hidden_layers": 0}, "last", (9,)),
        ("imdb", "embedding_bag", {"hidden_layers": 1}, "embedding", (1,)),
        ("imdb", "transformer", {"hidden_layers": 2, "width": 16}, "all", (1, 2)),
    ],
)
def test_a_layers_name_is_its_depth(
    task: str, architecture: str, space: dict[str, Any], target: str, depths: tuple[int, ...]
) -> None:
    grid = space | {"target_depth": target, "aux_weight": 1.0}
    (config,) = configs_of(grid_with(grid, task=task, architecture=architecture))
    assert config.self_model.target_depths == depths
    # The same trial under another name.
    (same,) = configs_of(grid_with(grid | {"target_depth": by_depth(depths)}, task=task, architecture=architecture))
    assert same == config


def test_an_unknown_layer_is_refused_with_the_layers_that_there_are() -> None:
    with pytest.raises(StudyError, match=r"'block9'.* the layers 1 stem, 2 block1, .*9 block8, 10 hidden1$"):
        grid_with({"target_depth": ["block8", "block9"]}, task="cifar10")
    blocks = [{"hidden_layers": layers, "aux_weight": 1, "target_depth": "hidden2"} for layers in (2, 1)]
    with pytest.raises(StudyError, match=r"design\[1\].target_depth: .*no 'hidden2'; it has the layers 1 hidden1$"):
        design_of(*blocks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "embedding_bag"}, r"'embedding_bag' reads text alone .* also mlp, convnet, resnet18\)"),
        ({"task": "imdb", "architecture": "mlp"}, r"'mlp' does not read text .* also embedding_bag, transformer\)"),
        ({"space": {"hidden_layers": 0}}, r"'mlp' needs hidden_layers 1 or more .* also convnet, resnet18\)"),
        ({"architecture": "convnet", "space": {"hidden_layers": [1, 4]}}, r"8×8 pixels allow 3 times"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "sampling", [{"sampler": "grid", "trials": None}, {"sampler": "random"}], ids=["grid", "random"]
)
def test_a_network_that_does_not_take_the_inputs_is_refused_with_those_that_do(
    changes: dict[str, Any], message: str, sampling: dict[str, Any]
) -> None:
    with pytest.raises(StudyError, match=message):
        spec_with(**changes, **sampling)


@pytest.mark.parametrize(
    ("task", "architecture", "hidden_layers", "width", "depths"),
    [
        ("mnist", "mlp", 1, 64, (1,)),
        ("cifar10", "resnet18", 1, 2000, (9, 10)),
        ("imdb", "embedding_bag", 1, 128, (2,)),
    ],
)
def test_a_study_that_names_its_task_alone_has_the_published_network_and_targets(
    task: str, architecture: str, hidden_layers: int, width: int, depths: tuple[int, ...]
) -> None:
    baseline, *others = configs_of(grid_with({"aux_weight": [0, 1, 5]}, task=task))
    assert baseline.self_model.target_depths == ()
    assert [config.self_model.target_depths for config in others] == [depths] * 2
    for config in (baseline, *others):
        network = config.network
        assert (network.architecture, network.hidden_layers, network.width) == (architecture, hidden_layers, width)


def test_the_published_sizes_are_those_of_the_published_architecture_alone() -> None:
    (config,) = configs_of(grid_with({"aux_weight": 1.0}, task="cifar10", architecture="convnet"))
    assert (config.network.hidden_layers, config.network.width) == (1, 64)
    assert config.self_model.target_depths == (2,)


def test_a_network_may_have_no_hidden_layer_where_its_architecture_has_others() -> None:
    configs = configs_of(grid_with({"hidden_layers": [0, 1], "aux_weight": [0, 1]}, task="cifar10"))
    assert [(c.network.hidden_layers, c.self_model.target_depths) for c in configs] == [
        (0, ()),
        (1, ()),
        (1, (9, 10)),
    ]


def test_a_validation_split_smaller_than_the_classes_is_refused() -> None:
    with pytest.raises(StudyError, match="fewer than the 10 classes"):
        spec_with(training={"validation_fraction": 0.001}).check_against(TASKS["digits"].shape)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (9, r"train_samples: 9 of the 1150 training samples of digits cannot be drawn by class"),
        (1141, r"train_samples: 1141 of the 1150 .* that takes, and leaves out, at least 10"),
        (1150, r"train_samples: 1150 of the 1150 .* leave it out for all"),
    ],
)
def test_a_part_of_the_data_that_cannot_be_stratified_is_refused(samples: int, message: str) -> None:
    for possible in (200, 1140):
        spec_with(training={"train_samples": possible}).check_against(TASKS["digits"].shape)
    with pytest.raises(StudyError, match=message):
        spec_with(training={"train_samples": samples}).check_against(TASKS["digits"].shape)


def test_noise_that_changes_no_label_is_refused() -> None:
    with pytest.raises(StudyError, match=r"training.label_noise: 0.0004 of 1150 training samples changes no label"):
        spec_with(training={"label_noise": 0.0004}).check_against(TASKS["digits"].shape)


def test_a_sampler_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(StudyError, match=r"rlct.batch_size: 5000 is more than the 1150"):
        spec_with(rlct={"batch_size": 5000}).check_against(TASKS["digits"].shape)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"architecture": "resnet18"}, "resnet18 normalises"),
        ({"space": {"control": ["none", "shuffled_targets"]}}, "'shuffled_targets' takes its targets from the rest"),
        ({"space": {"target_form": "standardized"}}, "'standardized' is over the batch"),
        ({"space": {"normalization": ["none", "batch"]}}, "normalization 'batch' is over the batch"),
    ],
)
def test_a_batch_of_one_sample_is_refused_where_samples_of_a_batch_are_compared(
    fields: dict[str, Any], reason: str
) -> None:
    # 1,150 digits to train on: three batches of 383 and one sample, or two of 384 and 382.
    one_left, many_left = {"batch_size": 383}, {"batch_size": 384}
    shape = TASKS["digits"].shape
    spec_with(training=one_left).check_against(shape)
    spec_with(training=many_left, **fields).check_against(shape)
    with pytest.raises(StudyError, match=f"training.batch_size: 383 cuts the 1150 .* one sample alone.*{reason}"):
        spec_with(training=one_left, **fields).check_against(shape)


def test_a_yaml_file_works_in_place_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("task: digits\ntrials: 3\nspace: {width: [8, 16]}\n")
    spec = build_spec(read_study(str(path)), str(path))
    assert (spec.name, spec.trials, spec.space.width) == ("mine", 3, [8, 16])


@pytest.mark.parametrize(
    ("content", "message"), [("- a list", "must be a mapping"), ("a: [", "not valid YAML"), (None, "cannot be read")]
)
def test_a_file_that_is_no_study_is_refused_by_name(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StudyError, match=message) as caught:
        read_study(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_study_is_refused_with_the_known_ones() -> None:
    with pytest.raises(StudyError, match=r"'quikstart' is unknown. Did you mean 'quickstart'\?.*mnist"):
        read_study("quikstart")


def test_the_study_files_in_the_guide_are_valid() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    files = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    assert files
    for file in files:
        spec = build_spec(read_yaml(file, "guide"), "guide")
        assert list(spec.listed())
