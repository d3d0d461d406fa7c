"""The table of a plan says when each field is chosen, and draws its random trials once."""

from typing import Any

import pytest
from rich.table import Table

from study.commands.views.conditions import conditions
from study.commands.views.space import add_space
from study.search import parameters
from study.spec import StudySpec, build_spec


def spec_with(space: dict[str, Any], **changes: Any) -> StudySpec:
    raw = {"name": "test", "task": "digits", "trials": 3, "sampler": "random", "objectives": {"weight_std": "minimize"}}
    return build_spec(raw | {"space": {"aux_weight": [0, 1, 5]} | space} | changes, "test")


PREDICTED = "where control is none and aux_weight is above 0"


@pytest.mark.parametrize(
    ("space", "changes", "expected"),
    [
        ({"optimizer": ["sgd", "adam"], "momentum": [0.5, 0.9]}, {}, {"momentum": "where optimizer is sgd"}),
        ({"optimizer": "adam", "momentum": [0.5, 0.9]}, {}, {"momentum": "without effect"}),
        (
            {"observer_epochs": [0, 2], "observer_width": [8, 9]},
            {},
            {"observer_width": "where observer_epochs is above 0"},
        ),
        (
            {"aux_weight": {"low": 0.1, "high": 5}},
            {},
            {"target_depth": "where aux_weight is above 0", "aux_weight": ""},
        ),
        ({"aux_weight": {"low": 0.1, "high": 5, "baseline": False}}, {}, {"target_depth": ""}),
        (
            {"control": ["none", "extra_outputs", "dropout"], "aux_weight": [0, 0.5], "head": ["widened", "separate"]},
            {},
            {
                "aux_weight": "where control is none or dropout",
                "target_depth": f"{PREDICTED}, or control is extra_outputs",
                "head": f"{PREDICTED}, or control is extra_outputs",
            },
        ),
        (
            {"kernel_size": [3, 5], "width": {"mlp": [8, 16], "convnet": 8}},
            {"architecture": ["mlp", "convnet"]},
            {"kernel_size": "where architecture is convnet", "width": "", "architecture": ""},
        ),
        (
            {"hidden_layers": [0, 1], "width": [8, 16], "target_depth": "last"},
            {"task": "cifar10"},
            {"width": "where hidden_layers is above 0", "hidden_layers": ""},
        ),
    ],
    ids=str,
)
def test_a_field_that_has_an_effect_in_some_trials_alone_says_in_which(
    space: dict[str, Any], changes: dict[str, Any], expected: dict[str, str]
) -> None:
    found = conditions(spec_with(space, **changes))
    assert {name: found[name] for name in expected} == expected
    table = Table()
    add_space(table, spec_with(space, **changes))
    rows = dict(zip(*(list(column.cells) for column in table.columns[:2]), strict=False))
    for name, condition in expected.items():
        if name in rows:
            assert str(rows[name]).endswith(f"({condition})") == bool(condition)


def test_the_table_draws_its_random_trials_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    suggest_trial = parameters.suggest_trial

    def counted(*arguments: Any) -> Any:
        drawn.append(1)
        return suggest_trial(*arguments)

    monkeypatch.setattr(parameters, "suggest_trial", counted)
    add_space(Table(), spec_with({"width": [8, 16, 32]}))
    assert len(drawn) == parameters.LOOKS
