"""`python -m analysis STUDY [STUDY …]`: analyse a study, or several as one, from their record alone."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from analysis.errors import AnalysisError
from analysis.locations import STORE_VARIABLE, TRACKING_VARIABLE, sqlite_url
from analysis.secrets import password_advice, without_secrets


def main(arguments: list[str] | None = None) -> int:
    """Write the tables, figures and report of one study or several; 0, or 2 with one line of explanation."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Write tables, figures, the Pareto front and an HTML report of a study, from its record alone; of "
        "several studies, one report on the trials of all of them.",
    )
    parser.add_argument(
        "studies",
        nargs="+",
        metavar="STUDY",
        help="name of the study (its MLflow experiment); several studies of one store are analysed as one",
    )
    parser.add_argument(
        "--store",
        type=Path,
        default=Path(os.environ.get(STORE_VARIABLE) or "runs"),
        help=f"folder of the record (default: ${STORE_VARIABLE}, else ./runs)",
    )
    parser.add_argument(
        "--tracking-uri", help=f"MLflow tracking URI (default: ${TRACKING_VARIABLE}, else STORE/mlflow.db)"
    )
    parser.add_argument(
        "--rlct",
        metavar="KEY",
        help="use the rlct estimates with these settings, made by 'python -m study rlct estimate', instead of the "
        "trials' own; KEY+KEY where trials of several tasks have different ones",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder to write to (default: STORE/reports/STUDY, of several studies STORE/reports/STUDY+STUDY, with "
        "--rlct its folder rlct-KEY)",
    )
    options = parser.parse_args(arguments)
    # Imported here: these take seconds, and --help does not need them.
    from analysis.joined import read_records
    from analysis.pages import file_name
    from analysis.report import write_report

    studies = list(dict.fromkeys(options.studies))
    beside = [f"rlct-{options.rlct}"] if options.rlct else []
    command = shlex.join(["python", "-m", "analysis", *(arguments if arguments is not None else sys.argv[1:])])
    try:
        store = _existing_user(options.store)
        uri = _tracking_uri(options.tracking_uri, store)
        out = options.out or store.joinpath("reports", file_name(studies) if len(studies) > 1 else studies[0], *beside)
        record = read_records(uri, studies, options.rlct)
        report = write_report(record, out, without_secrets(command))
    except AnalysisError as error:
        print(without_secrets(f"error: {error}"), file=sys.stderr)
        return 2
    print(f"{len(record.trials)} trials, {len(record.replicates)} networks, {len(report.fits)} fitted curves")
    print(f"report: {report.page}")
    print(f"tables and figures: {report.folder}")
    return 0


def _tracking_uri(given: str | None, store: Path) -> str:
    """The tracking URI of the command line, else of the environment, else of the store's folder."""
    if given is not None and (advice := password_advice("--tracking-uri", given)) is not None:
        raise AnalysisError(advice)
    uri = given or os.environ.get(TRACKING_VARIABLE)
    if uri:
        return uri
    return sqlite_url(store.resolve() / "mlflow.db")


def _existing_user(store: Path) -> Path:
    """The folder, with the home of a user in the place of ~ or ~user."""
    try:
        return store.expanduser()
    except RuntimeError as error:
        raise AnalysisError(f"--store {store}: there is no such user's folder. Name another folder.") from error


if __name__ == "__main__":
    raise SystemExit(main())
