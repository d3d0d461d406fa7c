"""Checkpoints: the trained weights with all that says what they are, and nothing executable (safetensors)."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainables.config import PROTOCOL_VERSION, TrialConfig
from trainables.errors import CheckpointError
from trainables.networks import ReplicatedNetwork, get_architecture, layers_of
from trainables.self_model import SelfModel

FILE_NAME = "weights.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Trained replicates and what they were trained on."""

    config: TrialConfig
    network: ReplicatedNetwork  # with the self-model's rows
    data_digest: str
    protocol_version: int


def save_checkpoint(
    folder: Path, network: ReplicatedNetwork, config: TrialConfig, data_digest: str, features: int, classes: int
) -> Path:
    """Write the weights, with configuration and digests in the file's metadata; give back the file's path."""
    path = folder / FILE_NAME
    metadata = {
        "trial_key": config.key(data_digest),
        "config": config.model_dump_json(),
        "data_digest": data_digest,
        "protocol_version": str(PROTOCOL_VERSION),
        "features": str(features),
        "classes": str(classes),
    }
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path, metadata)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: the file cannot be read, or is not a checkpoint of this project.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = TrialConfig(**json.loads(metadata["config"]))
        features, classes = int(metadata["features"]), int(metadata["classes"])
        self_model = SelfModel(config.self_model, layers_of(config.network), classes)
        network = get_architecture(config.network.architecture).build(
            config.network, features, self_model.head_rows, config.seeds
        )
        network.load_state_dict(weights)
        return Checkpoint(config, network, metadata["data_digest"], int(metadata["protocol_version"]))
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint of this project: {error}. Copy it again from where it was kept, or "
            "train the trial again."
        ) from error
