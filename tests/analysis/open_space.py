"""Records whose description lists every field of a trial's configuration."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.description import Description, Dimension, Role, undescribed
from analysis.freshness import ReportSource
from analysis.record import StudyRecord
from analysis.table import arranged, trial_table
from study.record.stores import Stores
from study.record.writer import RecordWriter
from tests.analysis.described import describe
from tests.analysis.in_memory import OBJECTIVES
from tests.study.synthetic import DIGEST, Values, falling, make_outcome, sweep_spec
from trainables.trial import TrialConfig

LISTED_DEFAULTS = {"hidden_layers": 1, "width": 64}
NOT_FIELDS = ("replicates", "seeds", "target_depths")


def every_field(*knobs: Dimension) -> Description:
    """A description with all fields of a configuration, and more knobs of the network."""
    usual = {dimension.name: dimension for dimension in undescribed().dimensions}
    config = TrialConfig.from_recipe("digits")
    dimensions = [
        usual[name].model_copy(update={"default": LISTED_DEFAULTS.get(name, usual[name].default)})
        if name in usual
        else Dimension(name=name, meaning=f"What {name} is.", role=_role(name), default=value)
        for name, value in config.flat().items()
        if name not in NOT_FIELDS
    ]
    return undescribed().model_copy(update={"dimensions": (*dimensions, usual["target"], *knobs)})


def _role(name: str) -> Role:
    return "task" if name == "task" else "network" if name == "architecture" else "setting"


def write_trials(
    stores: Stores,
    study: str,
    configs: Iterable[TrialConfig],
    folder: Path,
    values: Values = falling,
    digest: str = DIGEST,
    objectives: Mapping[str, str] | None = None,
    described: bool = True,
) -> RecordWriter:
    """A study with a finished trial of each configuration, described with every field or as usual."""
    spec = sweep_spec(name=study)
    if objectives:
        spec = spec.model_copy(update={"objectives": dict(objectives)})
    record = RecordWriter(stores, study)
    record.begin()
    folder.mkdir(exist_ok=True)
    (folder / "history.parquet").write_bytes(b"made up")
    with record.held():
        record.open_study(spec, digest)
        for config in configs:
            key = config.key(digest)
            record.start_trial(key, config)
            record.finish_trial(key, config, make_outcome(config, values), folder)
        record.close_study("FINISHED")
    if described:
        describe(stores, study, every_field())
    return record


def sweep_of(
    weights: Sequence[float], task: str = "digits", seeds: tuple[int, ...] = (0, 1, 2), **sections: Any
) -> list[TrialConfig]:
    """The configurations of a sweep over the weights; the first layer is the target."""
    network = {"hidden_layers": 1, "width": 16} | sections.pop("network", {})
    return [
        TrialConfig.from_recipe(
            task,
            aux_weight=weight,
            seeds=seeds,
            network=network,
            self_model={"target_depths": (1,)} if weight else {},
            **sections,
        )
        for weight in weights
    ]


def record_of(trials: Sequence[Mapping[str, Any]], description: Description, replicates: int = 2) -> StudyRecord:
    """A record in memory: trials with these values of dimensions, otherwise at their defaults."""
    defaults = {dimension.name: dimension.default for dimension in description.dimensions}
    rows: list[dict[str, Any]] = [
        {"study": "made-up", "trial_key": f"trial{number}", "replicate": index, "seed": index, "run_id": "run"}
        | {"status_detail": "ok", "rlct_verdict": "sound"}
        | defaults
        | {"target": "none"}
        | dict(trial)
        | {
            "val_accuracy": 0.9 - 0.01 * number + 0.001 * index,
            "weight_std": 0.3 - 0.01 * number + 0.001 * index**2,
            "rlct": 30.0 - number + index,
        }
        for number, trial in enumerate(trials)
        for index in range(replicates)
    ]
    table = arranged(pd.DataFrame(rows), description, OBJECTIVES)
    ends = pd.DataFrame(
        {"status_detail": "ok", "rlct_verdict": "sound", "seconds": 1.0, "run_id": "run"},
        index=pd.Index([f"trial{number}" for number in range(len(trials))], name="trial_key"),
    )
    source = ReportSource({}, OBJECTIVES, "")
    tags = {"protocol": "{}", "task": "digits"}
    return StudyRecord(
        "made-up", tags, OBJECTIVES, table, trial_table(table, description, ends), {}, description, source
    )
