"""`python -m study rlct estimate` and `rlct calibrate`: the rlct of finished trials under other settings."""

import argparse
import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from analysis.layout import Artifact
from study.commands.console import EXIT_FAILED_TRIALS, EXIT_OK, command_to_analyse, program, short_path, tell
from study.commands.options import data_of, positive_int, resources_of, stores_of
from study.commands.rlct_options import SWEPT, Grid, Settings, make_parser, parse
from study.engine.runner import Runner, StudyData
from study.engine.runners import make_runner
from study.errors import StudyError
from study.record.stores import Stores
from study.spec.explain import explain_errors
from trainables.config import RlctConfig
from trainables.errors import ConfigError
from trainables.outcomes import STATUSES, STOPPED_EARLY
from trainables.tasks import get_task, load_task

if TYPE_CHECKING:
    from study.record.reader import FinishedTrial
    from study.record.writer import RecordWriter

TRIALS_TO_CALIBRATE = 8


def estimate(arguments: list[str], console: Console) -> int:
    """Estimate the rlct of every finished trial of a study with the given settings."""
    parser = make_parser(
        "estimate",
        "Estimate the rlct of a study's finished trials again, from their checkpoints. Settings that are not given\n"
        "are each trial's own. The trials' own estimates stay unchanged. Trials that have one with these settings\n"
        "already are skipped.",
        Settings,
    )
    parser.add_argument(
        "--protocol",
        choices=("published", "local"),
        help="settings of the task's recipe instead of each trial's own: as published, or with a temperature and a "
        "pull at which the chains stay near the trained weights",
    )
    options, given = parse(parser, Settings, arguments)
    study = _open(options, console)
    trials = _finished(study)
    settings = {key: [_settings(study, trial, given, options.protocol)] for key, trial in trials.items()}
    _print_plan(console, study.record, settings)
    failures = run_estimates(study, trials, settings, options.plan, console)
    if options.plan:
        return EXIT_OK
    keys = list(dict.fromkeys(each.key() for of_trial in settings.values() for each in of_trial))
    _compare(study, keys, {trial.stored_key or key: trial.name for key, trial in trials.items()}, console)
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
    parts = _parts(study, given, options.trials, console)
    trials = {key: trial for part in parts for key, trial in part.trials.items()}
    settings = {key: [*part.grid, part.repeat] for part in parts for key in part.trials}
    _print_plan(console, study.record, {key: part.grid for part in parts for key in part.trials})
    failures = run_estimates(study, trials, settings, options.plan, console)
    if options.plan:
        return EXIT_OK
    command = shlex.join([program("python"), "-m", "study", "rlct", "calibrate", *arguments])
    for part in parts:
        name = f"{Artifact.CALIBRATION}/{part.name}" if len(parts) > 1 else str(Artifact.CALIBRATION)
        _conclude(study, part, name, command, console)
    return EXIT_FAILED_TRIALS if failures else EXIT_OK


@dataclass(frozen=True)
class OpenStudy:
    """A study's record, and what estimates of its trials need."""

    record: "RecordWriter"
    data: Mapping[str, StudyData]  # by task
    stores: Stores
    runner: Runner


def _open(options: argparse.Namespace, console: Console) -> OpenStudy:
    """Open the study, and find every error before anything runs."""
    from study.engine.plan import make_plan
    from study.record.writer import RecordWriter

    stores = stores_of(options)
    record = RecordWriter(stores, options.study)
    spec = record.spec()
    if len(record.outbox) and not options.plan:
        # Trials and estimates may be among what waits.
        with record.held(partial(tell, console)):
            record.refresh()
    plan = make_plan(spec, [load_task(task, data_of(options)) for task in spec.tasks], record)
    return OpenStudy(
        record=record,
        data=plan.data,
        stores=stores,
        runner=make_runner(options.runner, resources_of(options), stores, options.study, tell=console.print),
    )


@dataclass(frozen=True)
class _Part:
    """Trials that are calibrated together: of one task, with the same settings of their own."""

    task: str
    reference: RlctConfig
    grid: list[RlctConfig]
    trials: Mapping[str, "FinishedTrial"]

    @property
    def name(self) -> str:
        return f"{self.task}-{self.reference.key()}"

    @property
    def repeat(self) -> RlctConfig:
        """The reference with another seed."""
        return self.reference.model_copy(update={"seed": self.reference.seed + 1})


def _finished(study: OpenStudy) -> dict[str, "FinishedTrial"]:
    # Those that were stopped early have no weights in the record.
    trials = {key: trial for key, trial in study.record.finished().items() if trial.status != STOPPED_EARLY}
    if not trials:
        raise StudyError(f"the study {study.record.study!r} has no finished trial: run it first (study/run.py).")
    return trials


def _parts(study: OpenStudy, given: Mapping[str, Any], count: int, console: Console) -> list[_Part]:
    """The calibrations to make: one for each task, and for each settings that trials of it have of their own."""
    fixed = {name: value for name, value in given.items() if name not in SWEPT}
    groups: dict[tuple[str, RlctConfig], dict[str, FinishedTrial]] = {}
    for key, trial in _finished(study).items():
        groups.setdefault((trial.params["task"], _settings(study, trial, fixed)), {})[key] = trial
    large_enough = {own: trials for own, trials in groups.items() if len(_usable(trials)) > 1} or groups
    for task, reference in groups.keys() - large_enough.keys():
        console.print(
            f"{task}, settings {reference.key()}: left out, fewer than two of its trials have networks that learned "
            "something.",
            soft_wrap=True,
        )
    return [
        _Part(task, reference, _grid(reference, given), _spread(trials, count))
        for (task, reference), trials in large_enough.items()
    ]


def _settings(
    study: OpenStudy, trial: "FinishedTrial", given: Mapping[str, Any], protocol: str | None = None
) -> RlctConfig:
    """The settings for a trial: those that are given, otherwise those of a protocol of its task's recipe, or its own.

    Raises:
        StudyError: they are impossible, or the trial is of a version of the project whose fields were different.
    """
    try:
        config = trial.config
    except ValidationError as error:
        raise StudyError(
            f"the trial {trial.name!r} is of another version of this project: use that version."
        ) from error
    try:
        base = config.rlct if protocol is None else get_task(config.task).recipe.rlct_settings(protocol)
    except ConfigError as error:
        raise StudyError(f"--protocol: {config.task}: {error}") from error
    settings = _changed(base.of_one_estimate(), given)
    training, shape = config.training, study.data[config.task].data.shape
    samples = shape.training_size(training.validation_fraction, training.train_samples)
    if settings.batch_size > samples:
        raise StudyError(f"rlct.batch_size {settings.batch_size} exceeds the {samples} training samples of a trial")
    return settings


def _changed(base: RlctConfig, given: Mapping[str, Any]) -> RlctConfig:
    raw = base.model_dump() | dict(given)
    try:
        return RlctConfig(**raw)
    except ValidationError as error:
        lines = explain_errors(error, raw, RlctConfig)
        raise StudyError("these settings cannot be used:\n" + "\n".join(f"  {line}" for line in lines)) from error


def _grid(reference: RlctConfig, given: Mapping[str, Any]) -> list[RlctConfig]:
    """Every combination of the swept settings; the reference is always among them."""
    axes = []
    for name, factors in SWEPT.items():
        around = getattr(reference, name)
        # nβ may be a word and γ may be zero: then the default grid has only the value itself.
        default = [float(f"{around * factor:.3g}") for factor in factors] if not isinstance(around, str) else [around]
        axes.append(dict.fromkeys([*given.get(name, default), around]))
    combinations = (dict(zip(SWEPT, values, strict=True)) for values in itertools.product(*axes))
    return list(dict.fromkeys(_changed(reference, each) for each in combinations))


def _usable(trials: Mapping[str, "FinishedTrial"]) -> dict[str, "FinishedTrial"]:
    """The trials whose networks learned something and have an rlct."""
    return {key: trial for key, trial in trials.items() if STATUSES[trial.status].usable and "rlct" in trial.metrics}


def _spread(trials: Mapping[str, "FinishedTrial"], count: int) -> dict[str, "FinishedTrial"]:
    """`count` usable trials, spread from the lowest rlct to the highest."""
    usable = _usable(trials)
    ordered = sorted(usable, key=lambda key: usable[key].metrics["rlct"])
    count = min(count, len(ordered))
    if count < 2:
        raise StudyError(f"a calibration needs two trials with networks that learned something, not {count}.")
    chosen = {round(step * (len(ordered) - 1) / (count - 1)) for step in range(count)}
    return {ordered[index]: usable[ordered[index]] for index in sorted(chosen)}


def _print_plan(console: Console, record: "RecordWriter", settings: Mapping[str, Sequence[RlctConfig]]) -> None:
    """Show the settings, which are given by trial key."""
    counts = " or ".join(map(str, dict.fromkeys(map(len, settings.values()))))
    title = f": rlct of {len(settings)} finished trials, {counts} settings each"
    console.print(Text.assemble((record.study, "bold"), title))
    every = list(itertools.chain.from_iterable(settings.values()))
    differing = {name: list(dict.fromkeys(getattr(each, name) for each in every)) for name in RlctConfig.model_fields}
    for name, values in differing.items():
        console.print(f"  {name:<17}{', '.join(str(value) for value in values)}", highlight=False)


def run_estimates(
    study: OpenStudy,
    trials: Mapping[str, "FinishedTrial"],
    settings: Mapping[str, Sequence[RlctConfig]],
    plan_only: bool,
    console: Console,
) -> int:
    """Make the missing estimates of the trials, each with its settings, by trial key; return how many failed."""
    from study.commands.views.rlct import EstimateProgress
    from study.engine.estimation import jobs_to_do, run_jobs

    jobs = jobs_to_do(study.record, trials, settings)
    total = sum(map(len, settings.values()))
    console.print(f"{total - len(jobs)} of {total} estimates are there already, {len(jobs)} to do.")
    if plan_only:
        console.print("Nothing was estimated. Leave out --plan to do it.")
        return 0
    if not jobs:
        return 0
    say = partial(tell, console)
    with study.record.held(say):
        # Another driver may have made some of them meanwhile, or given trials more replicates.
        now = study.record.finished()
        if any(key not in now or now[key].run_id != trial.run_id for key, trial in trials.items()):
            raise StudyError("trials of the study have changed meanwhile. Run the same command again.")
        jobs = jobs_to_do(study.record, trials, settings)
        if not jobs:
            return 0
        with EstimateProgress(len(jobs), console) as watch:
            return run_jobs(jobs, study.record, study.data, study.runner, watch, say)


def _compare(study: OpenStudy, keys: Sequence[str], names: Mapping[str, str], console: Console) -> None:
    """Show the new estimates beside the trials' own, and the command to analyse the study with them."""
    from analysis.errors import AnalysisError
    from study.commands.views.rlct import compare_estimates

    name, key = study.record.study, "+".join(keys)
    try:
        console.print(compare_estimates(study.stores.tracking_uri, name, key, names))
    except AnalysisError as error:
        raise StudyError(str(error)) from error
    command = command_to_analyse(study.stores, name, "--rlct", key)
    console.print(f"\nThe study with these estimates: {command}", highlight=False, soft_wrap=True)


def _conclude(study: OpenStudy, part: _Part, name: str, command: str, console: Console) -> None:
    """Judge the settings; write figures, tables and page; print the conclusions."""
    from analysis.calibration import read_calibration
    from analysis.calibration_report import conclusions, write_calibration
    from analysis.errors import AnalysisError
    from study.commands.views.rlct import settings_table

    keys = [settings.key() for settings in part.grid]
    trials = [trial.stored_key or key for key, trial in part.trials.items()]
    try:
        calibration = read_calibration(
            study.stores.tracking_uri, study.record.study, keys, part.reference.key(), part.repeat.key(), trials
        )
        folder = study.stores.report_folder(study.record.study) / name
        report = write_calibration(calibration, folder, command)
    except AnalysisError as error:
        raise StudyError(f"{error} The estimates are safe in the record; the same command judges them.") from error
    study.record.attach(report.folder, name)
    console.print()
    if name != Artifact.CALIBRATION:
        console.print(f"{part.task}, {len(part.trials)} trials with the settings {part.reference.key()}:")
    console.print(settings_table(calibration.settings.to_dict("records"), calibration.proposed))
    for line in conclusions(calibration):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"\nFigures, tables and page: {short_path(report.page)}", highlight=False, soft_wrap=True)
