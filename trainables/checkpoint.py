"""Checkpoints: trained weights, and what they were trained on, in a file that cannot run code (safetensors)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainables.code import EARLIER_DIGESTS, code_digest
from trainables.config import PROTOCOL_VERSION
from trainables.errors import CheckpointError, CheckpointMismatchError
from trainables.networks import ReplicatedNetwork, get_architecture
from trainables.tasks.base import InputSpec
from trainables.trial import TrialConfig

FILE_NAME = "weights.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Trained replicates and what they were trained on."""

    config: TrialConfig
    network: ReplicatedNetwork  # with the self-model's rows
    data_digest: str

    @property
    def trial_key(self) -> str:
        """The key of the trial that was trained."""
        return self.config.key(self.data_digest)


def save_checkpoint(
    folder: Path, network: ReplicatedNetwork, config: TrialConfig, data_digest: str, inputs: InputSpec
) -> Path:
    """Write the weights, with configuration and digests in the file's metadata; return the file's path."""
    path = folder / FILE_NAME
    metadata = {
        "trial_key": config.key(data_digest),
        "config": config.model_dump_json(),
        "data_digest": data_digest,
        "code_digest": code_digest(get_architecture(config.network.architecture), network),
        "protocol_version": str(PROTOCOL_VERSION),
        "inputs": json.dumps({"shape": inputs.shape, "vocabulary": inputs.vocabulary}),
        "classes": str(network.classes),
    }
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path, metadata)
    return path


def merge_checkpoints(paths: Sequence[Path], folder: Path) -> Path:
    """Join checkpoints of one trial, each of other seeds, into one file in `folder`; return its path.

    The replicates are in the order of their seeds: tensors (R, …) of all files are joined along the first axis, which
    every tensor of a replicated network has.

    Raises:
        CheckpointMismatchError: a checkpoint belongs to other code than this, or to another trial than the first.
        CheckpointError: a file cannot be read, or two have replicates of the same seed.
    """
    checkpoints = [load_checkpoint(path) for path in paths]
    first = checkpoints[0]
    for path, other in zip(paths, checkpoints, strict=True):
        if other.trial_key != first.trial_key:
            raise _mismatch(path, [("trial key", first.trial_key, other.trial_key)])
    seeds = [seed for checkpoint in checkpoints for seed in checkpoint.config.seeds]
    if len(set(seeds)) < len(seeds):
        raise CheckpointError(f"{paths[-1]} has replicates of seeds that the others have too: {sorted(seeds)}")
    order = sorted(range(len(seeds)), key=seeds.__getitem__)
    states = [checkpoint.network.state_dict() for checkpoint in checkpoints]
    weights = {name: torch.cat([state[name] for state in states])[order] for name in states[0]}
    config = first.config.model_copy(update={"seeds": tuple(sorted(seeds))})
    with safe_open(paths[0], framework="pt") as file:
        metadata = file.metadata() | {"trial_key": config.key(first.data_digest), "config": config.model_dump_json()}
    path = folder / FILE_NAME
    save_file(weights, path, metadata)
    return path


def load_checkpoint(path: Path, data_digest: str | None = None) -> Checkpoint:
    """Read a checkpoint; check that it belongs to this code and, if a digest is given, to that data.

    Raises:
        CheckpointMismatchError: the checkpoint belongs to other code or data; the message names the differences.
        CheckpointError: the file cannot be read, or is not a checkpoint of this project.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["protocol_version"] != str(PROTOCOL_VERSION):
            # Another version's configuration may have other fields: do not read it.
            raise _mismatch(path, [("protocol version", metadata["protocol_version"], str(PROTOCOL_VERSION))])
        config = TrialConfig(**json.loads(metadata["config"]))
        sample = json.loads(metadata["inputs"])
        inputs = InputSpec(tuple(sample["shape"]), sample["vocabulary"])
        architecture = get_architecture(config.network.architecture)
        network = architecture.build(config.network, inputs, config.head(int(metadata["classes"])), config.seeds)
        code_then, code_now = metadata["code_digest"], code_digest(architecture, network)
        if code_then in EARLIER_DIGESTS.get(architecture.name, ()):
            code_now = code_then
        compared = [
            ("code of the network", code_then, code_now),
            ("data", metadata["data_digest"], data_digest or metadata["data_digest"]),
            ("trial key", metadata["trial_key"], config.key(metadata["data_digest"])),
        ]
        differing = [difference for difference in compared if difference[1] != difference[2]]
        if differing:
            raise _mismatch(path, differing)
        network.load_state_dict(weights)
        return Checkpoint(config, network.eval(), metadata["data_digest"])
    except CheckpointMismatchError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint of this project: {error}. Copy it again from where it was kept, or "
            "train the trial again."
        ) from error


def _mismatch(path: Path, differing: list[tuple[str, str, str]]) -> CheckpointMismatchError:
    listed = "; ".join(f"{what}: {then[:16]} then, {now[:16]} now" for what, then, now in differing)
    return CheckpointMismatchError(
        f"{path} does not fit the code and data here ({listed}). Use the data and the git commit that its MLflow run "
        "names, or train the trial again."
    )
