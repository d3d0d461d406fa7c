"""Small data and a small network of every architecture, for the contract tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trainables import NetworkConfig, RlctConfig, TrainingConfig, TrialConfig, load_task
from trainables.auxiliary import ActivationTargets, Setting, get_auxiliary_task
from trainables.networks import ReplicatedNetwork, get_architecture
from trainables.tasks import NO_TOKEN, TASKS, DataShape, InputSpec, Recipe, Task, TaskData, get_task
from trainables.training import train

VOCABULARY, LONGEST = 40, 12


class Reviews(Task):
    """Short texts of random words; one word decides the class."""

    name = "reviews"
    summary = "texts of up to 12 words"
    needs_data_root = False
    shape = DataShape(InputSpec((LONGEST,), VOCABULARY), 2, 160, 40)
    recipe = Recipe(
        TrainingConfig(learning_rate=0.1, momentum=0, nesterov=False, batch_size=32, epochs=2),
        RlctConfig(step_size=1e-3, draws=8, chains=2, batch_size=32),
        NetworkConfig(architecture="embedding_bag", width=8),
    )

    def load(self, root: Path | None) -> TaskData:
        rng = np.random.default_rng(0)
        words = rng.integers(0, VOCABULARY, size=(200, LONGEST)).astype(np.int32)
        labels = rng.integers(0, 2, size=200)
        words[np.arange(200), 0] = labels
        words[:, 1:] = np.where(words[:, 1:] < 2, 2, words[:, 1:])
        words[np.arange(LONGEST) >= rng.integers(1, LONGEST + 1, size=(200, 1))] = NO_TOKEN
        return TaskData(self.name, 2, words[:160], labels[:160], words[160:], labels[160:], vocabulary=VOCABULARY)


# For every architecture a network that trains in a second; add a line for a new architecture.
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"task": "digits", "hidden_layers": 2, "width": 8},
    "convnet": {"task": "digits", "hidden_layers": 2, "width": 4},
    "resnet18": {"task": "digits", "hidden_layers": 1, "width": 8},
    "embedding_bag": {"task": "reviews", "hidden_layers": 1, "width": 8},
    "transformer": {"task": "reviews", "hidden_layers": 2, "width": 16},
}
ADAM = {"optimizer": "adam", "learning_rate": 1e-3}


def network_config(architecture: str) -> NetworkConfig:
    fields = {name: value for name, value in SMALL[architecture].items() if name != "task"}
    return NetworkConfig(architecture=architecture, **fields)


def input_spec(architecture: str) -> InputSpec:
    return TASKS[SMALL[architecture]["task"]].shape.inputs


def small_data(architecture: str) -> TaskData:
    """The first 96 training and 32 test samples of the architecture's task."""
    data = load_task(SMALL[architecture]["task"])
    return replace(
        data,
        train_inputs=data.train_inputs[:96],
        train_labels=data.train_labels[:96],
        test_inputs=data.test_inputs[:32],
        test_labels=data.test_labels[:32],
    )


def contract_trial(architecture: str, aux_weight: float = 1.0, **changes: Any) -> TrialConfig:
    """A trial of this architecture that trains for one epoch of three steps."""
    training: dict[str, Any] = {"epochs": 1, "batch_size": 32, "validation_fraction": 0.0}
    if architecture == "transformer":
        training |= ADAM
    return TrialConfig.from_recipe(
        SMALL[architecture]["task"],
        aux_weight=aux_weight,
        network=network_config(architecture).model_dump(),
        training=training | changes.pop("training", {}),
        rlct={"draws": 8, "chains": 2, "batch_size": 32, "step_size": 1e-6} | changes.pop("rlct", {}),
        observer={"epochs": 0} | changes.pop("observer", {}),
        seeds=changes.pop("seeds", (3, 0)),
        **changes,
    )


def train_alone(trial: TrialConfig, data: TaskData) -> tuple[ReplicatedNetwork, dict[str, np.ndarray]]:
    """Train a trial without the steps that follow; return the network and the measures of its last epoch."""
    setting = Setting(trial.network, data.shape.inputs, trial.seeds, "cpu")
    targets = ActivationTargets(trial.self_model, trial.layers)
    auxiliary = get_auxiliary_task(trial.self_model.control)(targets, setting)
    network = get_architecture(trial.network.architecture).build(
        trial.network, data.shape.inputs, auxiliary.head(data.classes), trial.seeds, auxiliary.dropout
    )
    splits = data.split(trial.training.validation_fraction, trial.split_seed)
    *_, last = train(network, auxiliary, splits, get_task(trial.task), trial.training, trial.seeds)
    return network, last
