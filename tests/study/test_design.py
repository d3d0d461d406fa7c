"""Studies whose trials are listed: controls and variants beside self-modeling, in a grid or a design."""

from typing import Any

import pytest

from study.errors import StudyError
from study.spec import StudySpec, build_spec
from trainables.auxiliary import AUXILIARY_TASKS
from trainables.trial import TrialConfig

WITHOUT_TARGETS = ("weight_decay", "dropout")
FORESEEN = ("none", "noise_targets", "shuffled_targets", "random_network")  # controls that predict


def spec_with(**changes: Any) -> StudySpec:
    return build_spec({"name": "listed", "task": "digits", "replicates": 2} | changes, "listed")


def grid_of(**space: Any) -> list[TrialConfig]:
    return configs_of(spec_with(sampler="grid", space=space))


def design_of(*blocks: dict[str, Any], **space: Any) -> list[TrialConfig]:
    return configs_of(spec_with(sampler="design", space=space, design=list(blocks)))


def configs_of(spec: StudySpec) -> list[TrialConfig]:
    """The trials that the study lists."""
    configs = list(spec.listed())
    assert len({config.key("data") for config in configs}) == len(configs), "no trial twice"
    return configs


def kinds(configs: list[TrialConfig]) -> list[tuple[str, float]]:
    return [(config.self_model.control, config.self_model.aux_weight) for config in configs]


def test_a_design_alone_is_exactly_its_points_in_their_order() -> None:
    configs = design_of(
        {"aux_weight": [0, 2.5]},
        {"control": "dropout", "aux_weight": [0.1, 0.5]},
        {"control": "extra_outputs", "aux_weight": 0},
        {"aux_weight": 7, "target_form": "sign", "head": "separate", "hidden_layers": 2, "target_depth": "hidden1"},
    )
    assert kinds(configs) == [
        ("none", 0),
        ("none", 2.5),
        ("dropout", 0.1),
        ("dropout", 0.5),
        ("extra_outputs", 0),
        ("none", 7),
    ]
    assert [config.self_model.target_depths for config in configs] == [(), (1,), (), (), (1,), (1,)]
    assert [config.network.hidden_layers for config in configs] == [1] * 5 + [2]
    last = configs[-1].self_model
    assert (last.target_form, last.head, last.detach_targets, last.unit_weighting) == ("sign", "separate", True, "mean")


def test_a_point_that_two_blocks_name_is_one_trial() -> None:
    configs = design_of({"aux_weight": [0, 1]}, {"control": "dropout", "aux_weight": [0, 0.5]}, {"aux_weight": [1, 2]})
    assert kinds(configs) == [("none", 0), ("none", 1), ("dropout", 0.5), ("none", 2)]


def test_a_design_alone_may_go_beyond_the_space_and_has_to_name_what_it_leaves_open() -> None:
    (config,) = design_of({"hidden_layers": 3, "width": 5, "aux_weight": 1}, hidden_layers=[1, 2], width=[8, 16])
    assert (config.network.hidden_layers, config.network.width) == (3, 5)
    with pytest.raises(StudyError, match=r"design\[0\].width: missing, and space.width leaves it open"):
        design_of({"aux_weight": 1}, width=[8, 16])
    with pytest.raises(StudyError, match=r"design\[1\].aux_weight: missing"):
        design_of({"aux_weight": 1}, {"control": "dropout"})


def test_controls_of_strength_0_are_the_baseline_and_what_has_no_strength_is_one_trial() -> None:
    configs = grid_of(control=list(AUXILIARY_TASKS), aux_weight=[0, 0.25, 0.5])
    found = kinds(configs)
    assert found.count(("none", 0)) == 1
    assert [weight for control, weight in found if control == "extra_outputs"] == [0]
    for control in set(AUXILIARY_TASKS) - {"none", "extra_outputs"}:
        assert [weight for name, weight in found if name == control] == [0.25, 0.5], control
    assert len(found) == 1 + 1 + 2 * (len(AUXILIARY_TASKS) - 1)


def test_controls_have_the_targets_of_what_they_stand_for_or_none() -> None:
    for config in grid_of(control=list(AUXILIARY_TASKS), aux_weight=[0, 0.5], hidden_layers=2, target_depth="1+2"):
        model = config.self_model
        none = model.control in WITHOUT_TARGETS or (model.control, model.aux_weight) == ("none", 0)
        assert model.target_depths == (() if none else (1, 2)), model.control


def test_options_of_the_prediction_differ_only_where_something_is_predicted() -> None:
    options = {
        "target_form": ["raw", "standardized"],
        "head": ["widened", "separate"],
        "unit_weighting": ["mean", "sum"],
        "detach_targets": [True, False],
    }
    configs = grid_of(control=list(AUXILIARY_TASKS), aux_weight=[0, 0.5], **options)
    variants = {control: sum(name == control for name, _ in kinds(configs)) for control in AUXILIARY_TASKS}
    # No gradient flows through foreign targets; extra outputs have no target; a penalty predicts nothing.
    several = {"none": 1 + 16, "extra_outputs": 2, "activation_penalty": 2} | dict.fromkeys(FORESEEN[1:], 8)
    assert variants == dict.fromkeys(AUXILIARY_TASKS, 1) | several


@pytest.mark.parametrize(
    "study",
    [
        {"sampler": "grid", "space": {"control": ["none", "dropout"], "aux_weight": [0, 0.5, 1]}},
        {"sampler": "design", "design": [{"control": "dropout", "aux_weight": [0.5, 1]}]},
        {"sampler": "tpe", "trials": 3, "space": {"control": ["none", "dropout"], "aux_weight": [0, 0.5, 1]}},
        {"sampler": "tpe", "trials": 3, "space": {"control": "dropout", "aux_weight": {"low": 0.5, "high": 1}}},
    ],
    ids=["grid", "design", "list", "range"],
)
def test_dropout_with_certainty_is_refused_before_anything_runs(study: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=r"control 'dropout' takes a probability below 1, got 1$") as caught:
        spec_with(**study)
    assert len(str(caught.value).splitlines()) == 2


def test_weights_of_one_block_are_not_combined_with_controls_of_another() -> None:
    # 20 is a weight of self-modeling, not a probability.
    configs = design_of({"aux_weight": [0, 20]}, {"control": "dropout", "aux_weight": 0.5})
    assert kinds(configs) == [("none", 0), ("none", 20), ("dropout", 0.5)]


def test_gradients_through_sign_targets_are_refused() -> None:
    with pytest.raises(StudyError, match="a sign has no gradient"):
        grid_of(target_form=["raw", "sign"], detach_targets=[True, False])


def test_a_search_that_may_choose_gradients_through_sign_targets_is_refused() -> None:
    space = {"target_form": ["raw", "sign"], "detach_targets": [True, False], "aux_weight": {"low": 1, "high": 9}}
    with pytest.raises(StudyError, match="a sign has no gradient"):
        spec_with(sampler="random", trials=4, space=space)


def test_a_design_without_points_is_refused() -> None:
    with pytest.raises(StudyError, match="design"):
        spec_with(sampler="design")
