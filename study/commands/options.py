"""The command line: the study, locations, and every field of the spec as an option.

The options of the spec are made from the pydantic model by pydantic-settings; a field that a study leaves out has the
model's default or the value of the task's recipe.
"""

import argparse
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from study.engine.resources import Resources
from study.engine.runners import RUNNERS, check_runner
from study.errors import StudyError
from study.record.stores import Stores
from study.spec import StudySpec, build_spec, read_study
from study.spec.explain import suggest
from trainables.registry import did_you_mean

DATA_VARIABLE = "SELF_MODELING_DATA"
DEFAULT_STUDY = "quickstart"


@dataclass(frozen=True)
class Options:
    """A parsed and validated command line."""

    spec: StudySpec
    stores: Stores
    resources: Resources
    runner: str  # one of RUNNERS
    data: Path | None
    plan_only: bool


class SpecOnCommandLine(BaseSettings, StudySpec):
    """The spec in the form from which pydantic-settings makes options."""

    model_config = SettingsConfigDict(extra="forbid", cli_avoid_json=True, cli_hide_none_type=True)


def parse_options(arguments: list[str]) -> Options | None:
    """Parse a command line; None if it only asked for the list of studies.

    Raises:
        StudyError: an option or a field is unknown, impossible or contradicts another.
        SystemExit: help was requested and has been printed.
    """
    # --help=SECTION is --help SECTION.
    arguments = [word for each in arguments for word in (each.split("=") if each.startswith("--help=") else [each])]
    if {"-h", "--help", "--help-all"} & set(arguments):
        from study.commands.help import print_help

        print_help(arguments)
        raise SystemExit(0)
    parser = make_parser()
    parser.all_options = "--help-all"
    # Constructing the settings parses the command line.
    source: CliSettingsSource[Any] = CliSettingsSource(SpecOnCommandLine, root_parser=parser, cli_parse_args=arguments)
    given = parser.parse_args(arguments)
    if given.list:
        return None
    return Options(
        spec=build_spec(_merged(read_study(given.study), source()), given.study),
        stores=stores_of(given),
        resources=resources_of(given),
        runner=given.runner,
        data=data_of(given),
        plan_only=given.plan,
    )


def make_parser() -> "Parser":
    """The parser of study/run.py without the fields of the spec, which pydantic-settings adds."""
    parser = Parser(
        StudySpec,
        prog="study/run.py",
        usage="study/run.py [STUDY] [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "study",
        nargs="?",
        default=DEFAULT_STUDY,
        metavar="STUDY",
        help=f"name of a study, or path of a YAML file (default: {DEFAULT_STUDY})",
    )
    parser.add_argument(
        "--plan", action="store_true", help="show what would run and how long it would take; run nothing"
    )
    parser.add_argument("--list", action="store_true", help="list the named studies, their questions and their costs")
    add_places(parser)
    add_resources(parser)
    return parser


def stores_of(given: argparse.Namespace) -> Stores:
    """The stores, from the options added by `add_places`."""
    return Stores.under(given.store, given.tracking_uri, given.optuna_storage, given.ray_storage)


def data_of(given: argparse.Namespace) -> Path | None:
    """The folder of the data sets, named by option or environment variable."""
    variable = os.environ.get(DATA_VARIABLE)
    data: Path | None = given.data or (Path(variable) if variable else None)
    return data.expanduser() if data else None


def resources_of(given: argparse.Namespace) -> Resources:
    """The resources, from the options added by `add_resources`.

    Raises:
        StudyError: the runner cannot use them.
    """
    resources = Resources(given.address, given.cpus_per_trial, given.gpus_per_trial, given.concurrent)
    check_runner(given.runner, resources)
    return resources


class Parser(argparse.ArgumentParser):
    """A parser that raises StudyError, with the field of `fields` that was probably meant."""

    all_options = "--help"  # option that shows all options

    def __init__(self, fields: type[BaseModel], **settings: Any):
        super().__init__(**settings)
        self._fields = fields

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized") and unknown[0].startswith("--"):
            name = unknown[0].removeprefix("--").partition("=")[0]
            options = [option for action in self._actions for option in action.option_strings]
            hint = did_you_mean(f"--{name}", options).strip()
            hint = hint or suggest(name, self._fields).replace("mean '", "mean '--")
            raise StudyError(f"unknown option --{name}; {hint} All options: {self.prog} {self.all_options}")
        raise StudyError(f"{message}. All options: {self.prog} {self.all_options}")


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the options for locations."""
    where = parser.add_argument_group("where things lie")
    where.add_argument(
        "--store",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="folder for all results of a study (default: ./runs)",
    )
    where.add_argument(
        "--data", type=Path, metavar="DIR", help=f"folder of the data sets (default: ${DATA_VARIABLE}, else ./data)"
    )
    where.add_argument("--tracking-uri", metavar="URI", help="MLflow tracking server (default: STORE/mlflow.db)")
    where.add_argument("--optuna-storage", metavar="URL", help="Optuna's database (default: STORE/optuna.db)")
    where.add_argument(
        "--ray-storage", metavar="URI", help="Ray Tune's folder, shared by all nodes (default: STORE/ray)"
    )


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Add the options for where trials run and which resources each gets."""
    how = parser.add_argument_group("how it runs")
    how.add_argument(
        "--runner",
        choices=RUNNERS,
        default=RUNNERS[0],
        help="'ray' schedules trials over this machine or a cluster; 'local' runs them one after the other in this "
        "process, without Ray (default: ray)",
    )
    how.add_argument(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster (default: one already running on this machine, else a new local one)",
    )
    how.add_argument(
        "--cpus-per-trial", type=positive_int, default=1, metavar="N", help="CPU cores per trial (default: 1)"
    )
    how.add_argument(
        "--gpus-per-trial", type=_share, default=0.0, metavar="X", help="GPUs per trial, or a share of one (default: 0)"
    )
    how.add_argument(
        "--concurrent", type=positive_int, metavar="N", help="most trials at the same time (default: all that fit)"
    )


def _merged(study: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The study's fields, replaced by those of the command line; sections are merged field by field."""
    merged = dict(study)
    for name, value in given.items():
        if name == "space":
            # A field that can be a list arrives as a list: one element means a single value.
            value = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in value.items()}
        if name in ("space", "training", "rlct", "observer") and isinstance(merged.get(name), dict):
            value = merged[name] | value
        merged[name] = value
    return merged


def positive_int(text: str) -> int:
    """The value of an option as a whole number from 1."""
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
