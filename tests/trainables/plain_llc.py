"""The reference for an rlct: devinterp's `llc()` on one network at a time, with nothing stacked."""

import contextlib
import io
import math
import tempfile
from pathlib import Path

import torch
from devinterp.slt.llc import llc
from torch import Tensor, nn

from trainables import RlctConfig
from trainables.networks import ReplicatedLinear, ReplicatedNetwork
from trainables.networks.mlp import ReplicatedMLP
from trainables.tasks import Split


def plain_llc(
    network: ReplicatedNetwork, replicate: int, split: Split, config: RlctConfig, nbeta: float, initial_loss: float
) -> tuple[float, float]:
    """Estimate the rlct of one replicate of a classifier; return the rlct and its standard error over chains.

    `initial_loss` is the loss of the trained weights over the whole split, in nats; the sampler is plain SGLD.
    """

    def losses(model: nn.Module, ids: Tensor) -> Tensor:
        index = ids[:, 0]
        return nn.functional.cross_entropy(model(split.inputs[index]), split.labels[index], reduction="none")[:, None]

    # devinterp expects sequences of two tokens: here the number of the sample, and a zero.
    pairs = torch.stack([torch.arange(len(split)), torch.zeros(len(split), dtype=torch.long)], dim=1)
    dataset = [{"input_ids": pair} for pair in pairs]
    # With a temporary folder, devinterp does not warn that draws will be lost and leaves none behind.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        result = llc(
            _plain_network(network, replicate),
            dataset,
            {},
            lr=config.step_size,
            n_beta=nbeta,
            localization=config.localization,
            loss_fn=losses,
            num_chains=config.chains,
            num_draws=config.draws,
            batch_size=config.batch_size,
            init_seed=7,
            match_sampling_input_ids_across_chains=False,
            device=str(split.inputs.device),
            output_path=Path(folder) / "draws.zarr",
        )
        kept = result.loss_trace.values[:, config.burn_in :]
    per_chain = nbeta * (kept.mean(axis=1) - initial_loss)
    return float(per_chain.mean()), float(per_chain.std(ddof=1) / math.sqrt(config.chains))


def _plain_network(network: ReplicatedNetwork, replicate: int) -> nn.Sequential:
    """One replicate of a perceptron, built from PyTorch's layers."""
    assert isinstance(network, ReplicatedMLP)
    plain = nn.Sequential(nn.Flatten())
    for layer in (*network.hidden.layers, network.head):
        assert isinstance(layer, ReplicatedLinear)
        weight, bias = layer.weight[replicate].detach(), layer.bias[replicate].detach()
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = weight, bias
        plain.extend([linear, nn.ReLU()])
    return plain[:-1]
