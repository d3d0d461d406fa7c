"""`python -m analysis STUDY`: analyse a study from its record alone."""

import argparse
import shlex
import sys
from pathlib import Path

from analysis.errors import AnalysisError


def main(arguments: list[str] | None = None) -> int:
    """Write the tables, figures and report of a study; 0, or 2 with one line of explanation."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Write tables, figures, the Pareto front and an HTML report of a study, from its record alone.",
    )
    parser.add_argument("study", help="name of the study (its MLflow experiment)")
    parser.add_argument("--store", type=Path, default=Path("runs"), help="folder of the record (default: ./runs)")
    parser.add_argument("--tracking-uri", help="MLflow tracking URI (default: STORE/mlflow.db)")
    parser.add_argument(
        "--rlct",
        metavar="KEY",
        help="use the rlct estimates with these settings, made by 'python -m study rlct estimate', instead of the "
        "trials' own",
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write to (default: STORE/reports/STUDY, with --rlct its folder rlct-KEY)"
    )
    options = parser.parse_args(arguments)
    # Imported here: these take seconds, and --help does not need them.
    from analysis.report import write_report
    from analysis.table import read_record

    uri = options.tracking_uri or f"sqlite:///{options.store.expanduser().resolve() / 'mlflow.db'}"
    beside = [f"rlct-{options.rlct}"] if options.rlct else []
    out = options.out or options.store.joinpath("reports", options.study, *beside)
    command = shlex.join(["python", "-m", "analysis", *(arguments if arguments is not None else sys.argv[1:])])
    try:
        record = read_record(uri, options.study, options.rlct)
        report = write_report(record, out, command)
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(record.trials)} trials, {len(record.replicates)} networks, {len(report.fits)} fitted curves")
    print(f"report: {report.page}")
    print(f"tables and figures: {report.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
