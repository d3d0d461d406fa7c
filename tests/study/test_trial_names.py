"""The name of a trial in a few words."""

from typing import Any

import pytest

from study.record.outcome import describe_trial
from trainables import TrialConfig

CONVNET = {"architecture": "convnet", "hidden_layers": 3, "width": 8}


@pytest.mark.parametrize(
    ("fields", "varied", "name"),
    [
        ({}, (), "1x64 aux 0"),
        ({"aux_weight": 5}, (), "1x64 aux 5 target 1"),
        ({"network": CONVNET, "aux_weight": 5}, (), "3x8 aux 5 target 4"),
        ({"network": CONVNET | {"kernel_size": 5}}, (), "3x8 aux 0, kernel_size 5"),
        ({"network": CONVNET | {"kernel_size": 5}}, ("architecture", "width"), "convnet 3x8 aux 0, kernel_size 5"),
        ({}, ("architecture",), "mlp 1x64 aux 0"),
        ({"self_model": {"control": "dropout", "aux_weight": 0.2}}, ("control",), "1x64 dropout 0.2"),
        ({"aux_weight": 1, "self_model": {"target_form": "sign"}}, (), "1x64 aux 1 target 1, target_form sign"),
        ({"training": {"learning_rate": 0.01}, "rlct": {"draws": 10}}, (), "1x64 aux 0"),
        (
            {"training": {"learning_rate": 1 / 3}, "rlct": {"draws": 10}},
            ("learning_rate",),
            "1x64 aux 0, learning_rate 0.3333",
        ),
        ({"observer": {"width": 8}, "rlct": {"draws": 10}}, ("rlct_draws",), "1x64 aux 0, rlct_draws 10"),
        ({"training": {"until_loss": 0.1}}, ("until_loss", "learning_rate"), "1x64 aux 0, until_loss 0.1"),
    ],
    ids=str,
)
def test_a_trial_is_named_by_its_sizes_its_auxiliary_task_and_what_else_tells_it_from_others(
    fields: dict[str, Any], varied: tuple[str, ...], name: str
) -> None:
    assert describe_trial(TrialConfig.from_recipe("digits", **fields), varied) == name
