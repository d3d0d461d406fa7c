"""`python -m study why STUDY TRIAL`: why a trial failed, with its traceback and node."""

from typing import TYPE_CHECKING

from rich.console import Console

from study.commands.console import EXIT_OK
from study.commands.elsewhere import make_parser, open_record, parse, print_json
from study.errors import StudyError, without_secrets

if TYPE_CHECKING:
    from study.record.reader import RecordedTrial

# Trials that are named when none was meant.
MOST_NAMED = 12


def explain_trial(arguments: list[str], console: Console) -> int:
    """Show the traceback of a failed trial, and where it ran."""
    parser = make_parser(
        "why",
        "Why a trial failed: its traceback, the machine it ran on and how far it came.",
        "the keys study, number, key, name, state, host, stage, reason, traceback, started, ended\n"
        "(times in seconds since 1970; reason and traceback are null unless it failed).",
    )
    parser.add_argument(
        "trial", metavar="TRIAL", help="its number (as in `status`), its key or the key's beginning, or its name"
    )
    options = parse(parser, arguments)
    record = open_record(options, options.study)
    if not record.exists:
        raise StudyError(record.no_such_study())
    trial = _find(record.trials(), options.trial, options.study)
    failed = trial.state == "FAILED"
    traceback = record.error_of(trial) if failed else None
    if traceback is not None:
        traceback = without_secrets(traceback)
    if options.json:
        print_json(
            {
                "study": options.study,
                "number": trial.number,
                "key": trial.key,
                "name": trial.name,
                "state": trial.state,
                "host": trial.host,
                "stage": trial.stage,
                "reason": trial.reason if failed else None,
                "traceback": traceback,
                "started": trial.started,
                "ended": trial.ended,
            }
        )
        return EXIT_OK
    from study.commands.views.status import moment
    from trainables.outcomes import STOPPED_EARLY

    title = f"trial {trial.number}, {trial.name} (key {trial.key})"
    where = f" on {trial.host}" if trial.host else ""
    if not failed:
        how = {"FINISHED": f"finished ({trial.status})", "RUNNING": "has not ended", "KILLED": "was interrupted"}
        why = f": {trial.reason}" if trial.status == STOPPED_EARLY else ""
        text = f"{title} did not fail: it {how[trial.state]}{where}{why}."
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return EXIT_OK
    text = f"{title} failed at {moment(trial.ended)}{where}, at the stage: {trial.stage}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(traceback or "The record has no traceback of it.", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Run the failed trials again: python -m study retry {options.study}", highlight=False)
    return EXIT_OK


def _find(trials: "list[RecordedTrial]", wanted: str, study: str) -> "RecordedTrial":
    """The trial with that number, name or beginning of a key. Of several runs of one trial, the last that failed.

    Raises:
        StudyError: no trial is meant, or more than one.
    """
    numbered = [trial for trial in trials if wanted.isdigit() and trial.number == int(wanted)]
    named = [trial for trial in trials if trial.name == wanted]
    keyed = [trial for trial in trials if trial.key.startswith(wanted)] if wanted else []
    meant = numbered or named or keyed
    keys = {trial.key for trial in meant}
    if len(keys) == 1:
        return ([trial for trial in meant if trial.state == "FAILED"] or meant)[-1]
    candidates = meant or [trial for trial in trials if trial.state == "FAILED"] or trials
    lines = [f"  {trial.number}  {trial.key}  {trial.name}: {trial.state.lower()}" for trial in candidates]
    more = [f"  and {len(lines) - MOST_NAMED} more"] if len(lines) > MOST_NAMED else []
    which = "means several trials" if meant else "is no trial"
    raise StudyError(
        f"{wanted!r} {which} of the study {study!r}; "
        + ("name one of them:\n" if lines else "it has none yet.")
        + "\n".join([*lines[:MOST_NAMED], *more])
    )
