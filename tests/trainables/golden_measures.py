"""The measures of small trials at the time when golden/measures.json was written.

`python -m tests.trainables.golden_measures` writes the file again. Use it for a new trial here, and for measures whose
numbers are meant to change: then also raise PROTOCOL_VERSION.
"""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from tests.conftest import small_trial
from trainables import TrialConfig, load_task, run_experiment
from trainables.networks.mlp import ReplicatedMLP
from trainables.tasks import TaskData

FILE = Path(__file__).parent / "golden" / "measures.json"
# Smaller than the held-out split, so that random targets are drawn in several passes.
EVALUATION_BATCH = 100


def _trial(aux_weight: float, training: dict[str, Any] | None = None, **self_model: Any) -> TrialConfig:
    return small_trial(
        aux_weight=aux_weight, hidden_layers=2, self_model=self_model, training={"epochs": 3} | (training or {})
    )


TRIALS: dict[str, TrialConfig] = {
    "baseline": _trial(0.0),
    "self_modeling": _trial(5.0),
    "self_modeling_without_validation": _trial(5.0, {"validation_fraction": 0.0}),
    "self_modeling_until_loss": _trial(1.0, {"until_loss": 2.2}),
    "both_layers_summed": _trial(1.0, target_depths=(1, 2), unit_weighting="sum"),
    "targets_not_detached": _trial(2.0, detach_targets=False),
    "standardized": _trial(2.0, target_form="standardized"),
    "sign": _trial(2.0, target_form="sign"),
    "separate_head": _trial(2.0, head="separate"),
    "weight_decay": _trial(0.05, control="weight_decay"),
    "dropout": _trial(0.3, control="dropout"),
    "activation_penalty": _trial(2.0, control="activation_penalty"),
    "extra_outputs": _trial(0.0, control="extra_outputs"),
    "noise_targets": _trial(2.0, control="noise_targets"),
    "shuffled_targets": _trial(2.0, control="shuffled_targets"),
    "noise_targets_of_a_separate_head": _trial(2.0, control="noise_targets", head="separate"),
    "random_network": _trial(2.0, control="random_network"),
}


def measured(trial: TrialConfig, digits: TaskData) -> dict[str, dict[str, Any]]:
    """All measures of every epoch, (E, R), and those taken at the end, (R,)."""
    with patch.object(ReplicatedMLP, "evaluation_batch", EVALUATION_BATCH):
        result = run_experiment(trial, digits)
    ends = {name: values.tolist() for name, values in result.measurements.items() if name not in result.history}
    return {"history": {name: values.tolist() for name, values in result.history.items()}, "end": ends}


def golden() -> dict[str, dict[str, dict[str, Any]]]:
    """The stored measures of every trial."""
    stored: dict[str, dict[str, dict[str, Any]]] = json.loads(FILE.read_text())
    return stored


def main() -> None:
    """Write the file again."""
    torch.set_num_threads(1)
    digits = load_task("digits")
    FILE.parent.mkdir(exist_ok=True)
    rows = [f"{json.dumps(name)}: {json.dumps(measured(trial, digits))}" for name, trial in TRIALS.items()]
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
