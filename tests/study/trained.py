"""A study's record with really trained networks, made without Ray: for tests that read checkpoints."""

from pathlib import Path

from study.engine.runner import StudyData
from study.engine.worker import write_files
from study.record.outcome import Outcome
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.spec import StudySpec, build_spec
from trainables.experiment import run_experiment
from trainables.tasks import TaskData

RLCT = {"step_size": 1e-3, "localization": 30.0, "chains": 2, "draws": 40, "batch_size": 64}


def trained_spec(name: str, weights: tuple[float, ...] = (0, 1, 2, 5, 10)) -> StudySpec:
    raw = {
        "name": name,
        "task": "digits",
        "sampler": "grid",
        "replicates": 2,
        "space": {"hidden_layers": 1, "width": 16, "aux_weight": list(weights), "target_depth": 1},
        "training": {"epochs": 30},
        "rlct": RLCT,
        "observer": {"epochs": 0},
    }
    return build_spec(raw, name)


def write_trained_study(stores: Stores, spec: StudySpec, data: TaskData, folder: Path) -> None:
    """Train the trial of every point of the study, and write it as finished."""
    record = RecordWriter(stores, spec.name)
    digest = data.digest()
    record.open_study(spec, digest)
    for config in spec.listed():
        key = config.key(digest)
        result = run_experiment(config, data)
        outcome = Outcome.of(result, "cpu")
        files = folder / key
        files.mkdir(parents=True)
        write_files(files, result, outcome, StudyData(data, digest))
        record.start_trial(key, config)
        record.finish_trial(key, config, outcome, files)
    record.close_study("FINISHED")
