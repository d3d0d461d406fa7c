"""Commands used before a study runs: the catalogue, the plan, and the layers of a network."""

import re
from pathlib import Path

import pytest

from study.commands.main import main as command
from study.commands.run import main as run
from study.spec import named_studies, read_study
from trainables.networks import ARCHITECTURES
from trainables.tasks import TASKS


def test_the_catalogue_has_every_study_with_its_question_and_cost_and_every_task(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(["--list"]) == 0
    printed = capfd.readouterr().out
    flowing = " ".join(printed.split())
    for name in named_studies():
        assert re.search(rf"^{name}$", printed, re.MULTILINE)
        assert " ".join(read_study(name)["question"].split()) in flowing
    # quickstart: 30 trials of 5 replicates.
    assert "digits, 30 trials × 5 replicates × 60 epochs (150 networks): about " in flowing
    costs = re.findall(r"(\d+) trials × (\d+) replicates × \d+ epochs \(([\d,]+) networks\)", flowing)
    assert len(costs) == len(named_studies())
    assert all(
        int(trials) * int(replicates) == int(networks.replace(",", "")) for trials, replicates, networks in costs
    )
    for task in TASKS.values():
        assert f"{task.name}: {task.summary}" in flowing


def test_the_plan_of_listed_trials_names_controls_and_the_options_that_are_not_the_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "listed.yaml").write_text("""
        task: digits
        replicates: 2
        sampler: design
        space: {width: 8}
        design:
          - {aux_weight: [0, 5], head: [widened, separate]}
          - {control: dropout, aux_weight: [0, 0.5]}
        training: {epochs: 3}
    """)
    monkeypatch.chdir(tmp_path)
    # Nothing that a user writes is markup for the terminal.
    assert run(["listed.yaml", "--plan", "--question", "[/red] Is :smile: [x]?", "--store", "[/b] [red]"]) == 0
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    assert lines[0] == "listed: [/red] Is :smile: [x]?"
    assert f"store {tmp_path / '[/b] [red]'}" in lines
    for expected in (
        # One baseline, two heads, one dropout.
        "trials 4, the design points",
        "control one of none, dropout",
        "aux_weight one of 0, 5, 0.5",
        "head one of widened, separate (where control is none and aux_weight is above 0)",
        "target_depth last (where control is none and aux_weight is above 0)",
        "to run 4 trials",
    ):
        assert expected in lines
    assert not any(line.startswith("target_form") for line in lines)


def layers(printed: str) -> list[tuple[str, str, str]]:
    """Depth, name and number of units of the layers in a table."""
    return re.findall(r"^ +(\d+) +([a-z]+\d*) +([\d,]+) ", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mnist"], [("1", "hidden1", "64")]),
        (["digits", "mlp", "--hidden_layers", "2", "--width", "8"], [("1", "hidden1", "8"), ("2", "hidden2", "8")]),
        (["digits", "convnet", "--width", "4"], [("1", "conv1", "64"), ("2", "dense", "32")]),
        (["imdb"], [("1", "embedding", "64"), ("2", "hidden1", "128")]),
    ],
    ids=str,
)
def test_the_layers_of_a_network_are_listed_with_depth_name_and_size(
    arguments: list[str], expected: list[tuple[str, str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(["layers", *arguments]) == 0
    assert layers(capfd.readouterr().out) == expected


def test_a_residual_network_has_its_stem_eight_blocks_and_a_hidden_layer(capfd: pytest.CaptureFixture[str]) -> None:
    assert command(["layers", "cifar10"]) == 0
    printed = capfd.readouterr().out
    assert [name for _, name, _ in layers(printed)] == ["stem", *(f"block{n}" for n in range(1, 9)), "hidden1"]
    assert "Other architectures for cifar10: mlp, convnet" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar100"], "task 'cifar100' is unknown: did you mean 'cifar10'?"),
        (["mnist", "resnet"], "architecture 'resnet' is unknown: did you mean 'resnet18'?"),
        (["mnist", "transformer"], "architecture 'transformer' reads text alone"),
        (["mnist", "--hidden_layers", "-1"], "--hidden_layers: "),
        (["mnist", "--depth", "2"], "unknown option --depth"),
        (["digits", "mlp", "--kernel_size", "5"], "kernel_size: makes no difference to architecture 'mlp': leave it"),
        (["digits", "convnet", "--kernel_size", "4"], "--kernel_size: must be odd"),
        (["digits", "convnet", "--width", "many"], "--width: Input should be a valid integer"),
        (["digits", "--activation", "sine"], "--activation: Input should be 'relu', 'gelu' or 'tanh', got sine"),
        (["imdb", "transformer", "--width", "40"], "needs a width that is a multiple of 16, its attention_head_units"),
    ],
    ids=str,
)
def test_an_unknown_or_impossible_network_is_one_message(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(["layers", *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_help_of_layers_names_every_task_and_architecture(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["layers", "--help"])
    printed = " ".join(capfd.readouterr().out.split())
    summaries = [task.summary for task in TASKS.values()] + [network.summary for network in ARCHITECTURES.values()]
    assert all(summary in printed for summary in summaries)
