"""Small data and a small network of every architecture, for the contracts that all of them keep."""

from pathlib import Path
from typing import Any

import numpy as np

from trainables import NetworkConfig, RlctConfig, TrainingConfig, TrialConfig, load_task
from trainables.controls import Setting, get_control
from trainables.networks import ReplicatedNetwork, get_architecture
from trainables.self_model import SelfModel
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


# A network of every architecture that is small enough to be trained in a second; a new one gets its line here.
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
    return TaskData(
        data.task, data.classes, data.train_inputs[:96], data.train_labels[:96], data.test_inputs[:32],
        data.test_labels[:32], data.vocabulary,
    )  # fmt: skip


def contract_trial(architecture: str, aux_weight: float = 1.0, **changes: Any) -> TrialConfig:
    """A trial of that architecture that trains for one epoch of three steps."""
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
    """Train a trial and leave out what comes after: the network, and its last epoch's measures."""
    setting = Setting(trial.network, data.shape.inputs, trial.seeds, "cpu")
    control = get_control(trial.self_model.control)(SelfModel(trial.self_model, trial.layers), setting)
    network = get_architecture(trial.network.architecture).build(
        trial.network, data.shape.inputs, control.head(data.classes), trial.seeds, control.dropout
    )
    splits = data.split(trial.training.validation_fraction, trial.split_seed)
    *_, last = train(network, control, splits, get_task(trial.task), trial.training, trial.seeds)
    return network, last
