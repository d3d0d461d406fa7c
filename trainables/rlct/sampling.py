"""The sampler: chains around the trained weights of every replicate, all at once where the network can be stacked.

devinterp's SGMCMC takes the steps. Chains are further copies along the replicate axis. The copies share no parameter,
so the gradient of the summed loss holds each copy's own gradient, and one step moves all copies.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.config import RlctConfig
from trainables.networks import ReplicatedModule
from trainables.rlct.losses import SampleLosses, Start, dot
from trainables.seeds import derived_seed
from trainables.tasks import Split

DrawCallback = Callable[[int], None]
# devinterp's default settings of the preconditioner; the diagnostics need one of them.
RMSPROP_DECAY, RMSPROP_EPSILON = 0.99, 0.1


@dataclass(frozen=True)
class Trace:
    """Losses and distances in D draws of C chains for R replicates."""

    loss: np.ndarray  # (D, R, C) of each draw's batch, nats; not finite after a chain has diverged
    start_loss: np.ndarray  # (D, R, C) of the trained weights on the same batches, nats
    distance: np.ndarray  # (R, C) from the trained weights to the last draw, ‖w − w0‖


@dataclass(frozen=True)
class Sampler:
    """Everything that the chains of an estimate share."""

    split: Split
    config: RlctConfig
    nbeta: float
    seed: int
    sample_losses: SampleLosses
    start: Start

    def sample(self, network: ReplicatedModule, on_draw: DrawCallback | None) -> Trace:
        """Run every chain of every replicate from the trained weights, in evaluation mode.

        A chain that diverges does not affect the others. `on_draw` gets the number of draws that all chains have
        completed.
        """
        chains = tuple(range(self.config.chains))
        if network.stackable:
            stacks = [_Stack(network, tuple(range(network.replicates)), chains)]
        else:
            alone = [network.replicate(index) for index in range(network.replicates)]
            stacks = [_Stack(one, (index,), (chain,)) for index, one in enumerate(alone) for chain in chains]
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1
            if on_draw is not None and steps % len(stacks) == 0:
                on_draw(steps // len(stacks))

        parts = [self._sample_stack(stack, count) for stack in stacks]
        # Stacks are in order of replicates, and of chains within a replicate.
        shape = (self.config.draws, network.replicates, self.config.chains)
        return Trace(
            loss=np.concatenate([part.loss for part in parts], axis=1).reshape(shape),
            start_loss=np.concatenate([part.start_loss for part in parts], axis=1).reshape(shape),
            distance=np.concatenate([part.distance for part in parts]).reshape(shape[1:]),
        )

    def _sample_stack(self, stack: "_Stack", done: Callable[[], None]) -> Trace:
        """Sample one stack; `done` is called after each draw."""
        device = self.split.inputs.device
        copies = stack.network.repeated(len(stack.chains)).eval()
        origin = [parameter.detach().clone() for parameter in copies.parameters()]
        start_losses = torch.from_numpy(self.start.losses[list(stack.replicates)]).float().to(device)
        # One row per copy, chain by chain, as `repeated` lays them out.
        shape = (self.config.draws, len(stack.chains), len(stack.replicates))
        losses_seen, start_seen = torch.empty(shape, device=device), torch.empty(shape, device=device)
        streams = [_index_stream(len(self.split), self.config, self.seed, chain) for chain in stack.chains]
        entropy = [derived_seed(self.seed, "sampler"), self.config.seed, stack.replicates[0], *stack.chains]
        noise = torch.Generator(device).manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        optimizer = _make_optimizer(copies.parameters(), self.config, self.nbeta)
        for draw in range(self.config.draws):
            indices = torch.from_numpy(np.stack([next(stream) for stream in streams])).to(device)
            losses = self.sample_losses(copies, self.split.inputs[indices], self.split.labels[indices]).mean(dim=1)
            losses_seen[draw] = losses.detach().view(shape[1:])
            start_seen[draw] = start_losses[:, indices].mean(dim=2).T
            if draw == self.config.draws - 1:
                moved = [now.detach() - before for now, before in zip(copies.parameters(), origin, strict=True)]
                distance = dot(moved, moved, len(losses)).sqrt().view(shape[1:])
            optimizer.zero_grad()
            # The copies share no parameter: each copy gets its own gradient, even if another one has diverged.
            torch.autograd.backward(losses.sum())
            optimizer.step(noise_generator=noise)
            done()
        return Trace(
            loss=losses_seen.transpose(1, 2).double().cpu().numpy(),
            start_loss=start_seen.transpose(1, 2).double().cpu().numpy(),
            distance=distance.T.double().cpu().numpy(),
        )


@dataclass(frozen=True)
class _Stack:
    """Chains sampled at once: those numbered in `chains`, for each replicate in `network`."""

    network: ReplicatedModule
    replicates: tuple[int, ...]
    chains: tuple[int, ...]


def _make_optimizer(parameters: Iterable[nn.Parameter], config: RlctConfig, nbeta: float) -> Any:
    """devinterp's sampler, a PyTorch optimizer whose step is one draw."""
    # devinterp takes a second to import, and only this function needs it.
    from devinterp.optim import SGMCMC

    settings = {"lr": config.step_size, "nbeta": nbeta, "localization": config.localization}
    if config.sampler == "sgld":
        return SGMCMC.sgld(parameters, **settings)
    return SGMCMC.rmsprop_sgld(parameters, **settings, alpha=RMSPROP_DECAY, eps=RMSPROP_EPSILON)


def _index_stream(samples: int, config: RlctConfig, seed: int, chain: int) -> Iterator[np.ndarray]:
    """Batches of sample indices; the samples are reshuffled for each pass."""
    rng = np.random.default_rng([derived_seed(seed, "sampler"), config.seed, chain])
    while True:
        order = rng.permutation(samples)
        for first in range(0, samples - config.batch_size + 1, config.batch_size):
            yield order[first : first + config.batch_size]
