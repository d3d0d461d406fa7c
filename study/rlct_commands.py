"""`python -m study rlct estimate` and `rlct calibrate`: the rlct of finished trials under other settings."""

import argparse
import itertools
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.box
from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from study.cli import EXIT_FAILED_TRIALS, EXIT_OK, program, shown
from study.errors import StudyError, without_password
from study.explain import explain_errors
from study.options import Parser, add_places, add_resources, data_of, positive_int, resources_of, stores_of
from study.resources import Resources
from study.stores import Stores
from trainables.config import RlctConfig
from trainables.tasks import TaskData, load_task

if TYPE_CHECKING:
    from study.estimation import Job
    from study.outcome import EstimateOutcome
    from study.record import FinishedTrial, Record

# What a calibration spans, and by which factors around the study's own value unless it is told.
SWEPT = {"step_size": (0.1, 0.3, 1.0, 3.0), "localization": (0.3, 1.0, 3.0, 10.0), "nbeta": (1.0,)}
TRIALS_TO_CALIBRATE = 8


def estimate(arguments: list[str], console: Console) -> int:
    """Estimate the rlct of every finished trial of a study with the given settings."""
    parser = _parser(
        "estimate",
        "Estimate the rlct of a study's finished trials again, from their checkpoints. Settings not given are the\n"
        "study's. The estimates stand beside the trials' own, which stay as they are; what is estimated already with\n"
        "these settings is not estimated again.",
        _SettingsOnCommandLine,
    )
    own, given = _parse(parser, _SettingsOnCommandLine, arguments)
    study = _open(own)
    settings = _settings(study, study.rlct, given)
    trials = study.record.finished()
    _print_plan(console, study.record, [settings], len(trials))
    failures = _run(study, trials, [settings], own.plan, console)
    if own.plan:
        return EXIT_OK
    command = [program("python"), "-m", "analysis", study.record.study, *study.place, "--rlct", settings.key()]
    console.print(_compared(study, settings))
    console.print(f"\nThe study with these estimates: {shlex.join(command)}", highlight=False, soft_wrap=True)
    return EXIT_FAILED_TRIALS if failures else EXIT_OK


def calibrate(arguments: list[str], console: Console) -> int:
    """Estimate the rlct of some trials of a study under a grid of settings, and say which can be trusted."""
    parser = _parser(
        "calibrate",
        "Estimate the rlct of some of a study's finished trials under a grid of settings, see where the estimates are\n"
        "stable, propose settings, and see whether the order of the trials survives them.",
        _GridOnCommandLine,
    )
    parser.add_argument(
        "--trials", type=positive_int, default=TRIALS_TO_CALIBRATE, metavar="N",
        help=f"so many trials, spread over the range of the rlct (default: {TRIALS_TO_CALIBRATE})",
    )  # fmt: skip
    own, given = _parse(parser, _GridOnCommandLine, arguments)
    study = _open(own)
    reference = _settings(study, study.rlct, {name: value for name, value in given.items() if name not in SWEPT})
    repeat = reference.model_copy(update={"seed": reference.seed + 1})
    grid = _grid(study, reference, given)
    trials = _spread(study.record.finished(), own.trials)
    _print_plan(console, study.record, grid, len(trials))
    failures = _run(study, trials, [*grid, repeat], own.plan, console)
    if own.plan:
        return EXIT_OK
    command = shlex.join([program("python"), "-m", "study", "rlct", "calibrate", *arguments])
    _conclude(study, [settings.key() for settings in grid], reference, repeat, list(trials), command, console)
    return EXIT_FAILED_TRIALS if failures else EXIT_OK


def _optional(shape: str, **overridden: Any) -> Any:
    """The settings of the rlct as options that may be left out."""
    types: dict[str, Any] = {name: field.annotation for name, field in RlctConfig.model_fields.items()}
    fields: dict[str, Any] = {
        name: ((types | overridden)[name] | None, Field(None, description=field.description))
        for name, field in RlctConfig.model_fields.items()
    }
    config = SettingsConfigDict(extra="forbid", cli_avoid_json=True, cli_hide_none_type=True)
    base: Any = type("_Options", (BaseSettings,), {"model_config": config})
    return create_model(shape, __base__=base, **fields)


_SettingsOnCommandLine = _optional("_SettingsOnCommandLine")
_GridOnCommandLine = _optional(
    "_GridOnCommandLine", **{name: list[RlctConfig.model_fields[name].annotation] for name in SWEPT}  # type: ignore[misc]
)  # fmt: skip


@dataclass(frozen=True)
class _Study:
    """A study in its record, with what an estimate of its trials needs."""

    record: "Record"
    rlct: RlctConfig
    training_samples: int
    data: TaskData
    data_digest: str
    stores: Stores
    resources: Resources

    @property
    def place(self) -> list[str]:
        """Where the record is, as options of other commands."""
        options = [] if self.stores.root == Path("runs").resolve() else ["--store", shown(self.stores.root)]
        if not self.stores.tracking_is_local:
            options += ["--tracking-uri", without_password(self.stores.tracking_uri)]
        return options


def _parser(name: str, description: str, fields: type[BaseModel]) -> Parser:
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


def _parse(
    parser: Parser, fields: type[BaseSettings], arguments: list[str]
) -> tuple[argparse.Namespace, dict[str, Any]]:
    if {"-h", "--help"} & set(arguments):
        CliSettingsSource[Any](fields, root_parser=parser)
        for action in parser._actions:
            if action.dest in RlctConfig.model_fields:
                swept = action.dest in SWEPT and fields is _GridOnCommandLine
                action.metavar = "LIST" if swept else None if action.choices else "VALUE"
                around = " and around it" if swept and len(SWEPT[action.dest]) > 1 else ""
                action.help = str(action.help).replace("(default: None)", f"(default: the study's{around})")
        parser.print_help()
        raise SystemExit(EXIT_OK)
    source: CliSettingsSource[Any] = CliSettingsSource(fields, root_parser=parser, cli_parse_args=arguments)
    own = parser.parse_args(arguments)
    return own, {name: value for name, value in source().items() if value is not None}


def _open(own: argparse.Namespace) -> _Study:
    """Everything that can be wrong is found here, before anything runs."""
    from study.record import Record

    stores = stores_of(own)
    record = Record(stores, own.study)
    spec = record.spec()
    data = load_task(spec.task, data_of(own))
    digest = data.digest()
    record.check_protocol(spec, digest)
    return _Study(
        record,
        spec.rlct,
        data.training_size(spec.training.validation_fraction),
        data,
        digest,
        stores,
        resources_of(own),
    )


def _settings(study: _Study, base: RlctConfig, given: Mapping[str, Any]) -> RlctConfig:
    raw = base.model_dump() | dict(given)
    try:
        settings = RlctConfig(**raw)
    except ValidationError as error:
        lines = explain_errors(error, raw, RlctConfig)
        raise StudyError("these settings cannot be used:\n" + "\n".join(f"  {line}" for line in lines)) from error
    if settings.batch_size > study.training_samples:
        raise StudyError(
            f"rlct.batch_size {settings.batch_size} exceeds the {study.training_samples} training samples of a trial"
        )
    return settings


def _grid(study: _Study, reference: RlctConfig, given: Mapping[str, Any]) -> list[RlctConfig]:
    """Every combination of the swept settings; the reference is always among them."""
    axes = []
    for name, factors in SWEPT.items():
        around = getattr(reference, name)
        # nβ may be a word, and γ zero: then there is nothing around it.
        default = [float(f"{around * factor:.3g}") for factor in factors] if not isinstance(around, str) else [around]
        axes.append(dict.fromkeys([*given.get(name, default), around]))
    cells = (dict(zip(SWEPT, values, strict=True)) for values in itertools.product(*axes))
    return list(dict.fromkeys(_settings(study, reference, cell) for cell in cells))


def _spread(trials: Mapping[str, "FinishedTrial"], count: int) -> dict[str, "FinishedTrial"]:
    """So many trials, from the lowest rlct to the highest; only networks that learned something."""
    usable = {key: trial for key, trial in trials.items() if trial.status == "ok" and "rlct" in trial.metrics}
    ordered = sorted(usable, key=lambda key: usable[key].metrics["rlct"])
    count = min(count, len(ordered))
    if count < 2:
        raise StudyError(f"a calibration needs two trials with networks that learned something, not {count}.")
    chosen = {round(place * (len(ordered) - 1) / (count - 1)) for place in range(count)}
    return {ordered[place]: usable[ordered[place]] for place in sorted(chosen)}


def _print_plan(console: Console, record: "Record", settings: list[RlctConfig], trials: int) -> None:
    console.print(f"[bold]{record.study}[/bold]: rlct of {trials} finished trials, {len(settings)} settings each")
    differing = {
        name: list(dict.fromkeys(getattr(each, name) for each in settings)) for name in RlctConfig.model_fields
    }
    for name, values in differing.items():
        console.print(f"  {name:<17}{', '.join(str(value) for value in values)}", highlight=False)


def _run(
    study: _Study, trials: Mapping[str, "FinishedTrial"], settings: list[RlctConfig], plan_only: bool, console: Console
) -> int:
    """Estimate what is missing; give back how many failed."""
    # Ray and torch only once it is known that there is something to do.
    from study.estimation import jobs_to_do, run_jobs

    if not trials:
        raise StudyError(f"the study {study.record.study!r} has no finished trial: run it first (study/run.py).")
    jobs = jobs_to_do(study.record, trials, settings)
    total = len(trials) * len(settings)
    console.print(f"{total - len(jobs)} of {total} estimates are there already, {len(jobs)} to do.")
    if plan_only:
        console.print("Nothing was estimated. Leave out --plan to do it.")
        return 0
    if not jobs:
        return 0
    with _Watch(len(jobs), console) as watch:
        run_jobs(jobs, study.record, study.data, study.data_digest, study.resources, watch)
    return watch.failures


class _Watch:
    """Shows how far the estimates are: a bar on a terminal, a line each elsewhere."""

    def __init__(self, jobs: int, console: Console):
        self._console, self._jobs, self._ended = console, jobs, 0
        self.failures = 0
        self._progress = Progress(
            TextColumn("estimates"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("estimates", total=jobs)

    def __enter__(self) -> "_Watch":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def finished(self, job: "Job", outcome: "EstimateOutcome") -> None:
        rlct = sum(outcome.rlct.estimates) / len(outcome.rlct.estimates)
        self._say(job, f"rlct {rlct:.4g}, {outcome.rlct.verdict} ({outcome.seconds:.1f} s)")

    def failed(self, job: "Job", reason: str) -> None:
        self.failures += 1
        self._say(job, f"failed: {reason}", failed=True)

    def _say(self, job: "Job", text: str, failed: bool = False) -> None:
        self._ended += 1
        self._progress.advance(self._task)
        if failed or not self._console.is_terminal:
            settings = f"step {job.settings.step_size:g} γ {job.settings.localization:g} nβ {job.settings.nbeta}"
            self._console.print(
                f"[{self._ended}/{self._jobs}] {job.trial.name}, {settings}: {text}",
                markup=False, highlight=False, soft_wrap=True, style="red" if failed else None,
            )  # fmt: skip


def _compared(study: _Study, settings: RlctConfig) -> Table:
    """The estimates beside the trials' own, and how far they order the trials alike."""
    from analysis import read_record
    from analysis.calibration_report import with_limits
    from analysis.report import with_interval
    from analysis.statistics import kendall_tau

    uri, name = study.stores.tracking_uri, study.record.study
    before = read_record(uri, name).trials
    after = read_record(uri, name, settings.key()).trials
    order = kendall_tau(before.set_index("trial_key")["rlct"], after.set_index("trial_key")["rlct"])
    table = Table(
        title=f"rlct, mean ± 95 % interval over replicates. Order of the trials: Kendall's τ "
        f"{with_limits(order.tau, order.low, order.high)}",
        title_justify="left", box=rich.box.SIMPLE_HEAD, padding=(0, 1),
    )  # fmt: skip
    for column in ("trial", "in the study", "verdict", "now", "verdict"):
        table.add_column(column, justify="right" if column in ("in the study", "now") else "left", no_wrap=True)
    names = {key: trial.name for key, trial in study.record.finished().items()}
    own_by_key = {row["trial_key"]: row for row in before.to_dict("records")}
    for now in after.to_dict("records"):
        own = own_by_key[now["trial_key"]]
        table.add_row(
            names[now["trial_key"]],
            with_interval(own["rlct"], own["rlct_ci95"]), own["rlct_verdict"],
            with_interval(now["rlct"], now["rlct_ci95"]), now["rlct_verdict"],
        )  # fmt: skip
    return table


def _conclude(
    study: _Study, keys: list[str], reference: RlctConfig, repeat: RlctConfig, trials: list[str], command: str,
    console: Console,
) -> None:  # fmt: skip
    """Judge the settings, write figures, tables and page, and say what came out."""
    from analysis.calibration import read_calibration
    from analysis.calibration_report import conclusions, write_calibration
    from analysis.errors import AnalysisError

    try:
        calibration = read_calibration(
            study.stores.tracking_uri, study.record.study, keys, reference.key(), repeat.key(), trials
        )
        folder = study.stores.report_folder(study.record.study) / "rlct-calibration"
        report = write_calibration(calibration, folder, command)
    except AnalysisError as error:
        raise StudyError(f"{error} The estimates are safe in the record; the same command judges them.") from error
    study.record.attach(report.folder, "rlct-calibration")
    console.print()
    console.print(_cells_table(calibration.cells.to_dict("records"), calibration.proposed))
    for line in conclusions(calibration):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"\nFigures, tables and page: {shown(report.page)}", highlight=False, soft_wrap=True)


def _cells_table(cells: list[dict[Any, Any]], proposed: str | None) -> Table:
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("step_size", "localization", "nbeta", "rlct", "se", "sound", "change", "stable", "τ"):
        table.add_column(column, justify="right", no_wrap=True)
    for cell in cells:
        table.add_row(
            f"{cell['step_size']:g}", f"{cell['localization']:g}", str(cell["nbeta"]), f"{cell['rlct']:.4g}",
            f"{cell['relative_se']:.0%}", f"{cell['sound_share']:.0%}",
            "–" if cell["change"] != cell["change"] else f"{cell['change']:.0%}",
            "proposed" if cell["settings"] == proposed else "yes" if cell["stable"] else cell["trouble"] or "no",
            f"{cell['tau']:.2f}",
        )  # fmt: skip
    return table
