"""`python -m study stop STUDY`: ask the driver of a study to stop, wherever it runs."""

import socket
import time

from rich.console import Console

from study.commands.console import EXIT_FAILED_TRIALS, EXIT_OK
from study.commands.elsewhere import make_parser, open_record, parse, print_json
from study.errors import StudyError

# A driver looks for requests at each heartbeat.
HEARTBEATS_TO_WAIT = 12


def stop_study(arguments: list[str], console: Console) -> int:
    """Ask the driver to stop, and wait until it has taken notice; 1 if it does not."""
    parser = make_parser(
        "stop",
        "Ask the driver of a study to stop, here or on another machine: running trials end, no other begins, and the\n"
        "driver leaves the study as interrupted. Nothing that has finished is lost; the same command goes on.",
        "the keys study, outcome (stopping, stopped, nobody_runs_it, no_answer), driver (as in status, or null).",
    )
    parser.add_argument("--now", action="store_true", help="do not let running trials end: as Ctrl-C in the driver")
    options = parse(parser, arguments)
    from dataclasses import asdict

    from analysis.layout import ExperimentTag
    from study.record.lease import HowToStop, StopRequest, Watch, holders_in, this_user
    from study.record.overview import Driver

    record = open_record(options, options.study)
    if not record.exists:
        raise StudyError(record.no_such_study())

    def say(outcome: str, text: str) -> None:
        if options.json:
            driver = asdict(Driver.of(holder)) if holder else None
            print_json({"study": options.study, "outcome": outcome, "driver": driver})
        else:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    holder = record.holder()
    if holder is None:
        say("nobody_runs_it", f"Nobody runs {options.study!r}: there is nothing to stop.")
        return EXIT_OK
    how: HowToStop = "now" if options.now else "after running trials"
    request = StopRequest(holder.id, how, f"{this_user()}@{socket.gethostname()}")
    record.set_experiment_tag(ExperimentTag.STOP, request.to_json())
    if not options.json:
        console.print(f"Asked {holder} to stop …", markup=False, highlight=False, soft_wrap=True)
    watch, until = Watch(), time.monotonic() + HEARTBEATS_TO_WAIT * holder.interval
    while time.monotonic() < until:
        now = next((each for each in holders_in(record.experiment_tags()) if each.id == holder.id), None)
        if now is None:
            say("stopped", "It has stopped.")
            return EXIT_OK
        watch.look([now])
        if watch.is_dead(now):
            holder = None
            say("nobody_runs_it", "Its driver died without a word: there is nothing to stop. The same command goes on.")
            return EXIT_OK
        if now.stopping == how:
            holder = now
            then = "it is stopping." if options.now else "it stops when its running trials have ended."
            say("stopping", f"It has taken notice: {then} See: python -m study status {options.study} --follow")
            return EXIT_OK
        time.sleep(min(0.5, holder.interval / 4))
    say(
        "no_answer",
        f"No answer in {HEARTBEATS_TO_WAIT * holder.interval:.0f} s. The request stays: the driver stops when it can "
        "reach the record again. If it died, the next driver takes over.",
    )
    return EXIT_FAILED_TRIALS
