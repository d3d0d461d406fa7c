"""Sizes that explode: a study is refused, or checked in about a second."""

from typing import Any

import pytest

from study.errors import StudyError
from study.spec import build_spec
from study.spec.networks import MOST_CHECKED
from study.spec.trials import MOST_LISTED
from tests.study.wild import nested
from trainables.config import MOST_EPOCHS

BASE: dict[str, Any] = {"name": "large", "task": "digits", "trials": 5}
GRID = BASE | {"trials": None, "sampler": "grid"}
DESIGN = BASE | {"trials": None, "sampler": "design", "space": {"width": 8}}


def up_to(number: int) -> list[int]:
    return list(range(1, number + 1))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (GRID | {"space": {"aux_weight": up_to(200_000)}}, r"space.aux_weight: List should have at most 1000 items"),
        (
            GRID | {"space": {"aux_weight": up_to(1000), "width": up_to(1000), "hidden_layers": up_to(60)}},
            r"space: the grid has 60,000,000 points, and a study may list 10,000. Give shorter lists, or let a sampler",
        ),
        (
            DESIGN | {"design": [{"aux_weight": up_to(1000)}] * 11},
            r"design: it has 11,000 points, .* Give shorter lists or fewer blocks, or let a sampler",
        ),
        (DESIGN | {"design": [{"aux_weight": 1}] * 20_000}, r"design: List should have at most 1000 items"),
        (
            BASE | {"space": {"width": {"low": 1, "high": 10**9}}},
            r"space.width.high: .*or equal to 65536, got 1000000000",
        ),
        (BASE | {"space": {"width": {"low": 1, "high": 10**23}}}, r"space.width.high: .*or equal to 65536"),
        (BASE | {"space": {"width": {"low": 0, "high": 9}}}, r"space.width.low: .*or equal to 1, got 0"),
        (
            BASE | {"space": {"hidden_layers": {"low": 1, "high": 65}}},
            r"space.hidden_layers.high: .*equal to 64, got 65",
        ),
        (BASE | {"space": {"aux_weight": 1e300}}, r"space.aux_weight: .*less than or equal to 1000000000, got 1e\+300"),
        (
            BASE | {"space": {"aux_weight": {"low": 1, "high": 1e300}}},
            r"space.aux_weight.high: .*or equal to 1000000000",
        ),
        (
            BASE | {"space": {"target_depth": [f"{n}" for n in up_to(200)]}},
            r"target_depth: List should have at most 100",
        ),
        (BASE | {"space": {"target_depth": "1+" * 5000 + "1"}}, r"space.target_depth: not a target"),
        (BASE | {"space": {"target_depth": 10**4000}}, r"space.target_depth: not a target.* got a number of \d+ bits"),
        (BASE | {"space": {"target_depth": "²"}}, r"space.target_depth: not a target"),
        (BASE | {"seed": 10**5000}, r"seed: should be less than or equal to 2147483647, got a number of 16610 bits"),
        (BASE | {"trials": 10**9}, r"trials: should be less than or equal to 100000, got 1000000000"),
        (
            BASE | {"trials": 100_000, "replicates": 1000},
            r"replicates: 100,000 trials .* are 100,000,000 networks, and",
        ),
        (BASE | {"training": {"epochs": MOST_EPOCHS + 1}}, r"training.epochs: should be less than or equal to 100000"),
        (BASE | {"training": {"learning_rate": float("nan")}}, r"training.learning_rate: should be a finite number"),
        (BASE | {"training": {"learning_rate": "1e400"}}, r"training.learning_rate: should be a finite number"),
        (BASE | {"rlct": {"draws": 10**9}}, r"rlct.draws: should be less than or equal to 1000000, got 1000000000"),
        (BASE | {"rlct": {"chains": 10**9}}, r"rlct.chains: should be less than or equal to 1000, got"),
        (BASE | {"observer": {"epochs": 10**9}}, r"observer.epochs: should be less than or equal to 100000"),
        (BASE | {"question": "x" * 10**6}, r"question: String should have at most 1000 characters"),
        (BASE | {"task": "x" * 10**6}, r"task: String should have at most 100 characters"),
        (
            BASE | {"objectives": {"x" * 10**6: "maximize"}},
            r"objectives.xxx.*: String should have at most 100 characters",
        ),
        (BASE | {"x" * 10**6: 1}, r"xxx … xxx|xxx.*: no such field"),
        (BASE | {"space": {"width": nested(5000)}}, r"space.width"),
        (BASE | {"task": nested(5000)}, r"task\[0\]: should be a valid string"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_too_large_is_refused_in_a_short_message(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        build_spec(raw, "large")
    assert len(str(caught.value)) < 800


def test_only_the_first_of_many_errors_are_listed() -> None:
    with pytest.raises(StudyError, match="and 19990 more") as caught:
        build_spec(BASE | {f"x{number}": 1 for number in range(20_000)}, "large")
    assert len(str(caught.value).splitlines()) == 12


def test_a_grid_of_the_most_trials_is_a_study() -> None:
    spec = build_spec(GRID | {"space": {"aux_weight": up_to(100), "width": up_to(100)}}, "large")
    assert sum(1 for _ in spec.listed()) == MOST_LISTED == 10_000


def test_the_widest_ranges_are_a_study() -> None:
    space = {"hidden_layers": {"low": 1, "high": 64}, "width": {"low": 1, "high": 65_536}, "target_depth": "any"}
    assert MOST_CHECKED < 64 * 65_536
    assert build_spec(BASE | {"space": space}, "large").all_trials() is None


def test_a_width_that_a_network_cannot_have_is_found_within_the_widest_range() -> None:
    space = {"hidden_layers": {"low": 1, "high": 64}, "width": {"low": 16, "high": 65_536}}
    with pytest.raises(StudyError, match="needs a width that is a multiple of 16"):
        build_spec(BASE | {"task": "imdb", "architecture": "transformer", "space": space}, "large")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../x",
        "/x",
        "a/b",
        "a\0",
        "a\n",
        "a\nb",
        ".x",
        "-x",
        "_x",
        "x" * 101,
        "a b",
        "é",
        "٣",
        "a\x1b[31m",
        "Default",
        ".",
    ],
)
def test_a_name_that_is_no_folder_or_experiment_is_refused(name: str) -> None:
    with pytest.raises(StudyError, match=r"name: not a name for an experiment and its folders") as caught:
        build_spec(BASE | {"name": name}, "large")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("name", ["x", "9", "mnist-128", "a.b_c", "x" * 100, "default"])
def test_other_names_are_taken(name: str) -> None:
    assert build_spec(BASE | {"name": name}, "large").name == name


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x07", "\r", "\x9b", "\u202e", "\x7f"])
def test_a_question_has_no_characters_that_a_terminal_obeys(character: str) -> None:
    with pytest.raises(StudyError, match=r"question: it has control characters"):
        build_spec(BASE | {"question": f"Is it{character}?"}, "large")
    assert build_spec(BASE | {"question": "Är [red]\nx < y & \t🙂\u200d?"}, "large").question.startswith("Är [red]")
