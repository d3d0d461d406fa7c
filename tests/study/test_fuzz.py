"""Whatever a study file or a command line holds, the answer is one clear error or a valid study."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from study.commands.options import parse_options
from study.errors import StudyError
from study.shown import plain
from study.spec import StudySpec, build_spec, read_study
from study.spec.budget import BudgetConfig
from study.spec.trials import MOST_LISTED
from tests.study.wild import command_lines, limited_studies, spacious_studies, studies, yaml_files

# The same examples every time, so that a failure is one of the change at hand.
quickly = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONGEST_MESSAGE = 5000


def check(make: Callable[[], StudySpec | None]) -> str:
    """Make a study, and check that it is valid or refused with a message; return which."""
    try:
        spec = make()
    except StudyError as error:
        message = str(error)
        assert message.strip()
        assert len(message) < LONGEST_MESSAGE
        assert message == plain(message)
        return "refused"
    except SystemExit as end:
        return f"exit {end.code}"
    if spec is not None:
        listed = sum(1 for _ in spec.listed())
        assert 0 <= listed <= MOST_LISTED
        assert spec.trials is None or spec.trials >= listed
    return "valid"


def check_fields(raw: dict[Any, Any]) -> str:
    return check(lambda: build_spec(raw, "wild"))


def check_file(content: bytes, file: Path) -> str:
    file.write_bytes(content)
    return check(lambda: build_spec(read_study(str(file)), str(file)))


def check_words(words: list[str]) -> str:
    def parse() -> StudySpec | None:
        options = parse_options(words)
        return options.spec if options else None

    return check(parse)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "wild.yaml"


@given(studies)
@settings(quickly, max_examples=150)
def test_wild_fields_are_a_valid_study_or_one_error(raw: dict[Any, Any]) -> None:
    assert check_fields(raw) in ("valid", "refused")


@given(spacious_studies)
@settings(quickly, max_examples=150)
def test_wild_spaces_are_a_valid_study_or_one_error(raw: dict[Any, Any]) -> None:
    assert check_fields(raw) in ("valid", "refused")


@given(limited_studies)
@settings(quickly, max_examples=150)
def test_wild_budgets_are_a_valid_study_or_one_error(raw: dict[Any, Any]) -> None:
    answer = check_fields(raw)
    assert answer in ("valid", "refused")
    if answer == "valid":
        budget = build_spec(raw, "wild").budget
        # What is written into the record is read from it again.
        assert BudgetConfig(**json.loads(json.dumps(budget.model_dump(mode="json")))) == budget
        assert 0 <= budget.cost({"small": 1.0, "": 2.0, "another": 0.0}) < float("inf")


@given(content=yaml_files())
@settings(quickly, max_examples=150)
def test_wild_bytes_are_a_valid_study_or_one_error(file: Path, content: bytes) -> None:
    assert check_file(content, file) in ("valid", "refused")


@given(words=command_lines())
@settings(quickly, max_examples=150)
def test_wild_command_lines_are_a_valid_study_or_one_error_or_help(words: list[str]) -> None:
    assert check_words(words) in ("valid", "refused", "exit 0")
