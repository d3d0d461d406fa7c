"""The help of `study/run.py`: one screen, and sections of options with the values of a study."""

import argparse
import json
import re
import textwrap
from typing import Any

from pydantic_settings import CliSettingsSource

from study.commands.options import SpecOnCommandLine, make_parser, without_auto
from study.errors import StudyError
from study.shown import plain, shortened
from study.spec import StudySpec, build_spec, named_studies, read_study
from study.spec.dimensions import APART
from study.spec.ranges import Range, WeightRange, range_of
from trainables.auxiliary import AUXILIARY_TASKS
from trainables.fields import FIELDS
from trainables.measures import MEASURES
from trainables.networks import ARCHITECTURES
from trainables.registry import did_you_mean
from trainables.tasks import TASKS

USAGE = """usage: study/run.py [STUDY] [options]

Run a study: a named one, or a YAML file. Finished trials are never run again: the same command goes on
with a study that was interrupted, and runs nothing for one that is complete.

  STUDY                name of a study, or path of a YAML file (default: quickstart)
  --list               list the named studies, their questions and their costs
  --plan               show what would run and how long it would take; run nothing
  --store DIR          folder for all results of a study (default: ./runs)
  --data DIR           folder of the data sets (default: $SELF_MODELING_DATA, else ./data)
  --FIELD VALUE        any field of the study, such as --replicates 3 or --space.width 64,128
  --help SECTION       options of a section, with their values in STUDY; --help-all for all sections
"""
SECTIONS = {
    "study": "name, question, task, architecture, replicates, seeds, trials, sampler, design, objectives",
    "space": "what differs between the trials: any field of a trial, as a value, a list or a range",
    "training": "optimizer, learning rate, batch size, epochs, validation split",
    "rlct": "how the rlct is estimated",
    "observer": "the network that learns to predict each trained one",
    "budget": "when the study stops: trials, hours, CPU- and GPU-hours, money, failed trials",
    "stopping": "when a trial of a search is stopped early: the rule, and from which epoch on",
    "where": "folders and servers of data, record, search and Ray",
    "how": "runner, cluster, CPU cores and GPUs per trial, what goes on when a worker dies",
    "values": "how lists, ranges and design points are written",
}
# Sections by the names of argparse's groups.
GROUPS = {
    "options": "study",
    "positional arguments": "study",
    "where things lie": "where",
    "how it runs": "how",
    **{f"{name} options": name for name in ("space", "training", "rlct", "observer", "budget", "stopping")},
}
VALUES = """values of fields:
  LIST    0,1,10 or '[0, 1, 10]': a choice
  RANGE   '{low: 0.1, high: 20}': a range, of numbers
  for each architecture or task: '{mlp: [64, 128], convnet: {low: 8, high: 32}}'
  DESIGN  '[{aux_weight: [0, 1], width: 64}]': blocks of fields of the space, each with a value or a list
  None    unsets a field, as in --trials None
"""
METAVARS = {
    **{f"space.{name}": "VALUE|LIST|RANGE" if range_of(field) else "VALUE|LIST" for name, field in FIELDS.items()},
    "design": "LIST",
    "objectives": "NAME=DIRECTION",
    "budget.prices": "TYPE=PRICE",
    "sampler": "NAME|MAPPING",
    "rlct.nbeta": "batch|dataset|NUMBER",
}


def print_help(arguments: list[str]) -> None:
    """Print the help that the arguments ask for.

    Raises:
        StudyError: the section or the study is unknown.
    """
    asked, others = _section(arguments)
    if asked is None:
        for study in others[:1]:
            if not study.startswith("-"):
                read_study(study)
        width = max(map(len, SECTIONS))
        lines = [f"  {name:<{width}}  {summary}" for name, summary in SECTIONS.items()]
        print(USAGE + "\nsections:\n" + "\n".join(lines))
        return
    parser = make_parser()
    CliSettingsSource[Any](SpecOnCommandLine, root_parser=parser)
    study = parser.parse_known_args(others)[0].study
    _show_values(parser, build_spec(without_auto(read_study(study))[0], study))
    print(USAGE if asked == "all" else f"usage: study/run.py [STUDY] [options]: {SECTIONS[asked]}")
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if actions and asked in ("all", GROUPS.get(str(group.title))):
            formatter.start_section(group.title)
            # Of a section that may be left out, pydantic-settings says that it is none by default.
            formatter.add_text(re.sub(r"^default: .*\n", "", group.description or ""))
            formatter.add_arguments(actions)
            formatter.end_section()
    print(formatter.format_help().rstrip())
    if asked in ("all", "values", "space", "study"):
        print(f"\n{VALUES}\n{_fields_of_mappings()}\n{_names()}")


def _section(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The requested section ('all' for all, None for none), and the other arguments."""
    if "--help-all" in arguments:
        return "all", [argument for argument in arguments if argument not in ("--help-all", "--help", "-h")]
    index = next(i for i, argument in enumerate(arguments) if argument in ("-h", "--help"))
    before, after = arguments[:index], arguments[index + 1 :]
    if not after or after[0].startswith("-"):
        return None, before + after
    if after[0] in SECTIONS:
        return after[0], before + after[1:]
    if not before and (after[0] in named_studies() or after[0].endswith((".yaml", ".yml"))):
        return None, after
    hint = did_you_mean(after[0], [*SECTIONS, *named_studies()])
    asked = shortened(plain(after[0]), 100)
    raise StudyError(f"--help {asked}: no such section; {hint}the sections are {', '.join(SECTIONS)}")


def _show_values(parser: argparse.ArgumentParser, spec: StudySpec) -> None:
    """Put each field's value in this study into its help, instead of the model's default."""
    values = spec.model_dump(mode="json")
    # A dimension that the study leaves out has one value.
    values["space"] = spec.bases[0] | {name: values.get(name) for name in APART} | values["space"]
    for action in parser._actions:
        value: Any = values
        for part in action.dest.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not action.help or action.help == argparse.SUPPRESS:
            continue
        action.help = re.sub(r" \((ifdef: )?required\)$", "", action.help)
        if action.dest.partition(".")[0] not in values:
            continue
        text = re.sub(r" \((default|default factory): [^()]*(\(\))?\)$", "", action.help)
        action.help = f"{text} ({spec.name}: {json.dumps(value, ensure_ascii=False)})".replace("%", "%%")
        if action.dest in METAVARS:
            action.metavar = METAVARS[action.dest]


def _names() -> str:
    """What can be named, from the tables."""
    objectives = [measure.name for measure in MEASURES.values() if measure.sees != "test" and not measure.per_layer]
    lines = []
    for heading, names in (
        ("task", TASKS),
        ("architecture", ARCHITECTURES),
        ("control", AUXILIARY_TASKS),
        ("objective", objectives),
    ):
        text = f"  {heading}: {', '.join(names)}"
        lines.append(textwrap.fill(text, width=100, subsequent_indent="    "))
    return "\n".join(lines)


def _fields_of_mappings() -> str:
    """The fields of values that are given as mappings, from the models."""
    lines = []
    for heading, model in (
        ("RANGE", Range),
        ("RANGE of aux_weight", WeightRange),
    ):
        lines.append(f"  {heading}:")
        for name, field in model.model_fields.items():
            lines.append(f"    {name:<14} {field.description}")
    return "\n".join(lines)
