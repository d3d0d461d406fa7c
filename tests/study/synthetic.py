"""A study's record in a real store with made-up values, without hours of training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from analysis.tracking import search_all_runs
from study.record.outcome import Outcome, RlctOutcome
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.spec import StudySpec, build_spec
from trainables.measures import MEASURES, epoch_measures
from trainables.trial import TrialConfig

DIGEST = "0" * 64
Values = Callable[[TrialConfig, int], dict[str, float]]


def sweep_spec(
    name: str = "made-up",
    weights: tuple[float, ...] = (0, 1, 2, 5, 10, 20),
    replicates: int = 4,
    space: dict[str, Any] | None = None,
) -> StudySpec:
    """A grid of one network with a hidden layer of 16 units, over the weights and the other given dimensions."""
    raw = {
        "name": name,
        "question": "Is it so?",
        "task": "digits",
        "sampler": "grid",
        "replicates": replicates,
        "space": {"hidden_layers": 1, "width": 16, "aux_weight": list(weights), "target_depth": 1} | (space or {}),
    }
    return build_spec(raw, name)


def make_outcome(
    config: TrialConfig,
    values: Values,
    status: str = "ok",
    verdict: str = "sound",
    measures: Sequence[str] | None = None,
) -> Outcome:
    """A trial's outcome with the given values, otherwise 0.5, for all measures or some."""
    per_replicate = [values(config, index) for index in range(config.replicates)]
    every = [name for measure in MEASURES.values() for name in measure.names(config.layers)]
    names = (*every, "rlct_chain_se") if measures is None else measures
    return Outcome(
        measurements={name: [row.get(name, 0.5) for row in per_replicate] for name in names},
        status=status,
        replicate_statuses=[status] * config.replicates,
        rlct=RlctOutcome(
            per_chain=[[row.get("rlct", 0.5)] * 2 for row in per_replicate],
            initial_loss=[0.1] * config.replicates,
            nbeta=26.4,
            verdicts=[verdict] * config.replicates,
            reasons=["made up"] * config.replicates,
            diagnostics={"r_hat": [1.01] * config.replicates},
        ),
        seconds={"training": 1.0, "rlct": 1.5, "observer": 0.5},
        device="cpu",
        host="here",
    )


def write_study(stores: Stores, spec: StudySpec, values: Values, folder: Path) -> RecordWriter:
    """Write a finished trial for every point of the study, as a driver does."""
    record = RecordWriter(stores, spec.name)
    record.begin()
    with record.held():
        write_trials(record, spec, values, folder)
    return record


def write_trials(record: RecordWriter, spec: StudySpec, values: Values, folder: Path) -> None:
    """Write a finished trial for every point of the study, in a record that is held or that nobody else writes."""
    record.open_study(spec, DIGEST)
    folder.mkdir(exist_ok=True)
    (folder / "history.parquet").write_bytes(b"made up")
    for config in spec.listed():
        key = config.key(DIGEST)
        outcome = make_outcome(config, values)
        record.start_trial(key, config)
        of_epochs = [name for measure in epoch_measures() for name in measure.names(config.layers)]
        epoch = {name: outcome.measurements[name] for name in of_epochs}
        record.log_epochs(key, 1, [epoch] * 2)
        record.finish_trial(key, config, outcome, folder)
    record.close_study("FINISHED")


def runs_of(stores: Stores, study: str, condition: str = "") -> list[Run]:
    """The runs of a study that meet a search condition."""
    client = MlflowClient(stores.tracking_uri)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    return search_all_runs(client, experiment.experiment_id, condition)


def falling(config: TrialConfig, index: int) -> dict[str, float]:
    """rlct falls with the weight as 30·(1 + w/5)^−0.4, weight_std as 0.3·(1 + w/5)^−0.1, with some noise."""
    noise = np.random.default_rng([index, int(config.self_model.aux_weight * 10)]).normal(scale=0.002)
    weight = config.self_model.aux_weight
    return {
        "rlct": 30 * (1 + weight / 5) ** -0.4 * (1 + noise),
        "weight_std": 0.3 * (1 + weight / 5) ** -0.1 * (1 + noise),
        "val_accuracy": 0.97 - 0.001 * weight + noise,
    }
