import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from study.commands.help import SECTIONS
from study.commands.options import Options, parse_options
from study.errors import StudyError
from study.spec import StudySpec
from study.spec.explain import field_paths
from study.spec.ranges import Range, WeightRange
from study.spec.stopping import StoppingConfig
from trainables.fields import FIELDS


def parse(*arguments: str) -> Options:
    options = parse_options(list(arguments))
    assert options is not None
    return options


def test_without_arguments_it_is_the_quickstart_in_runs() -> None:
    options = parse()
    assert options.spec.name == "quickstart"
    assert options.stores.root == Path("runs").resolve()


def test_any_field_can_be_set_and_the_rest_stays_as_the_study_has_it() -> None:
    spec = parse("mnist", "--replicates", "3", "--training.epochs", "7", "--space.width", "64", "--name", "mine").spec
    assert (spec.name, spec.replicates, spec.training.epochs, spec.space.width) == ("mine", 3, 7, 64)
    assert spec.training.shuffle == "once"
    assert spec.space.aux_weight == [0, 1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 100]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--space.aux_weight", "[0, 1]"], [0, 1]),
        (["--space.aux_weight", "0,1"], [0, 1]),
        (["--space.aux_weight", "0"], 0),
        (
            ["--space.aux_weight", '{"low": 1, "high": 9}'],
            {"low": 1, "high": 9, "log": True, "step": None, "baseline": True},
        ),
    ],
)
def test_a_dimension_is_a_value_a_list_or_a_range(arguments: list[str], expected: object) -> None:
    spec = parse("quickstart", "--design", "[]", "--trials", "5", *arguments).spec
    assert spec.model_dump()["space"]["aux_weight"] == expected


def test_words_lists_and_none_reach_the_spec() -> None:
    spec = parse(
        "--design",
        "[]",
        "--trials",
        "None",
        "--sampler",
        "grid",
        "--space.hidden_layers",
        "2,3",
        "--space.width",
        "8",
        "--space.aux_weight",
        "0,1",
        "--space.target_depth",
        "1+2,last",
        "--objectives",
        "rlct=minimize",
        "--training.nesterov",
        "false",
        "--rlct.nbeta",
        "dataset",
    ).spec
    assert spec.space.target_depth == ["1+2", "last"]
    assert spec.objectives == {"rlct": "minimize"}
    assert spec.training.nesterov is False
    assert spec.rlct.nbeta == "dataset"
    assert isinstance(parse().spec.space.hidden_layers, Range)


def test_controls_options_and_the_observer_reach_the_spec() -> None:
    spec = parse(
        "mnist",
        "--space.control",
        "none,dropout",
        "--space.aux_weight",
        "0,0.5",
        "--observer.epochs",
        "2",
        "--space.detach_targets",
        "true,false",
        "--space.target_form",
        "standardized",
        "--space.head",
        "separate,widened",
        "--space.unit_weighting",
        "sum",
    ).spec
    assert spec.space.control == ["none", "dropout"]
    assert spec.space.detach_targets == [True, False]
    assert (spec.space.target_form, spec.space.unit_weighting) == ("standardized", "sum")
    assert spec.space.head == ["separate", "widened"]
    assert spec.observer.epochs == 2


def test_a_design_alone_can_be_given_on_the_command_line() -> None:
    blocks = '[{"control": "dropout", "aux_weight": [0.1, 0.5]}, {"aux_weight": 1, "target_depth": "hidden1"}]'
    arguments = ["mnist", "--sampler", "design", "--space.width", "8", "--space.aux_weight", "0", "--design", blocks]
    models = [trial.self_model for trial in parse(*arguments).spec.listed()]
    assert [(model.control, model.aux_weight, model.target_depths) for model in models] == [
        ("dropout", 0.1, ()),
        ("dropout", 0.5, ()),
        ("none", 1, (1,)),
    ]


POINT = {"hidden_layers": 1, "width": 64, "aux_weight": [0.0, 1.0], "target_depth": "last"}


@pytest.mark.parametrize(
    ("option", "yaml", "value"),
    [
        ("space", "{aux_weight: {low: 1, high: 10}, width: 16}", {"aux_weight": {"low": 1, "high": 10}, "width": 16}),
        ("space.width", "{low: 8, high: 64, step: 8}", {"low": 8, "high": 64, "step": 8}),
        ("space.target_depth", "[last, hidden1]", ["last", "hidden1"]),
        ("space.until_loss", "[null, 1e-2]", [None, 0.01]),
        (
            "design",
            "[{hidden_layers: 1, width: 64, aux_weight: [0, 1], target_depth: last}]",
            [POINT],
        ),
        ("task", "[digits, mnist]", ["digits", "mnist"]),
        ("architecture", "[mlp, convnet]", ["mlp", "convnet"]),
        ("sampler", "{name: tpe, n_startup_trials: 20}", {"name": "tpe", "n_startup_trials": 20}),
        ("objectives", "{rlct: minimize, weight_std: minimize}", {"rlct": "minimize", "weight_std": "minimize"}),
        ("training", "{epochs: 3, learning_rate: 1e-3}", {"epochs": 3, "learning_rate": 0.001}),
        ("rlct", "{nbeta: dataset}", {"nbeta": "dataset"}),
        ("observer", "{epochs: 0}", {"epochs": 0}),
    ],
)
def test_a_list_or_mapping_of_any_option_is_read_as_in_a_study_file_and_json_is_read_too(
    option: str, yaml: str, value: Any
) -> None:
    words = ["quickstart", "--trials", "5", *([] if option == "design" else ["--design", "[]"])]
    specs = [
        parse(*words, *given).spec
        for given in (
            [f"--{option}", yaml],
            [f"--{option}={yaml}"],
            [f"--{option}", f" {yaml} "],
            [f"--{option}", json.dumps(value)],
        )
    ]
    assert all(spec == specs[0] for spec in specs)
    written: Any = specs[0].model_dump(mode="json")
    for part in option.split("."):
        written = written[part]
    assert contains(written, value)


def contains(written: Any, value: Any) -> bool:
    """Whether a written field has the given parts; parts that were left out have their defaults."""
    if isinstance(value, dict):
        return all(contains(written[name], part) for name, part in value.items())
    return bool(written == value)


def test_a_block_of_the_design_may_stand_alone() -> None:
    block = "{hidden_layers: 1, width: 64, aux_weight: 0, target_depth: last}"
    assert parse("--design", block).spec == parse("--design", f"[{block}]").spec


def test_the_space_is_merged_whether_its_names_are_short_or_long(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("task: digits\nsampler: grid\nspace: {network.width: [8, 16], training.epochs: 2}\n")
    for words in (["--space", "{network.width: 4, epochs: 3}"], ["--space.width", "4", "--space.epochs", "3"]):
        space = parse(str(file), *words).spec.space
        assert (space.width, space.epochs) == (4, 3)
    assert parse(str(file), "--training", "{epochs: 4}").spec.training.epochs == 4


def test_the_data_folder_is_the_option_else_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELF_MODELING_DATA", raising=False)
    assert parse().data is None
    monkeypatch.setenv("SELF_MODELING_DATA", "/somewhere")
    assert parse().data == Path("/somewhere")
    assert parse("--data", "/elsewhere").data == Path("/elsewhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rate", "1"], r"unknown option --learning_rate; did you mean '--training.learning_rate'\?"),
        (["--replicate", "1"], r"unknown option --replicate; did you mean '--replicates'\?"),
        (["--replicates", "many"], r"replicates: .*got 'many'"),
        (["--concurrent", "0"], r"--concurrent: must be a whole number, 1 or more, got 0"),
        (["--concurrent", "many"], r"--concurrent: must be a whole number, 1 or more, got many"),
        (["--gpus-per-trial", "one"], r"--gpus-per-trial: must be a number, 0 or more, got one"),
        (["mnist", "extra"], r"unrecognized arguments: extra"),
        (["nowhere.yaml"], r"nowhere.yaml cannot be read"),
        (["--concurrent", "²"], r"--concurrent: must be a whole number, 1 or more, got ²"),
        (["--objectives", "rlct"], r"--objectives: its value cannot be read. Write it NAME=DIRECTION"),
        (["--space", "x"], r"--space: its value cannot be read"),
        (["--space", "3"], r"--space 3: is no mapping. Set a field of it: --space.FIELD VALUE"),
        (["--training", "[1]"], r"training: should be a mapping, got \[1\]"),
        (["--space.aux_weight", "[1,2"], r"--space.aux_weight '\[1,2': not valid YAML: did not find expected"),
        (["--space.aux_weight", "[" * 5000], r"lie more than 20 deep within each other"),
        (
            ["--space.aux_weight", "1," * 5000 + "1"],
            r"--space.aux_weight: its value has 10,001 characters. Put it into",
        ),
        (["--space.aux_weight", '{"low": 1, "low": 2}'], r"'low' is given twice. Remove one"),
        (["--replicates", "3", "--replicates", "4"], r"--replicates is given twice. Give it once"),
        (["--replicates=3", "--replicates", "4"], r"--replicates is given twice"),
        (["--space.width", "8", "--space.width", "9"], r"--space.width is given twice. .*with commas between"),
        (["--plan", "--plan"], r"--plan is given twice"),
        (["--design", "[{width: 8]"], r"--design '\[\{width: 8\]': not valid YAML: did not find expected ',' or '\}'"),
        (["--sampler", "{name: tpe"], r"--sampler '\{name: tpe': not valid YAML"),
        (["--objectives", "[rlct]"], r"objectives: should be a mapping, got \['rlct'\]"),
        (["--sampler", "[tpe]"], r"sampler: it must be a name, such as tpe, or a mapping, .* got \['tpe'\]"),
        (["--space", '{"width": 3}', "--space.width", "4"], r"--space and --space.width overlap"),
        (["--store", "~nouser/x"], r"--store: there is no home folder for '~nouser/x'"),
        (["--data", "~nouser/x"], r"--data: there is no home folder for '~nouser/x'"),
        (["--ray-storage", "~nouser/x"], r"--ray-storage ~nouser/x: there is no such user's folder"),
        (["--tracking-uri", "http://h:99999x"], r"--tracking-uri: not a URL, or its port is no number from 0 to 65535"),
        (["--tracking-uri", "http://h:99999"], r"--tracking-uri: not a URL, or its port is no number from 0 to 65535"),
        (["--tracking-uri", "http://[::1"], r"--tracking-uri: not a URL"),
        (["--optuna-storage", "postgresql://h:abc/x"], r"--optuna-storage: not a URL, or its port is no number"),
        (["--address", "h:abc"], r"--address 'h:abc': is no address of a Ray cluster"),
        (["--address", "ray://h:abc"], r"--address 'ray://h:abc': is no address of a Ray cluster"),
        (["", ""], r"unrecognized arguments"),
    ],
)
def test_a_wrong_command_line_is_one_clear_error(arguments: list[str], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse(*arguments)


def test_the_port_that_is_none_is_not_quoted_because_it_may_be_a_part_of_a_password() -> None:
    with pytest.raises(StudyError) as caught:
        parse("--tracking-uri", "http://user:sec/ret@host")
    assert "sec" not in str(caught.value)


def test_a_question_may_begin_with_a_bracket_and_an_option_follow_a_value() -> None:
    spec = parse("--question", "[draft] Is it so?", "--name", "x").spec
    assert (spec.question, spec.name) == ("[draft] Is it so?", "x")


def test_a_store_that_cannot_be_a_folder_is_refused_before_anything_is_planned(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for store, message in (
        (file, "file is a file. Name a folder"),
        (file / "below", "file is a file. Name a folder"),
        (tmp_path / ("x" * 300), "File name too long"),
        (loop, "--store"),
    ):
        with pytest.raises(StudyError, match=message):
            parse("--plan", "--store", str(store))
    assert parse("--plan", "--store", str(tmp_path / "new" / "folder")).stores.root == tmp_path / "new" / "folder"
    assert not (tmp_path / "new").exists()


def test_a_store_that_is_not_writable_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    for folder in tmp_path.parents:
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    root = os.getuid() == 0
    if root:
        # Root may write everywhere: be somebody else for a moment.
        os.setresuid(65534, 65534, 0)
    try:
        with pytest.raises(StudyError, match=r"is not writable. Make it writable, or name another folder"):
            parse("--plan", "--store", str(tmp_path / "runs"))
    finally:
        if root:
            os.setresuid(0, 0, 0)
        tmp_path.chmod(0o755)


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit):
        parse_options(list(arguments))
    return capsys.readouterr().out


def test_help_fits_a_screen_and_names_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(capsys, "--help").splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 110
    for section in SECTIONS:
        assert any(line.startswith(f"  {section} ") for line in lines)


@pytest.mark.parametrize(
    ("section", "options", "others"),
    [
        ("study", ["--replicates", "--objectives", "--plan"], ["--space.width", "--training.epochs", "--store"]),
        ("space", ["--space.width", "RANGE of aux_weight"], ["--replicates", "--training.epochs"]),
        ("training", ["--training.epochs", "(mnist: 50)"], ["--rlct.draws", "--replicates"]),
        ("rlct", ["--rlct.draws", "(mnist: 1000)"], ["--training.epochs"]),
        ("observer", ["--observer.epochs"], ["--training.epochs"]),
        ("budget", ["--budget.cpu_hours", "TYPE=PRICE"], ["--training.epochs", "--trials"]),
        ("where", ["--store", "--tracking-uri"], ["--address"]),
        ("how", ["--runner", "--address", "--gpus-per-trial"], ["--store"]),
        ("values", ["LIST", "RANGE of aux_weight"], ["--store", "--replicates"]),
    ],
)
def test_help_of_a_section_shows_its_options_and_no_others(
    section: str, options: list[str], others: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(capsys, "mnist", "--help", section)
    assert all(option in text for option in options)
    assert not any(f"  {option} " in text for option in others)


def test_help_may_stand_on_either_side_of_the_study_and_take_its_section_with_an_equals_sign(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert help_of(capsys, "--help", "mnist") == help_of(capsys, "mnist", "--help") == help_of(capsys, "-h")
    assert help_of(capsys, "mnist", "--help=space") == help_of(capsys, "mnist", "--help", "space")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help", "trainig"], "--help trainig: no such section; did you mean 'training'"),
        (["--help", "minst"], "--help minst: no such section; did you mean 'mnist'"),
        (["minst", "--help"], "study 'minst' is unknown"),
    ],
)
def test_help_on_something_unknown_is_one_clear_error(arguments: list[str], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse(*arguments)


def test_early_stopping_is_given_field_by_field_or_whole_and_taken_out_with_none(tmp_path: Path) -> None:
    study = tmp_path / "search.yaml"
    given = {"task": "digits", "trials": 9, "stopping": {"rule": "dominated", "from_epoch": 4}}
    study.write_text(str(given | {"space": {"aux_weight": {"low": 0.1, "high": 9}}}))

    def stopping(*arguments: str) -> StoppingConfig | None:
        return parse(str(study), *arguments).spec.stopping

    assert stopping() == StoppingConfig(rule="dominated", from_epoch=4)
    assert stopping("--stopping.z", "3") == StoppingConfig(rule="dominated", from_epoch=4, z=3)
    assert stopping("--stopping", "{z: 3, from_epoch: 5}") == StoppingConfig(rule="dominated", from_epoch=5, z=3)
    assert stopping("--stopping", "None") is None
    with pytest.raises(StudyError, match="stopping: p_threshold is the threshold of the rule 'wilcoxon'"):
        stopping("--stopping.p_threshold", "0.2")


def test_all_help_documents_every_field_with_its_value_in_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "mnist", "--help-all")
    sections = ("space", "training", "rlct", "observer", "budget", "stopping")
    for path in field_paths(StudySpec):
        if path not in sections and not path.startswith(("design.", "space.", "sampler.")):
            assert f"--{path} " in text, path
    for name in FIELDS:
        assert name == "task" or f"--space.{name} " in text
    flowing = " ".join(text.split())
    for model in (Range, WeightRange):
        for name, field in model.model_fields.items():
            assert f"{name} {field.description}" in flowing
    assert "(mnist: 512)" in flowing
    assert "(mnist: [64, 128, 256, 512])" in flowing
    assert "required" not in text
