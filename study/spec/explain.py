"""Validation errors in words: the field, what is wrong, the given value, what was probably meant."""

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from study.shown import plain, shortened, shown
from trainables.registry import did_you_mean, suggestion

MOST_LINES = 10
LONGEST_LINE = 1500  # one that lists the measures is long
LONGEST_PATH = 100


def explain_errors(error: ValidationError, raw: dict[str, Any], model: type[BaseModel]) -> list[str]:
    """One line per wrong field of `raw`, at most MOST_LINES of them and one with the number of the others."""
    by_field: dict[str, ErrorDetails] = {}
    # A value that fits no member of a union gives an error per member: keep the most specific, not one about the type.
    for details in sorted(error.errors(), key=lambda e: e["type"].endswith(("_type", "_parsing"))):
        by_field.setdefault(_field_path(details, raw), details)
    # If a part of a value is wrong, type errors on the whole value do not help.
    parents = {field[: found.start()] for field in by_field for found in re.finditer(r"[.\[]", field)}
    wrong = [(field, details) for field, details in by_field.items() if field not in parents]
    lines = [shortened(plain(_explain(field, details, model)), LONGEST_LINE) for field, details in wrong[:MOST_LINES]]
    return lines + ([f"and {len(wrong) - MOST_LINES} more"] if len(wrong) > MOST_LINES else [])


def field_paths(model: type[BaseModel]) -> Iterator[str]:
    """The dotted names of all fields, including those of nested models."""
    for name, field in model.model_fields.items():
        yield name
        for nested in _models_in(field.annotation):
            yield from (f"{name}.{path}" for path in field_paths(nested))


def suggest(wrong: str, model: type[BaseModel]) -> str:
    """For an unknown field: 'did you mean …?', or the known fields."""
    known = list(dict.fromkeys(field_paths(model)))
    parent, _, leaf = wrong.rpartition(".")
    siblings = [path for path in known if path.rpartition(".")[0] == parent]
    # A section sets a field for the whole study, which is what a field in the wrong place most often means.
    ordered = sorted(known, key=lambda path: path.startswith(("space.", "design.")))
    namesakes = [path for path in ordered if path.rpartition(".")[2] == leaf]
    similar = difflib.get_close_matches(leaf, [path.rpartition(".")[2] for path in known], n=1)
    alike = [path for path in (*siblings, *ordered) if path.rpartition(".")[2] in similar]
    if hint := suggestion(namesakes[:1] or alike[:1]) or did_you_mean(wrong, known):
        return hint.strip()
    return f"the fields here are {', '.join(siblings)}" if siblings else "see --help for all fields"


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _field_path(error: ErrorDetails, raw: Any) -> str:
    """training.learning_rate, design[0].width: the error's location without the names of union members."""
    path = ""
    for part in error["loc"]:
        if isinstance(raw, list) and isinstance(part, int):
            path, raw = f"{path}[{part}]", raw[part]
        elif isinstance(raw, dict) and part in raw:
            path, raw = f"{path}.{part}", raw[part]
    if error["type"] == "missing":
        path = f"{path}.{error['loc'][-1]}"
    return path.removeprefix(".")


def _explain(field: str, error: ErrorDetails, model: type[BaseModel]) -> str:
    field = shortened(field, LONGEST_PATH)
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "missing":
        return f"{field}: missing, and there is no default"
    if error["type"] == "extra_forbidden":
        return f"{field}: no such field (value {shown(error['input'])}); {suggest(field, model)}"
    if not field:
        return message
    if isinstance(error["input"], dict):
        return f"{field}: {message}"
    return f"{field}: {message}, got {shown(error['input'])}"
