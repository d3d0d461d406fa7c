"""`python -m study status` and `list`: a study, or all of a store, as they are now, from the record alone."""

import argparse
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console

from study.commands.console import EXIT_OK
from study.commands.elsewhere import as_json, make_parser, open_record, parse, print_json
from study.commands.options import stores_of
from study.errors import StudyError

if TYPE_CHECKING:
    from study.record.outbox import Outbox
    from study.record.overview import Overview

# Seconds between two looks with --follow.
FOLLOW_INTERVAL = 2.0
# States in which a study goes on.
GOING_ON = ("running", "stopping")


def show_status(arguments: list[str], console: Console) -> int:
    """Show who runs a study, what has ended and how, what is left; with --follow, until nobody runs it."""
    parser = make_parser(
        "status",
        "A study as it is now, from its record alone: from another terminal, or from another machine with\n"
        "--tracking-uri. A driver that has not been heard of for a while is watched before it is called dead.\n"
        "Results that wait for the record are seen on the machine of the driver, with its --store.",
        "the keys study, question, state (running, stopping, finished, failed, interrupted, died, begun),\n"
        "driver, trials, replicates (fewest and most per finished trial), running, failed, best, trials_per_hour,\n"
        "seconds_left, stopped, budget (name, used, limit), last_activity, waiting (results, place), which the guide\n"
        "explains. With --follow, a line per look.",
    )
    parser.add_argument("--follow", action="store_true", help="keep looking until nobody runs the study")
    options = parse(parser, arguments)
    try:
        return _show(options, console)
    except StudyError as error:
        if not len(outbox := _outbox(options)):
            raise
        from study.commands.views.status import waiting

        raise StudyError(f"{error}\n{waiting(len(outbox), outbox.place())}") from error


def _show(options: argparse.Namespace, console: Console) -> int:
    from study.commands.views.status import following, status_view
    from study.record.overview import overview

    record = open_record(options, options.study)
    outbox = _outbox(options)
    seen = overview(record)
    if options.json:
        print_json(_as_json(seen, outbox))
        while options.follow and seen.state in GOING_ON:
            time.sleep(FOLLOW_INTERVAL)
            seen = overview(record)
            print_json(_as_json(seen, outbox))
        return EXIT_OK
    if options.follow and seen.state in GOING_ON:
        with following(console) as show:
            while seen.state in GOING_ON:
                show(seen, len(outbox))
                time.sleep(FOLLOW_INTERVAL)
                seen = overview(record)
    console.print(status_view(seen, len(outbox), outbox.place()))
    return EXIT_OK


def _outbox(options: argparse.Namespace) -> "Outbox":
    """The results that wait for the record, as far as they are in this store."""
    from study.record.outbox import Outbox

    return Outbox(stores_of(options).outbox_folder(options.study))


def _as_json(seen: "Overview", outbox: "Outbox") -> dict[str, Any]:
    return as_json(seen) | {"waiting": {"results": len(outbox), "place": outbox.place() if len(outbox) else None}}


def list_studies(arguments: list[str], console: Console) -> int:
    """List the studies of a store."""
    parser = make_parser(
        "list",
        "The studies of a store, with question, state, trials and last activity. (The named studies that come with\n"
        "the project: python study/run.py --list)",
        "a list of what `status --json` prints for each study, without waiting.",
        study=False,
    )
    options = parse(parser, arguments)
    from study.commands.views.status import studies_table
    from study.record.overview import overview

    names = open_record(options, "Default").studies()
    # Impatiently: a store may have many drivers that died long ago.
    seen = [overview(open_record(options, name), patiently=False) for name in names]
    if options.json:
        print_json([as_json(each) for each in seen])
    elif seen:
        console.print(studies_table(seen))
    else:
        console.print("This store has no studies yet. Run one: python study/run.py --help")
    return EXIT_OK
