"""A study's record with made-up values: the real record, without the hours of training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from analysis.tracking import search_all_runs
from study.outcome import Outcome, RlctOutcome
from study.record import Record
from study.spec import StudySpec, build_spec
from study.stores import Stores
from trainables.experiment import FINAL_METRICS
from trainables.measures import EPOCH_METRICS, LAYER_WEIGHT_STD
from trainables.trial import TrialConfig

DIGEST = "0" * 64
Values = Callable[[TrialConfig, int], dict[str, float]]


def sweep_spec(
    name: str = "made-up",
    weights: tuple[float, ...] = (0, 1, 2, 5, 10, 20),
    replicates: int = 4,
    space: dict[str, Any] | None = None,
) -> StudySpec:
    """A grid of one network with a hidden layer of 16 units, over the weights and what else the space names."""
    raw = {
        "name": name, "question": "Is it so?", "task": "digits", "sampler": "grid", "replicates": replicates,
        "space": {"hidden_layers": 1, "width": 16, "aux_weight": list(weights), "target_depth": 1} | (space or {}),
    }  # fmt: skip
    return build_spec(raw, name)


def make_outcome(
    config: TrialConfig,
    values: Values,
    status: str = "ok",
    verdict: str = "sound",
    measures: Sequence[str] | None = None,
) -> Outcome:
    """A trial's end with the given values, 0.5 where none is given, for all measures or some."""
    per_replicate = [values(config, index) for index in range(config.replicates)]
    layers = [f"{LAYER_WEIGHT_STD}{layer.name}" for layer in config.layers]
    names = (*EPOCH_METRICS, *layers, *FINAL_METRICS, "rlct_se") if measures is None else measures
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


def write_study(stores: Stores, spec: StudySpec, values: Values, folder: Path) -> Record:
    """Write every cell of the study as finished."""
    record = Record(stores, spec.name)
    record.open_study(spec, DIGEST)
    folder.mkdir(exist_ok=True)
    (folder / "history.parquet").write_bytes(b"made up")
    for point in spec.points():
        config = spec.trial_config(point)
        assert config is not None
        key = config.key(DIGEST)
        outcome = make_outcome(config, values)
        record.start_trial(key, config)
        at_the_end = (*FINAL_METRICS, "rlct_se")
        epoch = {name: values for name, values in outcome.measurements.items() if name not in at_the_end}
        record.log_epochs(key, 1, [epoch] * 2)
        record.finish_trial(key, config, outcome, folder)
    record.close_study("FINISHED")
    return record


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
