"""The sampler: chains around the trained weights of every replicate, all at once where the network can be stacked.

devinterp's `sample_single_chain` takes the steps. Chains are one more copy of the replicate axis: the copies share no
parameter, so the sum of their losses gives each one its own gradient, and one run samples all of them.
"""

import contextlib
import gc
import io
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from trainables.config import RlctConfig
from trainables.networks import ReplicatedModule
from trainables.rlct.losses import SampleLosses, Start, dot
from trainables.seeds import derived_seed
from trainables.tasks import Split

DrawCallback = Callable[[int], None]
# devinterp's own settings of the preconditioner, named here because the diagnostics need one of them.
RMSPROP_DECAY, RMSPROP_EPSILON = 0.99, 0.1


@dataclass(frozen=True)
class Trace:
    """What the sampler saw of R replicates in D draws of C chains."""

    loss: np.ndarray  # (D, R, C) of each draw's batch, nats; NaN from the draw on at which a chain diverged
    start_loss: np.ndarray  # (D, R, C) of the trained weights on the same batches, nats
    distance: np.ndarray  # (R, C) between the trained weights and those of the last draw, ‖w − w0‖


def sample(
    network: ReplicatedModule,
    split: Split,
    config: RlctConfig,
    nbeta: float,
    seed: int,
    sample_losses: SampleLosses,
    start: Start,
    on_draw: DrawCallback | None,
) -> Trace:
    """Run every chain of every replicate from the trained weights, in evaluation mode.

    A chain that diverges does not touch the others. `on_draw` gets the number of draws that all chains have done.
    """
    chains = tuple(range(config.chains))
    if network.stackable:
        stacks = [_Stack(network, tuple(range(network.replicates)), chains)]
    else:
        alone = [network.replicate(index) for index in range(network.replicates)]
        stacks = [_Stack(one, (index,), (chain,)) for index, one in enumerate(alone) for chain in chains]
    steps = 0

    def count(_: int) -> None:
        nonlocal steps
        steps += 1
        if on_draw is not None and steps % len(stacks) == 0:
            on_draw(steps // len(stacks))

    parts = [_run(stack, split, config, nbeta, seed, sample_losses, start, count) for stack in stacks]
    # Stacks go through the replicates, and within each through its chains.
    shape = (config.draws, network.replicates, config.chains)
    return Trace(
        loss=np.concatenate([part.loss for part in parts], axis=1).reshape(shape),
        start_loss=np.concatenate([part.start_loss for part in parts], axis=1).reshape(shape),
        distance=np.concatenate([part.distance for part in parts]).reshape(shape[1:]),
    )


@dataclass(frozen=True)
class _Stack:
    """Chains that are sampled together: each of `chains` of each replicate in `network`."""

    network: ReplicatedModule
    replicates: tuple[int, ...]
    chains: tuple[int, ...]


def _run(
    stack: _Stack,
    split: Split,
    config: RlctConfig,
    nbeta: float,
    seed: int,
    sample_losses: SampleLosses,
    start: Start,
    on_draw: DrawCallback,
) -> Trace:
    """Sample one stack."""
    # devinterp takes seconds to import, and only this function needs it.
    from devinterp.optim import SGMCMC
    from devinterp.slt.sampler import sample_single_chain

    device = split.inputs.device
    frozen = _EvaluationMode(stack.network.repeated(len(stack.chains)))
    start_losses = torch.from_numpy(start.losses[list(stack.replicates)]).float().to(device)
    # One row per copy, chain by chain, as `repeated` lays them out.
    shape = (config.draws, len(stack.chains), len(stack.replicates))
    losses_seen = torch.full(shape, math.nan, device=device)
    start_seen = torch.full(shape, math.nan, device=device)
    distance = torch.full(shape[1:], math.nan, device=device)
    draw = 0

    def evaluate(model: _EvaluationMode, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        nonlocal draw
        indices = batch["input_ids"][0].to(device)
        losses = sample_losses(model.network, split.inputs[indices], split.labels[indices]).mean(dim=1)
        losses_seen[draw] = losses.detach().view(shape[1:])
        start_seen[draw] = start_losses[:, indices].mean(dim=2).T
        draw += 1
        if draw == config.draws:
            moved = [now - before for now, before in zip(model.parameters(), frozen.parameters(), strict=True)]
            distance.copy_(dot(moved, moved, len(losses)).sqrt().detach().view(shape[1:]))
        on_draw(draw)
        # devinterp ends all copies when one is not finite: let the others go on. It takes the mean over the copies:
        # their number gives each one its own gradient.
        return torch.where(torch.isfinite(losses), losses, 0.0) * len(losses), {}

    entropy = [derived_seed(seed, "sampler"), config.seed, stack.replicates[0], *stack.chains]
    with _quiet(), _random_state_restored(), _cheap_garbage_collection():
        sample_single_chain(
            frozen,
            _Batches(len(split), config, seed, stack.chains),
            evaluate,
            {name: None for name, _ in frozen.named_parameters()},
            num_draws=config.draws,
            sampling_method=SGMCMC.sgld if config.sampler == "sgld" else SGMCMC.rmsprop_sgld,
            sampling_method_kwargs={"lr": config.step_size, "nbeta": nbeta, "localization": config.localization}
            | ({} if config.sampler == "sgld" else {"alpha": RMSPROP_DECAY, "eps": RMSPROP_EPSILON}),
            seed=int(np.random.SeedSequence(entropy).generate_state(1)[0]),
            device=str(device),
            batch_size=1,
            shuffle=False,
            epoch_mode="once",
        )
    return Trace(
        loss=losses_seen.transpose(1, 2).double().cpu().numpy(),
        start_loss=start_seen.transpose(1, 2).double().cpu().numpy(),
        distance=distance.T.double().cpu().numpy(),
    )


class _EvaluationMode(nn.Module):
    """Holds a network in evaluation mode, whatever mode is asked for: the sampler asks for that of training."""

    def __init__(self, network: ReplicatedModule):
        super().__init__()
        self.network = network
        self.train()

    def train(self, mode: bool = True) -> "_EvaluationMode":
        return super().train(False)


class _Batches(Dataset[dict[str, Tensor]]):
    """Item d is the indices (chains, batch) of draw d: each chain walks through its own shuffled passes."""

    def __init__(self, samples: int, config: RlctConfig, seed: int, chains: Sequence[int]):
        self.draws = config.draws
        self._streams = [
            _index_stream(
                samples,
                config.batch_size,
                np.random.default_rng([derived_seed(seed, "sampler"), config.seed, chain]),
            )
            for chain in chains
        ]

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, draw: int) -> dict[str, Tensor]:
        return {"input_ids": torch.from_numpy(np.stack([next(stream) for stream in self._streams]))}


def _index_stream(samples: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    while True:
        order = rng.permutation(samples)
        for first in range(0, samples - batch_size + 1, batch_size):
            yield order[first : first + batch_size]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the sampler's progress bar off the terminal."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _random_state_restored() -> Iterator[None]:
    """The sampler seeds Python, NumPy and PyTorch globally; undo that for the caller."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextlib.contextmanager
def _cheap_garbage_collection() -> Iterator[None]:
    """The sampler collects garbage before and after each run: over all that is imported, half a second each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
