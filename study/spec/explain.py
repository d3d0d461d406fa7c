"""Validation errors in words: the field, what is wrong, the given value, what was probably meant."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from study.shown import plain, shortened, shown
from trainables.fields import FIELDS, PATHS
from trainables.registry import did_you_mean, suggestion
from trainables.trial import SECTIONS

MOST_LINES = 10
LONGEST_LINE = 1500  # one that lists the measures is long
LONGEST_PATH = 100
# Where trials differ: any field of a trial stands here.
_VARYING = ("space", "design")
_MAPPING = re.compile(r"should be a valid dictionary( or instance of \w+)?")
_INDEX = re.compile(r"\[\d+\]")


def explain_errors(error: ValidationError, raw: dict[str, Any], model: type[BaseModel]) -> list[str]:
    """One line per wrong field of `raw`, at most MOST_LINES of them and one with the number of the others."""
    by_field: dict[str, ErrorDetails] = {}
    # A value that fits no member of a union gives an error per member: keep the most specific, not one about the type.
    for details in sorted(error.errors(), key=lambda e: e["type"].endswith(("_type", "_parsing"))):
        by_field.setdefault(_field_path(details, raw), details)
    # If a part of a value is wrong, type errors on the whole value do not help.
    parents = {field[: found.start()] for field in by_field for found in re.finditer(r"[.\[]", field)}
    # A misspelt field is not missing as well.
    unknown = [field for field, details in by_field.items() if details["type"] == "extra_forbidden"][:MOST_LINES]
    missing = [field for field, details in by_field.items() if details["type"] == "missing"]
    hints = [suggest(shortened(field, LONGEST_PATH), model) for field in unknown] if missing else []
    misspelt = {field for field in missing if any(f"mean {field!r}?" in hint for hint in hints)}
    wrong = [(field, details) for field, details in by_field.items() if field not in parents | misspelt]
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
    written, place, name = _split(wrong, known)
    here = [path.removeprefix(f"{place}.") for path in known if path.rpartition(".")[0] == place]
    if name in here:
        # As a key of the file, with a dot in it.
        return f"write it as {place}: {{{name}: …}}"
    varies = place in _VARYING
    if varies and name in SECTIONS:
        example = next(path for path in PATHS if path.startswith(f"{name}."))
        return f"its fields stand here one by one, such as {example}"
    near = difflib.get_close_matches(name, [*here, *PATHS] if varies else here, n=1)
    in_place = suggestion([f"{written}.{each}".removeprefix(".") for each in near])
    if place.partition(".")[0] in _VARYING and not varies:
        return f"{in_place}a range here has {', '.join(here)}"
    if not place and "." in name:
        hint = did_you_mean(name, known)
    else:
        similar = [_home(each, known) for each in difflib.get_close_matches(name, _names(known), n=1)]
        hint = suggestion(_elsewhere(name, place, known)) or in_place
        hint = hint or suggestion(_namesakes(name, known)[:1] or similar)
    return hint.strip() or (f"the fields here are {', '.join(here)}" if here else "see --help for all fields")


def _split(wrong: str, known: Sequence[str]) -> tuple[str, str, str]:
    """The place of an unknown field as it is written and as the model has it, `design[0]` and `design`, and its name.

    The name may have a dot, `training.epoch` in the space. Of a range of one architecture, `space.width.mlp`, the place
    is `space.width`.
    """
    parts = wrong.split(".")
    end, place = 0, ""
    for number, part in enumerate(parts[:-1], start=1):
        path = f"{place}.{_INDEX.sub('', part)}".removeprefix(".")
        if not any(each.startswith(f"{path}.") for each in known):
            break
        end, place = number, path
    if place.count(".") == 1:
        end = len(parts) - 1
    return ".".join(parts[:end]), place, ".".join(parts[end:])


def _elsewhere(name: str, place: str, known: Sequence[str]) -> list[str]:
    """The field of this very name that stands in another place."""
    if place and name in known:
        return [name]
    return [_home(name, known)] if name in FIELDS and place not in _VARYING and _home(name, known) != name else []


def _home(name: str, known: Sequence[str]) -> str:
    """Where a field is set for the whole study: in a section, else in the space."""
    homes = [FIELDS[name].path, f"space.{name}"] if name in FIELDS else []
    return next((path for path in [*homes, *_namesakes(name, known)] if path in known), name)


def _namesakes(name: str, known: Sequence[str]) -> list[str]:
    """The fields of this name, those of sections first; parts of ranges are none."""
    found = [path for path in known if path.rpartition(".")[2] == name and path.count(".") < 2]
    return sorted(found, key=lambda path: path.startswith(_VARYING))


def _names(known: Sequence[str]) -> list[str]:
    return [path.rpartition(".")[2] for path in known if path.count(".") < 2]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _field_path(error: ErrorDetails, raw: Any) -> str:
    """training.learning_rate, design[0].width: the error's location without the names of union members."""
    path = ""
    if error["loc"] and isinstance(raw, dict) and error["loc"][0] not in raw and isinstance(raw.get("space"), Mapping):
        # Task and architecture may stand in the space.
        name = _as_written(error["loc"][0], raw["space"])
        path, raw = (f"space.{name}", raw["space"][name]) if name in raw["space"] else (path, raw)
    for part in error["loc"]:
        if isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            path, raw = f"{path}[{part}]", raw[part]
        elif isinstance(raw, dict) and (name := _as_written(part, raw)) in raw:
            path, raw = f"{path}.{name}", raw[name]
    if error["type"] == "missing":
        path = f"{path}.{error['loc'][-1]}"
    return path.removeprefix(".")


def _as_written(part: int | str, raw: Mapping[Any, Any]) -> int | str:
    """The key of a field in a mapping: its own name or, in a space, its path."""
    long = FIELDS[part].path if part in FIELDS else part
    return long if part not in raw and long in raw else part


def _explain(field: str, error: ErrorDetails, model: type[BaseModel]) -> str:
    field = shortened(field, LONGEST_PATH)
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = _MAPPING.sub("should be a mapping", message)
    if error["type"] == "missing":
        return f"{field}: missing, and there is no default"
    if error["type"] == "extra_forbidden":
        return f"{field}: no such field (value {shown(error['input'])}); {suggest(field, model)}"
    if not field:
        return message
    if isinstance(error["input"], dict):
        return f"{field}: {message}"
    return f"{field}: {message}, got {shown(error['input'])}"
