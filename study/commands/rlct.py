"""`python -m study rlct estimate` and `rlct calibrate`: the rlct of finished trials under other settings."""

import argparse
import itertools
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from analysis.layout import Artifact
from study.commands.console import EXIT_FAILED_TRIALS, EXIT_OK, command_to_analyse, program, short_path
from study.commands.options import data_of, positive_int, resources_of, stores_of
from study.commands.rlct_options import SWEPT, Grid, Settings, make_parser, parse
from study.engine.runner import Runner, StudyData
from study.engine.runners import make_runner
from study.errors import StudyError
from study.record.stores import Stores
from study.spec.explain import explain_errors
from trainables.config import RlctConfig
from trainables.outcomes import STATUSES
from trainables.tasks import load_task

if TYPE_CHECKING:
    from study.record.reader import FinishedTrial
    from study.record.writer import RecordWriter

TRIALS_TO_CALIBRATE = 8


def estimate(arguments: list[str], console: Console) -> int:
    """Estimate the rlct of every finished trial of a study with the given settings."""
    parser = make_parser(
        "estimate",
        "Estimate the rlct of a study's finished trials again, from their checkpoints. Settings that are not given\n"
        "are the study's. The trials' own estimates stay unchanged. Trials that already have an estimate with these\n"
        "settings are skipped.",
        Settings,
    )
    options, given = parse(parser, Settings, arguments)
    study = _open(options, console)
    settings = _settings(study, study.rlct, given)
    trials = study.record.finished()
    _print_plan(console, study.record, [settings], len(trials))
    failures = _run(study, trials, [settings], options.plan, console)
    if options.plan:
        return EXIT_OK
    _compare(study, settings, {trial.stored_key or key: trial.name for key, trial in trials.items()}, console)
    return EXIT_FAILED_TRIALS if failures else EXIT_OK


def calibrate(arguments: list[str], console: Console) -> int:
    """Estimate the rlct of some trials of a study under a grid of settings, and say which can be trusted."""
    parser = make_parser(
        "calibrate",
        "Estimate the rlct of some of a study's finished trials under a grid of settings, see where the estimates are\n"
        "stable, propose settings, and see whether the order of the trials survives them.",
        Grid,
    )
    parser.add_argument(
        "--trials",
        type=positive_int,
        default=TRIALS_TO_CALIBRATE,
        metavar="N",
        help=f"number of trials, spread over the range of the rlct (default: {TRIALS_TO_CALIBRATE})",
    )
    options, given = parse(parser, Grid, arguments)
    study = _open(options, console)
    reference = _settings(study, study.rlct, {name: value for name, value in given.items() if name not in SWEPT})
    repeat = reference.model_copy(update={"seed": reference.seed + 1})
    grid = _grid(study, reference, given)
    trials = _spread(study.record.finished(), options.trials)
    _print_plan(console, study.record, grid, len(trials))
    failures = _run(study, trials, [*grid, repeat], options.plan, console)
    if options.plan:
        return EXIT_OK
    command = shlex.join([program("python"), "-m", "study", "rlct", "calibrate", *arguments])
    keys = [trial.stored_key or key for key, trial in trials.items()]
    _conclude(study, [settings.key() for settings in grid], reference, repeat, keys, command, console)
    return EXIT_FAILED_TRIALS if failures else EXIT_OK


@dataclass(frozen=True)
class _Study:
    """A study's record, and what estimates of its trials need."""

    record: "RecordWriter"
    rlct: RlctConfig
    training_samples: int
    data: Mapping[str, StudyData]  # by task
    stores: Stores
    runner: Runner


def _open(options: argparse.Namespace, console: Console) -> _Study:
    """Open the study, and find every error before anything runs."""
    from study.engine.plan import make_plan
    from study.record.writer import RecordWriter

    stores = stores_of(options)
    record = RecordWriter(stores, options.study)
    spec = record.spec()
    plan = make_plan(spec, [load_task(task, data_of(options)) for task in spec.tasks], record)
    return _Study(
        record=record,
        rlct=spec.rlct,
        training_samples=min(
            of_task.data.shape.training_size(spec.training_of(task).validation_fraction)
            for task, of_task in plan.data.items()
        ),
        data=plan.data,
        stores=stores,
        runner=make_runner(options.runner, resources_of(options), stores, options.study, tell=console.print),
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
        # nβ may be a word and γ may be zero: then the default grid has only the value itself.
        default = [float(f"{around * factor:.3g}") for factor in factors] if not isinstance(around, str) else [around]
        axes.append(dict.fromkeys([*given.get(name, default), around]))
    combinations = (dict(zip(SWEPT, values, strict=True)) for values in itertools.product(*axes))
    return list(dict.fromkeys(_settings(study, reference, each) for each in combinations))


def _spread(trials: Mapping[str, "FinishedTrial"], count: int) -> dict[str, "FinishedTrial"]:
    """`count` trials, spread from the lowest rlct to the highest; only networks that learned something."""
    usable = {key: trial for key, trial in trials.items() if STATUSES[trial.status].usable and "rlct" in trial.metrics}
    ordered = sorted(usable, key=lambda key: usable[key].metrics["rlct"])
    count = min(count, len(ordered))
    if count < 2:
        raise StudyError(f"a calibration needs two trials with networks that learned something, not {count}.")
    chosen = {round(step * (len(ordered) - 1) / (count - 1)) for step in range(count)}
    return {ordered[index]: usable[ordered[index]] for index in sorted(chosen)}


def _print_plan(console: Console, record: "RecordWriter", settings: list[RlctConfig], trials: int) -> None:
    title = f": rlct of {trials} finished trials, {len(settings)} settings each"
    console.print(Text.assemble((record.study, "bold"), title))
    differing = {
        name: list(dict.fromkeys(getattr(each, name) for each in settings)) for name in RlctConfig.model_fields
    }
    for name, values in differing.items():
        console.print(f"  {name:<17}{', '.join(str(value) for value in values)}", highlight=False)


def _run(
    study: _Study, trials: Mapping[str, "FinishedTrial"], settings: list[RlctConfig], plan_only: bool, console: Console
) -> int:
    """Make the missing estimates; return how many failed."""
    from study.commands.views.rlct import EstimateProgress
    from study.engine.estimation import jobs_to_do, run_jobs

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
    with study.record.held(lambda text: console.print(text, markup=False, soft_wrap=True)):
        # Another driver may have made some of them meanwhile.
        jobs = jobs_to_do(study.record, trials, settings)
        with EstimateProgress(len(jobs), console) as watch:
            return run_jobs(jobs, study.record, study.data, study.runner, watch)


def _compare(study: _Study, settings: RlctConfig, names: Mapping[str, str], console: Console) -> None:
    """Show the new estimates beside the trials' own, and the command to analyse the study with them."""
    from analysis.errors import AnalysisError
    from study.commands.views.rlct import compare_estimates

    name = study.record.study
    try:
        console.print(compare_estimates(study.stores.tracking_uri, name, settings.key(), names))
    except AnalysisError as error:
        raise StudyError(str(error)) from error
    command = command_to_analyse(study.stores, name, "--rlct", settings.key())
    console.print(f"\nThe study with these estimates: {command}", highlight=False, soft_wrap=True)


def _conclude(
    study: _Study,
    keys: list[str],
    reference: RlctConfig,
    repeat: RlctConfig,
    trials: list[str],
    command: str,
    console: Console,
) -> None:
    """Judge the settings; write figures, tables and page; print the conclusions."""
    from analysis.calibration import read_calibration
    from analysis.calibration_report import conclusions, write_calibration
    from analysis.errors import AnalysisError
    from study.commands.views.rlct import settings_table

    try:
        calibration = read_calibration(
            study.stores.tracking_uri, study.record.study, keys, reference.key(), repeat.key(), trials
        )
        folder = study.stores.report_folder(study.record.study) / Artifact.CALIBRATION
        report = write_calibration(calibration, folder, command)
    except AnalysisError as error:
        raise StudyError(f"{error} The estimates are safe in the record; the same command judges them.") from error
    study.record.attach(report.folder, Artifact.CALIBRATION)
    console.print()
    console.print(settings_table(calibration.settings.to_dict("records"), calibration.proposed))
    for line in conclusions(calibration):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"\nFigures, tables and page: {short_path(report.page)}", highlight=False, soft_wrap=True)
