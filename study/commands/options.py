"""The command line: the study, locations, and every field of the spec as an option.

The options of the spec are made from the pydantic model by pydantic-settings; a field that a study leaves out has the
model's default or the value of the task's recipe.
"""

import argparse
import math
import os
import re
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, create_model
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from analysis.locations import OPTUNA_VARIABLE, STORE_VARIABLE, TRACKING_VARIABLE
from analysis.secrets import password_advice
from study.engine.resources import Resources
from study.engine.runners import RUNNERS, check_runner
from study.errors import StudyError
from study.record.stores import Stores
from study.shown import plain, shortened, shown
from study.spec import StudySpec, build_spec, read_study
from study.spec.dimensions import APART, SearchSpace
from study.spec.explain import suggest
from study.spec.study import SECTIONS
from study.spec.yaml_text import read_yaml
from trainables.fields import FIELDS, PATHS
from trainables.registry import did_you_mean

DATA_VARIABLE = "SELF_MODELING_DATA"
RAY_STORAGE_VARIABLE = "SELF_MODELING_RAY_STORAGE"
DEFAULT_STUDY = "quickstart"
# As the step size of the rlct: found before the first trial.
AUTO = "auto"
# Characters of an option's value: longer ones belong into a study file.
LONGEST_OPTION = 10_000
# Fields that are plain texts, which may begin with a bracket.
TEXTS = ("name", "question")


@dataclass(frozen=True)
class Options:
    """A parsed and validated command line."""

    spec: StudySpec
    stores: Stores
    resources: Resources
    runner: str  # one of RUNNERS
    data: Path | None
    plan_only: bool
    # Whether the step size of the rlct is found before the first trial; until then, that of the recipe is in its place.
    auto_step_size: bool = False


# The dimensions of the space as texts, which `_dimension` reads.
SpaceOnCommandLine = create_model(
    "SpaceOnCommandLine",
    **{  # type: ignore[call-overload]
        name: (Any, Field(None, description=field.description))
        for name, field in {
            **{name: StudySpec.model_fields[name] for name in APART},
            **SearchSpace.model_fields,
        }.items()
    },
)


class SpecOnCommandLine(BaseSettings, StudySpec):
    """The spec in the form from which pydantic-settings makes options."""

    sampler: str = Field("tpe", description=StudySpec.model_fields["sampler"].description)  # type: ignore[assignment]
    space: SpaceOnCommandLine = Field(  # type: ignore[assignment]
        default_factory=SpaceOnCommandLine, description=StudySpec.model_fields["space"].description
    )

    model_config = SettingsConfigDict(extra="forbid", cli_avoid_json=True, cli_hide_none_type=True)


def parse_options(arguments: list[str]) -> Options | None:
    """Parse a command line; None if it only asked for the list of studies.

    Raises:
        StudyError: an option or a field is unknown, impossible or contradicts another.
        SystemExit: help was requested and has been printed.
    """
    # --help=SECTION is --help SECTION, and --space.training.epochs is --space.epochs.
    arguments = [_short_path(word) for word in arguments]
    arguments = [word for each in arguments for word in (each.split("=") if each.startswith("--help=") else [each])]
    if {"-h", "--help", "--help-all"} & set(arguments):
        from study.commands.help import print_help

        print_help(arguments)
        raise SystemExit(0)
    parser = make_parser()
    parser.all_options = "--help-all"
    given, fields = parse_fields(parser, SpecOnCommandLine, arguments)
    if given.list:
        return None
    stores = stores_of(given)
    stores.check_folder()
    raw, auto = without_auto(_merged(read_study(given.study), fields))
    return Options(
        spec=build_spec(raw, given.study),
        stores=stores,
        resources=resources_of_trials(given),
        runner=given.runner,
        data=data_of(given),
        plan_only=given.plan,
        auto_step_size=auto,
    )


def without_auto(raw: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A study's fields without `rlct.step_size: auto`, which is no value of a trial, and whether it was there."""
    rlct = raw.get("rlct")
    if not isinstance(rlct, dict) or rlct.get("step_size") != AUTO:
        return raw, False
    return raw | {"rlct": {name: value for name, value in rlct.items() if name != "step_size"}}, True


def _short_path(word: str) -> str:
    option, equals, value = word.partition("=")
    path = option.removeprefix("--space.")
    return f"--space.{PATHS[path]}{equals}{value}" if path != option and path in PATHS else word


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
    add_survival(add_resources(parser))
    return parser


def parse_fields(
    parser: "Parser", fields: type[BaseSettings], arguments: list[str]
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options of the parser, and the given ones among `fields`, which pydantic-settings adds to it.

    Raises:
        StudyError: an option is unknown, given twice or has a value that cannot be read.
    """
    _check_words(arguments)
    words, in_yaml = _take_yaml(arguments, fields)
    try:
        # Constructing the settings parses the command line.
        source: CliSettingsSource[Any] = CliSettingsSource(fields, root_parser=parser, cli_parse_args=words)
        common, given = parser.parse_args(words), source()
    except SettingsError as error:
        found = re.search(r"for (?:field )?\"?([\w.]+)", str(error))
        option = f"--{found[1]}" if found else "an option"
        form = "NAME=DIRECTION, such as rlct=minimize" if option == "--objectives" else "as in a study file"
        raise StudyError(f"{option}: its value cannot be read. Write it {form}; --help values shows how.") from error
    for path, value in in_yaml.items():
        section, _, key = path.rpartition(".")
        (given.setdefault(section, {}) if section else given)[key] = value
    return common, given


def stores_of(given: argparse.Namespace) -> Stores:
    """The stores, from the options added by `add_places`, else from environment variables, else under --store.

    Raises:
        StudyError: a location is impossible, or has a password, which must not stand on a command line.
    """
    urls = {
        "--tracking-uri": given.tracking_uri,
        "--optuna-storage": given.optuna_storage,
        "--ray-storage": given.ray_storage,
        "--artifacts": given.artifacts,
    }
    for option, url in urls.items():
        _check_port(option, url)
        if url is not None and (advice := password_advice(option, url)) is not None:
            raise StudyError(advice)
    variables = {
        name: value
        for name, option in ((TRACKING_VARIABLE, given.tracking_uri), (OPTUNA_VARIABLE, given.optuna_storage))
        if option is None and (value := os.environ.get(name))
    }
    try:
        return Stores.under(
            given.store,
            given.tracking_uri or variables.get(TRACKING_VARIABLE),
            given.optuna_storage or variables.get(OPTUNA_VARIABLE),
            given.ray_storage or os.environ.get(RAY_STORAGE_VARIABLE),
            given.artifacts,
            frozenset(variables),
        )
    except (OSError, ValueError) as error:
        # A path with a NUL, or a name that is too long.
        raise StudyError("--store and the other locations: one of them is not a path or URL.") from error


def data_of(given: argparse.Namespace) -> Path | None:
    """The folder of the data sets, named by option or environment variable.

    Raises:
        StudyError: the variable names a folder that cannot exist.
    """
    variable = os.environ.get(DATA_VARIABLE)
    try:
        data: Path | None = given.data or (folder(variable) if variable else None)
    except argparse.ArgumentTypeError as error:
        raise StudyError(f"${DATA_VARIABLE}: {error}.") from error
    return data


def resources_of(given: argparse.Namespace) -> Resources:
    """The resources, from the options added by `add_resources`.

    Raises:
        StudyError: the runner cannot use them.
    """
    _check_address(given.address)
    resources = Resources(given.address, given.cpus_per_trial, given.gpus_per_trial, given.concurrent)
    check_runner(given.runner, resources)
    return resources


def resources_of_trials(given: argparse.Namespace) -> Resources:
    """The resources, from the options added by `add_resources` and `add_survival`.

    Raises:
        StudyError: the runner cannot use them.
    """
    return replace(resources_of(given), restarts=given.restarts, snapshot_interval=given.snapshot_interval)


class Parser(argparse.ArgumentParser):
    """A parser that raises StudyError, with the field of `fields` that was probably meant."""

    all_options = "--help"  # option that shows all options

    def __init__(self, fields: type[BaseModel], **settings: Any):
        super().__init__(**settings)
        self._fields = fields

    def error(self, message: str) -> NoReturn:
        message = shortened(plain(message), 300)
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized") and unknown and unknown[0].startswith("--"):
            name = unknown[0].removeprefix("--").partition("=")[0]
            # Fields of sections are suggested by `suggest`, which knows where one most often belongs.
            strings = [option for action in self._actions for option in action.option_strings if "." not in option]
            hint = "" if "." in name else did_you_mean(f"--{name}", strings).strip()
            hint = hint or suggest(name, self._fields).replace("mean '", "mean '--")
            raise StudyError(f"unknown option --{name}; {hint} All options: {self.prog} {self.all_options}")
        raise StudyError(f"{message}. All options: {self.prog} {self.all_options}")


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the options for locations."""
    where = add_record_places(parser)
    where.add_argument(
        "--data", type=folder, metavar="DIR", help=f"folder of the data sets (default: ${DATA_VARIABLE}, else ./data)"
    )
    where.add_argument(
        "--artifacts",
        metavar="URI",
        help="folder or bucket (s3://BUCKET/PREFIX) for the files of trials (default: the MLflow server's, else "
        "STORE/mlflow-artifacts)",
    )
    where.add_argument(
        "--optuna-storage",
        metavar="URL",
        help=f"Optuna's database (default: ${OPTUNA_VARIABLE}, else STORE/optuna.db)",
    )
    where.add_argument(
        "--ray-storage",
        metavar="URI",
        help=f"Ray Tune's folder, shared by all nodes (default: ${RAY_STORAGE_VARIABLE}, else STORE/ray)",
    )


def add_record_places(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options for the location of the record alone; return their group."""
    where = parser.add_argument_group("where things lie")
    where.add_argument(
        "--store",
        type=folder,
        default=Path(os.environ.get(STORE_VARIABLE) or "runs"),
        metavar="DIR",
        help=f"folder for all results of a study (default: ${STORE_VARIABLE}, else ./runs)",
    )
    where.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"MLflow server or database (default: ${TRACKING_VARIABLE}, else STORE/mlflow.db)",
    )
    return where


def add_resources(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options for where trials run and which resources each gets; return their group."""
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
        "--gpus-per-trial",
        type=_number,
        default=0.0,
        metavar="X",
        help="GPUs per trial, or a share of one (default: 0)",
    )
    how.add_argument(
        "--concurrent", type=positive_int, metavar="N", help="most trials at the same time (default: all that fit)"
    )
    return how


def add_survival(how: argparse._ArgumentGroup) -> None:
    """Add the options for what a trial does about workers that die."""
    how.add_argument(
        "--snapshot-interval",
        type=_number,
        default=Resources.snapshot_interval,
        metavar="SECONDS",
        help="a running trial keeps its state this often, to go on from it when its worker or the driver has died "
        "(default: %(default)g; less often where it would take more than 2 %% of the time)",
    )
    how.add_argument(
        "--restarts",
        type=_count,
        default=Resources.restarts,
        metavar="N",
        help="how often a trial whose worker or node has died goes on elsewhere before it counts as failed "
        "(default: %(default)s)",
    )


def _merged(study: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The study's fields, replaced by those of the command line; sections are merged field by field."""
    study, given = _with_short_names(study), _with_short_names(given)
    merged = _without_what_is_replaced(study, given)
    for name, value in given.items():
        if name == "space" and isinstance(value, dict):
            value = {field: _dimension(text) for field, text in value.items()}
        if name == "design" and isinstance(value, dict):
            # A block alone.
            value = [value]
        if name in APART and isinstance(value, list) and len(value) == 1:
            # A field that can be a list arrives as a list: one element means a single value.
            value = value[0]
        if name == "stopping" and value is None:
            # It is the one section that can be taken out.
            merged.pop(name, None)
            continue
        if name in ("space", "budget", "stopping", *SECTIONS) and isinstance(merged.get(name), dict):
            if not isinstance(value, dict):
                raise StudyError(f"--{name} {shown(value)}: is no mapping. Set a field of it: --{name}.FIELD VALUE.")
            value = merged[name] | value
        merged[name] = value
    return merged


def _with_short_names(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with `epochs` for `training.epochs` in the space, unless both are there, which the spec refuses."""
    space = fields.get("space")
    if not isinstance(space, dict):
        return fields
    short = {PATHS.get(name, name): value for name, value in space.items()}
    return fields | {"space": short} if len(short) == len(space) else fields


def _without_what_is_replaced(study: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The study without fields that the command line puts elsewhere: from the space into a section, or back."""
    kept = {name: dict(value) if isinstance(value, dict) else value for name, value in study.items()}
    space = given.get("space")
    for name in space if isinstance(space, dict) else ():
        section, _, key = FIELDS[name].path.rpartition(".") if name in FIELDS else ("", "", "")
        if section in SECTIONS and isinstance(kept.get(section), dict):
            kept[section].pop(key, None)
        if name in (*APART, "split_seed"):
            kept.pop(name, None)
    if isinstance(kept.get("space"), dict):
        for section in SECTIONS:
            of_section = given.get(section)
            for key in of_section if isinstance(of_section, dict) else ():
                kept["space"].pop(PATHS.get(f"{section}.{key}"), None)
        for name in (*APART, "split_seed"):
            if name in given:
                kept["space"].pop(name, None)
    return kept


def _dimension(text: Any) -> Any:
    """A dimension from the text of an option: a value, or a list with commas; what is no text stays as it is."""
    if not isinstance(text, str):
        return text
    text = text.strip()
    if "," in text:
        return [_scalar(part.strip()) for part in text.split(",")]
    return _scalar(text)


def _scalar(text: str) -> Any:
    return None if text in ("None", "null") else text


def _check_words(arguments: list[str]) -> None:
    """Check that no option is given twice: the last of two values would win, or both be taken for a list."""
    given: dict[str, str] = {}
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for word, after in zip(words, [*words[1:], ""], strict=False):
        if not word.startswith("--"):
            continue
        option, equals, value = word.partition("=")
        if option in given:
            raise StudyError(
                f"{_short(option)} is given twice. Give it once; the values of a list with commas between."
            )
        given[option] = value if equals else after
    for option, value in given.items():
        whole = option.rpartition(".")[0]
        if whole in given:
            raise StudyError(f"{whole} and {_short(option)} overlap. Give single fields alone, or the whole alone.")
        if len(value) > LONGEST_OPTION:
            raise StudyError(f"{_short(option)}: its value has {len(value):,} characters. Put it into a study file.")


def _take_yaml(arguments: list[str], fields: type[BaseModel]) -> tuple[list[str], dict[str, Any]]:
    """The other words of a command line, and the values of fields that are lists or mappings, which are read as YAML.

    JSON is YAML, too. The values have the paths of their fields, `space.width`.
    """
    others: list[str] = []
    found: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*others, word, *words], found
        option, equals, value = word.partition("=")
        given = [word]
        if not equals and _may_be_structured(option, fields):
            given += islice(words, 1)
            value = given[-1]
        if _may_be_structured(option, fields) and value.lstrip().startswith(("[", "{")):
            found[option.removeprefix("--")] = read_yaml(value.strip(), f"{_short(option)} {shown(value)}")
        else:
            others += given
    return others, found


def _may_be_structured(option: str, fields: type[BaseModel]) -> bool:
    """Whether an option is a field whose value may be a list or a mapping."""
    name, _, key = option.removeprefix("--").partition(".")
    field = fields.model_fields.get(name)
    if field is None or not option.startswith("--"):
        return False
    if not key:
        return name not in TEXTS
    kind = field.annotation
    return isinstance(kind, type) and issubclass(kind, BaseModel) and key in kind.model_fields


def _short(option: str) -> str:
    return shortened(plain(option), 60)


def _check_port(option: str, url: str | None) -> None:
    """Check the port of a URL. The message does not quote it: a part of a password may stand where the port should."""
    if url is None or "://" not in url:
        return
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise StudyError(
            f"{option}: not a URL, or its port is no number from 0 to 65535. Write it as "
            "http://HOST:PORT, with the characters @ : / of a password as %40 %3A %2F."
        ) from error


def _check_address(address: str | None) -> None:
    try:
        _ = urlsplit(address if address is None or "://" in address else f"//{address}").port
    except ValueError as error:
        raise StudyError(
            f"--address {shown(address)}: is no address of a Ray cluster. Write HOST:PORT, such as 10.0.0.1:6379."
        ) from error


def folder(text: str) -> Path:
    """The value of an option as the path of a folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"there is no home folder for {shown(text)}") from error


def positive_int(text: str) -> int:
    """The value of an option as a whole number from 1."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, got {text}")
    return int(text)


def _count(text: str) -> int:
    return 0 if re.fullmatch("0+", text) else positive_int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number, 0 or more, got {text}")
    return value
