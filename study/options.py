"""The command line: which study, where things lie, and every field of the spec as an option.

The options of the spec are made from the pydantic model by pydantic-settings; what a study leaves out has the
model's default, or the task's recipe.
"""

import argparse
import difflib
import json
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from study.errors import StudyError
from study.explain import suggest
from study.resources import Resources
from study.space import DesignPoints, IntRange, WeightRange
from study.spec import StudySpec, build_spec, read_study
from study.stores import Stores

DATA_VARIABLE = "SELF_MODELING_DATA"
DEFAULT_STUDY = "quickstart"


@dataclass(frozen=True)
class Options:
    """A command line, understood and validated."""

    spec: StudySpec
    stores: Stores
    resources: Resources
    data: Path | None
    plan_only: bool


class _SpecOnCommandLine(BaseSettings, StudySpec):
    """The spec, as pydantic-settings wants it to make options of its fields."""

    model_config = SettingsConfigDict(extra="forbid", cli_avoid_json=True, cli_hide_none_type=True)


def parse_options(arguments: list[str] | None = None) -> Options | None:
    """Understand a command line; None where it only asked for the list of studies.

    Raises:
        StudyError: an option or a field is unknown, impossible or contradicts another.
        SystemExit: --help was asked for.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = Parser(
        StudySpec,
        prog="study/run.py",
        usage="study/run.py [STUDY] [options]",
        description="Run a study: a named one, or a YAML file. Finished trials are never run again: the same command\n"
        "goes on with a study that was interrupted, and runs nothing for one that is complete.",
        epilog="""values of fields:
  LIST    0,1,10 or '[0, 1, 10]': a choice
  RANGE   '{"low": 0.1, "high": 20}': a range
  None    takes a field back, as in --trials None

"""
        + _range_fields(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_own_options(parser)
    if {"-h", "--help"} & set(arguments):
        _print_help(parser, arguments)
        raise SystemExit(0)
    # pydantic-settings parses as it is made.
    source: CliSettingsSource[Any] = CliSettingsSource(_SpecOnCommandLine, root_parser=parser, cli_parse_args=arguments)
    own = parser.parse_args(arguments)
    if own.list:
        return None
    return Options(
        spec=build_spec(_merged(read_study(own.study), source()), own.study),
        stores=stores_of(own),
        resources=resources_of(own),
        data=data_of(own),
        plan_only=own.plan,
    )


def stores_of(own: argparse.Namespace) -> Stores:
    """Where things lie, from the options that `add_places` has added."""
    return Stores.under(own.store, own.tracking_uri, own.optuna_storage, own.ray_storage)


def data_of(own: argparse.Namespace) -> Path | None:
    """The folder of the data sets that was named, by option or variable."""
    variable = os.environ.get(DATA_VARIABLE)
    data: Path | None = own.data or (Path(variable) if variable else None)
    return data.expanduser() if data else None


def resources_of(own: argparse.Namespace) -> Resources:
    """Where trials run, from the options that `add_resources` has added."""
    return Resources(own.address, own.cpus_per_trial, own.gpus_per_trial, own.concurrent)


class Parser(argparse.ArgumentParser):
    """Errors as StudyError, with the field of `fields` that was meant."""

    def __init__(self, fields: type[BaseModel], **settings: Any):
        super().__init__(**settings)
        self._fields = fields

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized") and unknown[0].startswith("--"):
            name = unknown[0].removeprefix("--").partition("=")[0]
            own = [option for action in self._actions for option in action.option_strings]
            close = difflib.get_close_matches(f"--{name}", own, n=1)
            hint = f"did you mean {close[0]}?" if close else suggest(name, self._fields).replace("mean ", "mean --")
            raise StudyError(f"unknown option --{name}; {hint} All options: {self.prog} --help")
        raise StudyError(f"{message}. All options: {self.prog} --help")


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "study", nargs="?", default=DEFAULT_STUDY, metavar="STUDY",
        help=f"name of a study, or path of a YAML file (default: {DEFAULT_STUDY}; --list shows the named ones)",
    )  # fmt: skip
    parser.add_argument(
        "--plan", action="store_true", help="show what would run and how long it would take; run nothing"
    )
    parser.add_argument("--list", action="store_true", help="list the named studies and their questions")
    add_places(parser)
    add_resources(parser)


def add_places(parser: argparse.ArgumentParser) -> None:
    """The options that say where things lie."""
    where = parser.add_argument_group("where things lie")
    where.add_argument(
        "--store", type=Path, default=Path("runs"), metavar="DIR",
        help="folder of everything that a study leaves behind (default: ./runs)",
    )  # fmt: skip
    where.add_argument(
        "--data", type=Path, metavar="DIR", help=f"folder of the data sets (default: ${DATA_VARIABLE}, else ./data)"
    )
    where.add_argument("--tracking-uri", metavar="URI", help="MLflow tracking server (default: STORE/mlflow.db)")
    where.add_argument("--optuna-storage", metavar="URL", help="Optuna's database (default: STORE/optuna.db)")
    where.add_argument("--ray-storage", metavar="URI", help="Ray Tune's folder, seen by all nodes (default: STORE/ray)")


def add_resources(parser: argparse.ArgumentParser) -> None:
    """The options that say where trials run, and what each one gets."""
    how = parser.add_argument_group("how it runs")
    how.add_argument(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster (default: one that runs on this machine, else a new local one)",
    )
    how.add_argument(
        "--cpus-per-trial", type=positive_int, default=1, metavar="N", help="CPU cores per trial (default: 1)"
    )
    how.add_argument(
        "--gpus-per-trial", type=_share, default=0.0, metavar="X", help="GPUs, or a share of one (default: 0)"
    )
    how.add_argument(
        "--concurrent", type=positive_int, metavar="N", help="trials side by side at most (default: all that fit)"
    )


def _print_help(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """The help, with the values that the fields have in the study it is asked about."""
    CliSettingsSource[Any](_SpecOnCommandLine, root_parser=parser)
    own = parser.parse_known_args([argument for argument in arguments if argument not in ("-h", "--help")])[0]
    _show_values(parser, build_spec(read_study(own.study), own.study))
    parser.print_help()


def _show_values(parser: argparse.ArgumentParser, spec: StudySpec) -> None:
    """In the help of every field, its value in the study at hand instead of the model's default."""
    values = spec.model_dump(mode="json")
    for action in parser._actions:
        value: Any = values
        for part in action.dest.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if action.dest.partition(".")[0] not in values or not action.help or action.help == argparse.SUPPRESS:
            continue
        text = re.sub(r" \((default|default factory): [^()]*(\(\))?\)$| \(required\)$", "", action.help)
        action.help = f"{text} ({spec.name}: {json.dumps(value, ensure_ascii=False)})".replace("%", "%%")
        if action.dest in _FREE_FORM:
            action.metavar = _FREE_FORM[action.dest]


_FREE_FORM = {f"space.{name}": "VALUE|LIST|RANGE" for name in ("hidden_layers", "width", "aux_weight")} | {
    "space.target_depth": "TARGET|LIST",
    "space.control": "CONTROL|LIST",
    "design": "LIST",
    "objectives": "NAME=DIRECTION",
    "rlct.nbeta": "batch|dataset|NUMBER",
}


def _merged(study: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The study's fields with those of the command line in their place; sections are merged field by field."""
    merged = dict(study)
    for name, value in given.items():
        if name == "space":
            # A field that can be a list arrives as one: a single element is meant as itself.
            value = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in value.items()}
        if name in ("space", "training", "rlct", "observer") and isinstance(merged.get(name), dict):
            value = merged[name] | value
        merged[name] = value
    return merged


def positive_int(text: str) -> int:
    """An option's value that is a whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, got {text}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number, 0 or more, got {text}")
    return value


def _range_fields() -> str:
    """The fields of what is given as a mapping, from the models."""
    lines = []
    for heading, model in (
        ("RANGE of whole numbers", IntRange),
        ("RANGE of aux_weight", WeightRange),
        ("block of design LIST", DesignPoints),
    ):
        lines.append(f"  {heading}:")
        for name, field in model.model_fields.items():
            lines.append(f"    {name:<14} {field.description}")
    return "\n".join(lines)
