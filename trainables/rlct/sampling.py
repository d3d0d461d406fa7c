"""The sampler: chains around the trained weights of every replicate, all at once where the network can be stacked.

devinterp's SGMCMC takes the steps. Chains are further copies along the replicate axis. The copies share no parameter,
so the gradient of the summed loss holds each copy's own gradient, and one step moves all copies.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.config import CURVATURE_ITERATIONS, RlctConfig
from trainables.networks import ReplicatedModule
from trainables.rlct.curvature import dot
from trainables.rlct.losses import SampledLoss, SampleLosses, Start
from trainables.seeds import derived_seed
from trainables.states import (
    State,
    integer,
    optimizer_state,
    parameters_of,
    prefixed,
    restore_optimizer,
    restore_parameters,
    under,
)
from trainables.tasks import Split

DrawCallback = Callable[[int], None]
# devinterp's default settings of the preconditioner; the diagnostics need one of them.
RMSPROP_DECAY, RMSPROP_EPSILON = 0.99, 0.1
# The forces on the weights are looked at in every so many of the kept draws.
FORCES_EVERY = 10


@dataclass(frozen=True)
class Trace:
    """What C chains of D draws have seen, for R replicates."""

    loss: np.ndarray  # (D, R, C) of each draw's batch, nats; not finite after a chain has diverged
    start_loss: np.ndarray  # (D, R, C) of the trained weights on the same batches, nats
    distance: np.ndarray  # (R, C) from the trained weights to those after the last draw, ‖w − w0‖
    # (R, C), by how much finite steps and batches raise nβ·L, see `Sampler._excess`; mean over the kept draws
    excess: np.ndarray
    curvature: np.ndarray  # (R, C), the largest one after the last draw; measured for the first chain alone, else NaN


@dataclass(frozen=True)
class _Sampled:
    """What one stack of C chains of R replicates has seen in D draws."""

    loss: Tensor  # (D, C, R)
    start_loss: Tensor  # (D, C, R)
    distance: Tensor  # (C, R)
    excess: Tensor  # (C, R)
    curvature: Tensor  # (C, R), NaN where it is not measured

    def trace(self) -> Trace:
        """The same as a trace: in the same layout in memory however the tensors came here, as sums depend on it."""
        return Trace(
            loss=self.loss.transpose(1, 2).double().cpu().numpy(),
            start_loss=self.start_loss.transpose(1, 2).double().cpu().numpy(),
            distance=self.distance.T.double().cpu().numpy(),
            excess=self.excess.T.double().cpu().numpy(),
            curvature=self.curvature.T.double().cpu().numpy(),
        )


class Chains:
    """How far the chains of an estimate have come: the stacks that are done, and the state of the one being sampled."""

    def __init__(self, state: State):
        """Go on from an earlier `state`; from an empty one, begin."""
        self.done: list[_Sampled] = []
        while part := under(f"done{len(self.done)}", state):
            self.done.append(_Sampled(**part))
        self._restored = under("current", state)
        self.current: Callable[[], State] = dict

    def restored(self) -> State:
        """The state of the stack that was being sampled, once; empty if none was."""
        restored, self._restored = self._restored, {}
        return restored

    def finish(self, part: "_Sampled") -> None:
        """The current stack is done."""
        self.done.append(part)
        self.current = dict

    def state(self) -> dict[str, Tensor]:
        """Everything that sampling goes on from, between two draws."""
        state = prefixed("current", self.current())
        for index, part in enumerate(self.done):
            state |= prefixed(f"done{index}", vars(part))
        return state


@dataclass(frozen=True)
class Sampler:
    """Everything that the chains of an estimate share."""

    split: Split
    config: RlctConfig
    nbeta: float
    seed: int
    sample_losses: SampleLosses
    start: Start
    part: Collection[str] | None  # names of the parameters that are sampled; None for all
    probe: float  # the distance over which curvatures are measured

    def sample(
        self, network: ReplicatedModule, on_draw: DrawCallback | None, done: Chains, save_if_due: Callable[[], None]
    ) -> Trace:
        """Run every chain of every replicate from the trained weights, in evaluation mode.

        A chain that diverges does not affect the others. `on_draw` gets the number of draws that all chains have
        completed. Sampling goes on where `done` ends, keeps it up to date, and calls `save_if_due` between two draws.
        """
        chains = tuple(range(self.config.chains))
        if network.stackable:
            stacks = [_Stack(network, tuple(range(network.replicates)), chains)]
        else:
            stacks = [_Stack(one, (index,), (chain,)) for index, one in enumerate(network.alone()) for chain in chains]

        def count(steps: int) -> None:
            if on_draw is not None and steps % len(stacks) == 0:
                on_draw(steps // len(stacks))

        for index in range(len(done.done), len(stacks)):
            before = index * self.config.draws
            for draws in self._sample_stack(stacks[index], done):
                count(before + draws)
                save_if_due()
        parts = [part.trace() for part in done.done]
        # Stacks are in order of replicates, and of chains within a replicate.
        shape = (self.config.draws, network.replicates, self.config.chains)
        return Trace(
            loss=np.concatenate([part.loss for part in parts], axis=1).reshape(shape),
            start_loss=np.concatenate([part.start_loss for part in parts], axis=1).reshape(shape),
            distance=np.concatenate([part.distance for part in parts]).reshape(shape[1:]),
            excess=np.concatenate([part.excess for part in parts]).reshape(shape[1:]),
            curvature=np.concatenate([part.curvature for part in parts]).reshape(shape[1:]),
        )

    def _sample_stack(self, stack: "_Stack", done: Chains) -> Iterator[int]:
        """Sample one stack, and add it to those that are done; yield the number of its draws after each."""
        device = self.split.inputs.device
        copies = stack.network.repeated(len(stack.chains)).eval()
        sampled = SampledLoss.of(copies, self.split, self.sample_losses, self.part).parameters
        origin = [parameter.detach().clone() for parameter in sampled]
        start_losses = torch.from_numpy(self.start.losses[list(stack.replicates)]).float().to(device)
        # One row per copy, chain by chain, as `repeated` lays them out.
        shape = (self.config.draws, len(stack.chains), len(stack.replicates))
        losses_seen, start_seen = torch.empty(shape, device=device), torch.empty(shape, device=device)
        excess = torch.zeros(shape[1:], device=device)
        streams = [_index_stream(len(self.split), self.config, self.seed, chain) for chain in stack.chains]
        entropy = [derived_seed(self.seed, "sampler"), self.config.seed, stack.replicates[0], *stack.chains]
        noise = torch.Generator(device).manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        optimizer = _make_optimizer(sampled, self.config, self.nbeta)
        # Where the chains are pulled to, for one: it follows from the trained weights.
        constant = {name for state in optimizer.state.values() for name in state}
        drawn = 0

        def state() -> State:
            return {
                "draws": integer(drawn),
                "noise": noise.get_state(),
                "losses": losses_seen[:drawn],
                "start_losses": start_seen[:drawn],
                "excess": excess,
                **prefixed("weights", parameters_of(copies)),
                **prefixed("optimizer", optimizer_state(optimizer, without=constant)),
            }

        if earlier := done.restored():
            drawn = int(earlier["draws"])
            noise.set_state(earlier["noise"].clone())
            losses_seen[:drawn], start_seen[:drawn] = earlier["losses"], earlier["start_losses"]
            excess += earlier["excess"].to(device)
            restore_parameters(copies, under("weights", earlier))
            restore_optimizer(optimizer, under("optimizer", earlier))
            # Batches follow from the seeds and the number of the draw: they are drawn again, not kept.
            for stream in streams:
                next(islice(stream, drawn - 1, None))
        done.current = state
        for draw in range(drawn, self.config.draws):
            indices = torch.from_numpy(np.stack([next(stream) for stream in streams])).to(device)
            losses = self.sample_losses(copies, self.split.inputs[indices], self.split.labels[indices]).mean(dim=1)
            losses_seen[draw] = losses.detach().view(shape[1:])
            start_seen[draw] = start_losses[:, indices].mean(dim=2).T
            optimizer.zero_grad()
            # The copies share no parameter: each copy gets its own gradient, even if another one has diverged.
            torch.autograd.backward(losses.sum())
            if draw >= self.config.burn_in and (draw - self.config.burn_in) % FORCES_EVERY == 0:
                looks = -(-self.config.kept_draws // FORCES_EVERY)
                excess += self._excess(optimizer, sampled, origin, len(losses)).view(shape[1:]) / looks
            if self.config.sampler == "rmsprop_sgld" and draw >= self.config.burn_in // 2:
                _fix_preconditioner(optimizer)
            optimizer.step(noise_generator=noise)
            drawn = draw + 1
            yield drawn
        moved = [now.detach() - before for now, before in zip(sampled, origin, strict=True)]
        distance = dot(moved, moved, copies.replicates).sqrt().view(shape[1:])
        curvature = torch.full(shape[1:], torch.nan)
        if stack.chains[0] == 0:
            curvature[0] = self._curvature_of_first_chain(copies, len(stack.replicates))
        done.finish(_Sampled(losses_seen, start_seen, distance, excess, curvature))

    @torch.no_grad()
    def _excess(self, optimizer: Any, sampled: Sequence[Tensor], origin: Sequence[Tensor], copies: int) -> Tensor:
        """How much finite steps and batches raise nβ·L at the present weights of each copy, from the forces on them.

        With u = nβ·g, g the gradient of the batch, and x = w − w0, a stationary chain of steps ε has
        E[x·(u + γx)] = d + ε/4·E‖u + γx‖², and one of infinitely small steps and whole batches E[x·(u + γx)] = d. In a
        direction of a quadratic loss, nβ·L is the share of u in u + γx of half of this: it is too high by
        ε/8·E[u·(u + γx)], which counts the noise of the batches in flat directions in full.
        """
        rows = []
        for parameter, start in zip(sampled, origin, strict=True):
            assert parameter.grad is not None
            force = self.nbeta * parameter.grad
            pulled = force + self.config.localization * (parameter - start)
            rows.append((self._step_of(optimizer, parameter) * force * pulled).reshape(copies, -1).sum(dim=1))
        return torch.stack(rows).sum(dim=0) / 8

    def _step_of(self, optimizer: Any, parameter: Tensor) -> Tensor | float:
        """The step of each weight."""
        if self.config.sampler == "sgld":
            return self.config.step_size
        # Before the first step there is no average: the preconditioner starts at 1/ε.
        average: Tensor | None = optimizer.state[parameter].get("square_avg")
        return self.config.step_size / (RMSPROP_EPSILON + (0.0 if average is None else average.sqrt()))

    def _curvature_of_first_chain(self, copies: ReplicatedModule, replicates: int) -> Tensor:
        """The largest curvature at the present weights, (R,)."""
        first = copies.leading(replicates) if copies.stackable else copies.repeated(1)
        loss = SampledLoss.of(first, self.split, self.sample_losses, self.part)
        spectrum = loss.on_some_samples().surface(self.probe).spectrum(CURVATURE_ITERATIONS)
        return torch.from_numpy(spectrum.largest).float()


@dataclass(frozen=True)
class _Stack:
    """Chains sampled at once: those numbered in `chains`, for each replicate in `network`."""

    network: ReplicatedModule
    replicates: tuple[int, ...]
    chains: tuple[int, ...]


def _fix_preconditioner(optimizer: Any) -> None:
    """Keep the preconditioner as it is from now on.

    One that changes with the weights adds a drift, for which devinterp's sampler has no correction: regular models then
    come out 10 to 22 % too high. With a fixed one there is nothing to correct.
    """
    for group in optimizer.param_groups:
        group["preconditioner"].alpha = 1.0


def _make_optimizer(parameters: Iterable[Tensor], config: RlctConfig, nbeta: float) -> Any:
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
