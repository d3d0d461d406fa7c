"""`python -m study optuna rebuild STUDY`: the Optuna study anew, from the record alone."""

import argparse

from rich.console import Console

from analysis.locations import OPTUNA_VARIABLE
from study.commands.console import EXIT_OK
from study.commands.elsewhere import make_parser, open_record, parse, print_json
from study.commands.options import add_record_places
from study.errors import StudyError, without_secrets


def rebuild_study(arguments: list[str], console: Console) -> int:
    """Delete a study's Optuna study and make it anew from the record."""
    parser = make_parser(
        "optuna rebuild",
        "Make the Optuna study of a study anew from its record (MLflow): values, parameters, user attributes,\n"
        "constraints, in the order in which the trials began. For an Optuna database that was lost or deleted.\n"
        "(A study that goes on does this by itself where the two differ.)\n\n"
        "example: python -m study optuna rebuild mnist --store runs",
        "the keys study, finished, failed (trials that failed or were interrupted).",
    )
    options = parse(parser, arguments, _add_places)
    from study.record.reader import ended_in
    from study.search.store import check_storage, check_stored_study, opened_storage, rebuild
    from study.search.view import view_of

    record = open_record(options, options.study)
    if not record.exists:
        raise StudyError(record.no_such_study())
    check_storage(record.stores.optuna_url)

    def say(text: str) -> None:
        if not options.json:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    with record.held(say):
        record.refresh()
        spec = record.spec()
        finished = ended_in(spec, record.finished())
        view = view_of(spec, finished, record.trials())
        record.stores.prepare()
        with opened_storage(record.stores.optuna_url) as storage:
            check_stored_study(spec, storage, record.run_id)
            rebuild(spec, storage, view, record.run_id)
    failed = len(view) - len(finished)
    say(f"rebuilt: {len(finished)} finished trials, {failed} failed or interrupted")
    say(f"in Optuna: {without_secrets(record.stores.optuna_url)}")
    if options.json:
        print_json({"study": options.study, "finished": len(finished), "failed": failed})
    return EXIT_OK


def _add_places(parser: argparse.ArgumentParser) -> None:
    add_record_places(parser).add_argument(
        "--optuna-storage",
        metavar="URL",
        help=f"Optuna's database (default: ${OPTUNA_VARIABLE}, else STORE/optuna.db)",
    )
