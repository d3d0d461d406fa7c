import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.conftest import small_trial
from trainables import PROTOCOL_VERSION, TrialConfig, trial
from trainables.networks import Head

CHANGES: list[dict[str, Any]] = [
    {"split_seed": 1},
    {"network": {"width": 9}},
    {"network": {"hidden_layers": 2}},
    {"network": {"activation": "tanh"}},
    {"self_model": {"aux_weight": 2.0}},
    {"self_model": {"detach_targets": False}},
    {"self_model": {"target_form": "sign"}},
    {"self_model": {"unit_weighting": "sum"}},
    {"self_model": {"head": "separate"}},
    {"self_model": {"control": "noise_targets"}},
    {"observer": {"epochs": 2}},
    {"training": {"learning_rate": 0.01}},
    {"training": {"shuffle": "once"}},
    {"training": {"validation_fraction": 0.0}},
    {"rlct": {"draws": 9}},
    {"rlct": {"nbeta": 15.4}},
]


def changed(base: TrialConfig, change: dict[str, Any]) -> TrialConfig:
    nested = base.model_dump()
    for name, value in change.items():
        nested[name] = nested[name] | value if isinstance(value, dict) else value
    return TrialConfig.model_validate(nested)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_anything_that_can_change_the_result_changes_the_key(change: dict[str, Any]) -> None:
    base = small_trial(aux_weight=1.0)
    assert changed(base, change).key("data") != base.key("data")


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_anything_that_can_change_the_result_changes_the_keys_of_the_replicates(change: dict[str, Any]) -> None:
    base = small_trial(aux_weight=1.0)
    assert changed(base, change).replicate_key(0, "data") != base.replicate_key(0, "data")


def test_replicates_have_keys_of_their_own_that_stay_when_others_are_added() -> None:
    base, more = small_trial(seeds=(0, 1)), small_trial(seeds=(0, 1, 2))
    assert more.key("data") == base.key("data")
    assert more.replicate_key(1, "data") == base.replicate_key(1, "data") != base.replicate_key(0, "data")


def test_data_and_protocol_version_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_trial()
    before = config.key("data")
    assert config.key("other data") != before
    monkeypatch.setattr(trial, "PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    assert config.key("data") != before


def test_the_key_is_the_same_in_another_process() -> None:
    code = "from tests.conftest import small_trial; print(small_trial(aux_weight=1.0).key('data'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == small_trial(aux_weight=1.0).key("data")


@given(depths=st.lists(st.integers(1, 3), min_size=1, max_size=6))
def test_the_order_in_which_targets_are_named_does_not_matter(depths: list[int]) -> None:
    one = small_trial(aux_weight=1.0, hidden_layers=3, self_model={"target_depths": tuple(depths)})
    other = small_trial(aux_weight=1.0, hidden_layers=3, self_model={"target_depths": tuple(sorted(set(depths)))})
    assert one.key("data") == other.key("data")


def test_flat_names_are_unique_and_cover_every_field() -> None:
    trial = small_trial()
    nested = trial.model_dump()
    fields = sum(len(section) for section in nested.values() if isinstance(section, dict))
    # Besides the sections' fields: task, number of replicates, seeds, split seed.
    assert len(trial.flat()) == fields + 4


@pytest.mark.parametrize(
    ("self_model", "head"),
    [
        ({"aux_weight": 0.0}, Head(classes=10)),
        ({"aux_weight": 1.0}, Head(classes=10, predicted=8)),
        ({"aux_weight": 1.0, "target_depths": (1, 2)}, Head(classes=10, predicted=16)),
        ({"aux_weight": 1.0, "head": "separate"}, Head(classes=10, predicted=8, hidden=128)),
        ({"aux_weight": 0.0, "control": "extra_outputs"}, Head(classes=10, predicted=8)),
        ({"aux_weight": 1.0, "control": "weight_decay"}, Head(classes=10)),
    ],
    ids=str,
)
def test_the_head_predicts_as_many_units_as_the_target_layers_have(self_model: dict[str, Any], head: Head) -> None:
    assert small_trial(hidden_layers=2, width=8, self_model=self_model).head(10) == head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"self_model": {"target_depths": (2,)}}, "the network has the layers 1 hidden1"),
        ({"self_model": {"target_depths": ()}}, "needs at least one depth"),
        ({"self_model": {"aux_weight": 0.0}}, "leave target_depths empty"),
        ({"self_model": {"aux_weight": float("nan")}}, "finite number"),
        ({"self_model": {"target_form": "sign", "detach_targets": False}}, "a sign has no gradient"),
        ({"self_model": {"control": "noise"}}, "control 'noise' is unknown"),
        ({"network": {"architecture": "embedding_bag"}}, "reads text alone"),
        ({"training": {"momentum": 0.0}}, "nesterov needs momentum"),
        ({"training": {"epoch": 3}}, "Extra inputs are not permitted"),
        ({"seeds": (1, 1)}, "all different"),
    ],
    ids=str,
)
def test_contradictory_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(small_trial(aux_weight=1.0), change)


def test_augmentation_of_a_task_that_has_none_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"training\.augment: task 'imdb' has no augmentation; set it to false"):
        TrialConfig.from_recipe("imdb", training={"augment": True})
