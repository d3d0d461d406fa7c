"""A study's record with networks that were really trained, without Ray: for what reads checkpoints."""

from pathlib import Path

from study.outcome import Outcome
from study.record import Record
from study.spec import StudySpec, build_spec
from study.stores import Stores
from study.trial import write_files
from trainables.checkpoint import FILE_NAME
from trainables.experiment import run_experiment
from trainables.tasks import TaskData

RLCT = {"step_size": 1e-3, "localization": 30.0, "chains": 2, "draws": 40, "batch_size": 64}


def trained_spec(name: str, weights: tuple[float, ...] = (0, 1, 2, 5, 10)) -> StudySpec:
    raw = {
        "name": name, "task": "digits", "sampler": "grid", "replicates": 2,
        "space": {"hidden_layers": 1, "width": 16, "aux_weight": list(weights), "target_depth": 1},
        "training": {"epochs": 30}, "rlct": RLCT, "observer": {"epochs": 0},
    }  # fmt: skip
    return build_spec(raw, name)


def write_trained_study(stores: Stores, spec: StudySpec, data: TaskData, folder: Path) -> None:
    """Train every cell of the study and write it as finished."""
    record = Record(stores, spec.name)
    digest = data.digest()
    record.open_study(spec, digest)
    for point in spec.points():
        config = spec.trial_config(point)
        assert config is not None
        key = config.key(digest)
        result = run_experiment(config, data)
        outcome = Outcome.of(result, "cpu")
        files = folder / key
        (files / "checkpoint").mkdir(parents=True)
        write_files(files, result, outcome, data, digest)
        (files / FILE_NAME).rename(files / "checkpoint" / FILE_NAME)
        record.start_trial(key, config)
        record.finish_trial(key, config, outcome, files)
    record.close_study("FINISHED")
