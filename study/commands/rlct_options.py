"""The command lines of `python -m study rlct …`: every field of the rlct's settings is an option."""

import argparse
from typing import Any

from pydantic import BaseModel, Field, create_model
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from study.commands.options import Parser, add_places, add_resources, parse_fields
from trainables.config import FURTHER_ESTIMATES, RlctConfig

# The settings that a calibration varies, and its default factors around the study's value.
SWEPT = {"step_size": (0.1, 0.3, 1.0, 3.0), "localization": (0.3, 1.0, 3.0, 10.0), "nbeta": (1.0,)}


def _optional(shape: str, **overridden: Any) -> Any:
    """The settings of the rlct as options that can be left out."""
    settings = {name: field for name, field in RlctConfig.model_fields.items() if name not in FURTHER_ESTIMATES}
    types: dict[str, Any] = {name: field.annotation for name, field in settings.items()}
    fields: dict[str, Any] = {
        name: ((types | overridden)[name] | None, Field(None, description=field.description))
        for name, field in settings.items()
    }
    config = SettingsConfigDict(extra="forbid", cli_avoid_json=True, cli_hide_none_type=True)
    base: Any = type("_Options", (BaseSettings,), {"model_config": config})
    return create_model(shape, __base__=base, **fields)


# The settings that `rlct estimate` and `rlct calibrate` accept.
Settings = _optional("Settings")
Grid = _optional(
    "Grid",
    **{name: list[RlctConfig.model_fields[name].annotation] for name in SWEPT},  # type: ignore[misc]
)


def make_parser(name: str, description: str, fields: type[BaseModel]) -> Parser:
    """The parser of a command without the settings, which `parse` adds."""
    parser = Parser(
        fields,
        prog=f"python -m study rlct {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("study", metavar="STUDY", help="name of a study that has finished trials")
    parser.add_argument("--plan", action="store_true", help="show what would be estimated; estimate nothing")
    add_places(parser)
    add_resources(parser)
    return parser


def parse(
    parser: Parser, fields: type[BaseSettings], arguments: list[str]
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options other than settings, and the settings that were given.

    Raises:
        StudyError: an option is unknown or impossible.
        SystemExit: --help was requested.
    """
    if {"-h", "--help"} & set(arguments):
        CliSettingsSource[Any](fields, root_parser=parser)
        for action in parser._actions:
            if action.dest in RlctConfig.model_fields:
                swept = action.dest in SWEPT and fields is Grid
                action.metavar = "LIST" if swept else None if action.choices else "VALUE"
                around = " and around it" if swept and len(SWEPT[action.dest]) > 1 else ""
                action.help = str(action.help).replace("(default: None)", f"(default: each trial's own{around})")
        parser.print_help()
        raise SystemExit(0)
    common, given = parse_fields(parser, fields, arguments)
    return common, {name: value for name, value in given.items() if value is not None}
