"""The results of a small network of each architecture at the time when the files in golden/ were written.

`python -m tests.trainables.golden` writes the files again. Use it for a new architecture, and for one whose numbers are
meant to change: then also raise PROTOCOL_VERSION, and remove its digests in trainables.code.EARLIER_DIGESTS.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.config import NetworkConfig
from trainables.networks import Head, get_architecture, layers_of
from trainables.tasks import NO_TOKEN, InputSpec

FOLDER = Path(__file__).parent / "golden"
IMAGE, TEXT = InputSpec((3, 8, 8)), InputSpec((12,), vocabulary=40)
NETWORKS: dict[str, tuple[NetworkConfig, InputSpec]] = {
    "mlp": (NetworkConfig(architecture="mlp", hidden_layers=2, width=8), IMAGE),
    "convnet": (NetworkConfig(architecture="convnet", hidden_layers=2, width=4), IMAGE),
    "resnet18": (NetworkConfig(architecture="resnet18", hidden_layers=1, width=8), IMAGE),
    "embedding_bag": (NetworkConfig(architecture="embedding_bag", hidden_layers=2, width=8), TEXT),
    "transformer": (NetworkConfig(architecture="transformer", hidden_layers=2, width=32), TEXT),
}
SEEDS = (3, 0)
SAMPLES = 5


def golden(architecture: str) -> dict[str, np.ndarray]:
    """The stored inputs (G, B, …) and outputs of an architecture."""
    with np.load(FOLDER / f"{architecture}.npz") as file:
        return dict(file)


@torch.no_grad()
def outputs(architecture: str, inputs: Tensor) -> dict[str, Tensor]:
    """The outputs of two fresh networks: in training with dropout, in evaluation, and with another head."""
    config, sample = NETWORKS[architecture]
    layers = layers_of(config, sample)
    recorded = layers[len(layers) // 2].depth
    kind = get_architecture(architecture)
    network = kind.build(config, sample, Head(classes=3, predicted=4), SEEDS, dropout=0.5)
    trained = network.train()(inputs)
    evaluated = network.eval()(inputs, [recorded])
    separate = kind.build(config, sample, Head(classes=3, predicted=4, hidden=7), SEEDS).eval()(inputs)
    assert evaluated.prediction is not None
    assert separate.prediction is not None
    return {
        "training_logits": trained.logits,
        "logits": evaluated.logits,
        "prediction": evaluated.prediction,
        "features": evaluated.features,
        "layer": evaluated.hidden[recorded],
        "separate_logits": separate.logits,
        "separate_prediction": separate.prediction,
    }


def _random_inputs(sample: InputSpec) -> Tensor:
    """A batch for each replicate, (R, B, …); texts differ in length."""
    rng = np.random.default_rng(0)
    shape = (len(SEEDS), SAMPLES, *sample.shape)
    if sample.vocabulary is None:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))
    tokens = rng.integers(0, sample.vocabulary, size=shape).astype(np.int32)
    tokens[np.arange(sample.shape[0]) >= rng.integers(1, sample.shape[0] + 1, size=(*shape[:2], 1))] = NO_TOKEN
    return torch.from_numpy(tokens)


def main() -> None:
    """Write the files again."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for architecture, (_, sample) in NETWORKS.items():
        inputs = _random_inputs(sample)
        stored = {name: tensor.numpy() for name, tensor in outputs(architecture, inputs).items()}
        np.savez_compressed(FOLDER / f"{architecture}.npz", allow_pickle=False, inputs=inputs.numpy(), **stored)


if __name__ == "__main__":
    main()
