"""What the commands that look at a study from elsewhere share: their options, and output for programs."""

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from study.commands.options import Parser, add_record_places, stores_of

if TYPE_CHECKING:
    from study.record.overview import Overview
    from study.record.writer import RecordWriter


class _NoFields(BaseModel):
    """These commands take no fields of a spec."""


def make_parser(command: str, description: str, keys: str, study: bool = True) -> Parser:
    """The parser of a command; `keys` describes its --json."""
    parser = Parser(
        _NoFields,
        prog=f"python -m study {command}",
        description=description,
        epilog=f"--json prints {keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if study:
        parser.add_argument("study", metavar="STUDY", help="name of a study in the store")
    parser.add_argument("--json", action="store_true", help="print JSON for programs, and nothing else")
    return parser


def parse(
    parser: Parser,
    arguments: Sequence[str],
    add_places: Callable[[argparse.ArgumentParser], object] = add_record_places,
) -> argparse.Namespace:
    """The options, with those of locations: by default the record's alone.

    Raises:
        StudyError: an option is unknown or impossible.
        SystemExit: --help was requested.
    """
    add_places(parser)
    # Stores that the record does not need are left where they are by default.
    parser.set_defaults(artifacts=None, optuna_storage=None, ray_storage=None)
    return parser.parse_args(arguments)


def open_record(options: argparse.Namespace, study: str) -> "RecordWriter":
    """The record of a study, which need not exist.

    Raises:
        StudyError: the tracking store cannot be reached or read.
    """
    # MLflow takes a second to import, and --help needs none of it.
    from study.record.writer import RecordWriter

    return RecordWriter(stores_of(options), study)


def print_json(value: Any) -> None:
    """Print a value for programs."""
    # Its reader may have seen enough (`| head`).
    with suppress(BrokenPipeError):
        print(json.dumps(value, indent=1, ensure_ascii=False), flush=True)


def as_json(overview: "Overview") -> dict[str, Any]:
    """An overview with the documented keys."""
    return asdict(overview)
