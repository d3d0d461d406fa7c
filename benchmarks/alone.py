"""A study's listed trials on one machine that has only torch: no Ray, no stores, no search.

    python benchmarks/alone.py run controls --device cuda --jobs 8 --out controls.jsonl --data DIR
    python benchmarks/alone.py table controls.jsonl --measures test_accuracy,weight_std,rlct

`run` takes what study/run.py takes: the name of a study, or its file, and fields to change. Each trial is one line of
the output file, written when it ends; trials that the file has are not run again. `table` prints means over replicates
with 95 % intervals (Student's t), of the rlct over those whose verdict allows it, and where and with what they were
measured.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import hardware
from study.options import parse_options
from trainables import TrialConfig, load_task, run_experiment
from trainables.rlct import UNUSABLE
from trainables.tasks import TaskData

_data: TaskData


def main() -> None:
    """Run a study, or print what a run has left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run")
    run.add_argument("--device", default="cpu")
    run.add_argument("--jobs", type=int, default=1, help="processes side by side (default: 1)")
    run.add_argument("--out", type=Path, required=True, help="file that the results are added to")
    run.set_defaults(call=_run)
    table = commands.add_parser("table")
    table.add_argument("files", type=Path, nargs="+")
    table.add_argument("--measures", default="val_accuracy,test_accuracy,weight_std,rlct")
    table.set_defaults(call=_table)
    own, others = parser.parse_known_args()
    own.call(own, others)


def _run(own: argparse.Namespace, study_arguments: list[str]) -> None:
    options = parse_options(study_arguments)
    assert options is not None, "--list is of study/run.py"
    spec, data = options.spec, load_task(options.spec.task, options.data)
    digest = data.digest()
    done = {json.loads(line)["key"] for line in own.out.read_text().splitlines()} if own.out.exists() else set()
    configs = [config for point in spec.points() if (config := spec.trial_config(point)) is not None]
    missing = [config for config in configs if config.key(digest) not in done]
    about = {"study": spec.name, "arguments": study_arguments, "machine": _machine(own.device), "jobs": own.jobs}
    with (
        ProcessPoolExecutor(
            own.jobs, multiprocessing.get_context("spawn"), _load, (spec.task, options.data)
        ) as processes,
        own.out.open("a") as file,
    ):
        running = [processes.submit(_run_trial, config.model_dump_json(), own.device) for config in missing]
        for number, future in enumerate(as_completed(running), 1):
            result = future.result()
            file.write(json.dumps(about | result) + "\n")
            file.flush()
            print(f"{number}/{len(missing)} {result['name']}: {result['seconds']}", flush=True)


def _load(task: str, root: Path | None) -> None:
    global _data
    torch.set_num_threads(1)
    _data = load_task(task, root)


def _run_trial(config_json: str, device: str) -> dict[str, Any]:
    config = TrialConfig.model_validate_json(config_json)
    result = run_experiment(config, _data, device)
    model = config.self_model
    return {
        "key": config.key(_data.digest()),
        "name": f"{config.network.hidden_layers}x{config.network.width} {model.control} {model.aux_weight:g}",
        "config": config.flat(),
        "measurements": {name: values.tolist() for name, values in result.measurements.items()},
        "statuses": result.statuses,
        "rlct_verdicts": result.rlct.verdicts,
        "seconds": {name: round(seconds, 1) for name, seconds in result.seconds.items()},
    }


def _machine(device: str) -> dict[str, str]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "device": hardware(device),
        "cpus": str(os.cpu_count()),
        "python": platform.python_version(),
        "git_commit": commit.stdout.strip() or "unknown",
    } | {name: version(name) for name in ("torch", "devinterp", "numpy")}


def _table(own: argparse.Namespace, _: list[str]) -> None:
    import pandas as pd

    from analysis.report import with_interval
    from analysis.statistics import interval_half_width

    rows = [json.loads(line) for file in own.files for line in file.read_text().splitlines()]
    measures = own.measures.split(",")
    columns = ("hidden_layers", "width", "control", "aux_weight", "target_depths", "detach_targets", "target_form",
               "unit_weighting", "head")  # fmt: skip
    shown = [name for name in columns if len({str(row["config"][name]) for row in rows}) > 1]
    print("|", " | ".join([*shown, *measures, "status", "rlct verdicts"]), "|")
    print("|" + "---|" * (len(shown) + len(measures) + 2))
    for row in sorted(rows, key=lambda row: [str(row["config"][name]) for name in ("hidden_layers", "control")]
                      + [row["config"]["width"], row["config"]["aux_weight"]]):  # fmt: skip
        cells = [str(row["config"][name]) for name in shown]
        for name in measures:
            values = pd.Series(row["measurements"][name], dtype=float)
            if name == "rlct":
                values = values[[verdict not in UNUSABLE for verdict in row["rlct_verdicts"]]]
            known = f" (n = {len(values)})" if 0 < len(values) < len(row["statuses"]) else ""
            cells.append(with_interval(float(values.mean()), interval_half_width(values)) + known)
        for outcomes in (row["statuses"], row["rlct_verdicts"]):
            cells.append(", ".join(f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes)))
        print("|", " | ".join(cells), "|")
    for about in dict.fromkeys(json.dumps([row["machine"], row["arguments"]]) for row in rows):
        print(f"\n{about}; n = {sorted({len(row['statuses']) for row in rows})} replicates", file=sys.stderr)


if __name__ == "__main__":
    main()
