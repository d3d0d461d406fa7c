"""The real log canonical threshold, estimated after training as the local learning coefficient.

    rlct = nβ · (mean loss of the kept draws − loss of the trained weights)

with the draws of devinterp's SGLD sampler around the trained weights (Lau et al. 2023, arXiv 2308.12108). Chains are
one more copy of the replicate axis: all replicates and chains are sampled in one go.
"""

import contextlib
import gc
import io
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainables.config import RlctConfig
from trainables.networks import ReplicatedNetwork
from trainables.seeds import derived_seed
from trainables.tasks import Split
from trainables.training import EVALUATION_BATCH, cross_entropy

RlctVerdict = Literal["sound", "chains_disagree", "not_a_minimum", "diverged"]
# From best to worst; a trial's verdict is the worst of its replicates'.
VERDICTS: tuple[RlctVerdict, ...] = ("sound", "chains_disagree", "not_a_minimum", "diverged")
# Standard error over chains, as a share of the estimate, above which the chains do not agree.
CHAIN_AGREEMENT = 0.1


@dataclass(frozen=True)
class RlctEstimate:
    """Estimates of R replicates from C chains of D draws."""

    per_chain: np.ndarray  # (R, C)
    initial_loss: np.ndarray  # (R,), nats
    loss_trace: np.ndarray  # (D, R, C), nats; NaN from the draw on at which a chain diverged
    nbeta: float
    burn_in: int

    @property
    def estimate(self) -> np.ndarray:
        """Mean over chains, (R,); NaN where a chain diverged."""
        return np.asarray(self.per_chain.mean(axis=1))

    @property
    def standard_error(self) -> np.ndarray:
        """Standard error over chains, (R,)."""
        return np.asarray(self.per_chain.std(axis=1, ddof=1) / math.sqrt(self.per_chain.shape[1]))

    @property
    def verdicts(self) -> tuple[RlctVerdict, ...]:
        """Per replicate: did every chain stay finite, is the estimate positive, do the chains agree."""
        return tuple(_verdict(e, s) for e, s in zip(self.estimate, self.standard_error, strict=True))


def resolve_nbeta(config: RlctConfig, training_samples: int) -> float:
    """The inverse temperature nβ as a number."""
    if config.nbeta == "batch":
        return config.batch_size / math.log(config.batch_size)
    if config.nbeta == "dataset":
        return training_samples / math.log(training_samples)
    return config.nbeta


def estimate_rlct(
    network: ReplicatedNetwork,
    split: Split,
    config: RlctConfig,
    seed: int,
    on_draw: Callable[[int], None] | None = None,
) -> RlctEstimate:
    """Estimate the rlct of every replicate of a classifier on the data it was trained on.

    Every chain of every replicate starts at the trained weights and takes `config.draws` steps; each chain has its own
    sequence of batches, reshuffled every pass. A chain that diverges does not touch the others.

    Args:
        network: the classifier without the self-model's rows; left unchanged.
        split: the training split.
        config: sampler settings.
        seed: fixes batches and noise; the global random state is left as it was.
        on_draw: called after each step with the number of steps done.

    Raises:
        ValueError: the sampler's batch is larger than the split.
    """
    if config.batch_size > len(split):
        raise ValueError(f"rlct.batch_size {config.batch_size} exceeds the {len(split)} training samples")
    # devinterp takes seconds to import, and only this function needs it.
    from devinterp.optim import SGMCMC
    from devinterp.slt.sampler import sample_single_chain

    replicates, chains = network.replicates, config.chains
    copies = network.repeated(chains)
    nbeta = resolve_nbeta(config, len(split))
    trace = torch.full((config.draws, chains, replicates), math.nan)
    step = 0

    def evaluate(model: ReplicatedNetwork, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        nonlocal step
        losses = _losses(model, split, batch["input_ids"][0])
        trace[step] = losses.detach().view(chains, replicates).cpu()
        step += 1
        if on_draw is not None:
            on_draw(step)
        # devinterp ends all copies when one is not finite. They share no parameter: let the others go on.
        return torch.where(torch.isfinite(losses), losses, 0.0), {}

    with _quiet(), _random_state_restored(), _cheap_garbage_collection():
        sample_single_chain(
            copies,
            _Batches(len(split), config, seed),
            evaluate,
            {name: None for name, _ in copies.named_parameters()},
            num_draws=config.draws,
            sampling_method=SGMCMC.sgld,
            # The mean over the copies divides each one's gradient by their number: nbeta makes up for it.
            sampling_method_kwargs={
                "lr": config.step_size,
                "nbeta": nbeta * chains * replicates,
                "localization": config.localization,
            },
            seed=derived_seed(seed, "sampler") % 2**32,
            device=str(split.inputs.device),
            batch_size=1,
            shuffle=False,
            epoch_mode="once",
        )
    initial_loss = _initial_loss(network, split)
    burn_in = int(config.draws * config.burn_in_fraction)
    loss_trace = trace.permute(0, 2, 1).double().numpy()
    per_chain = nbeta * (loss_trace[burn_in:].mean(axis=0) - initial_loss[:, None])
    return RlctEstimate(per_chain, initial_loss, loss_trace, nbeta, burn_in)


class _Batches(Dataset[dict[str, Tensor]]):
    """Item d is the indices (chains, batch) of draw d: each chain walks through its own shuffled passes."""

    def __init__(self, samples: int, config: RlctConfig, seed: int):
        self.draws = config.draws
        self._streams = [
            _index_stream(samples, config.batch_size, np.random.default_rng([derived_seed(seed, "sampler"), chain]))
            for chain in range(config.chains)
        ]

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, draw: int) -> dict[str, Tensor]:
        return {"input_ids": torch.from_numpy(np.stack([next(stream) for stream in self._streams]))}


def _index_stream(samples: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    while True:
        order = rng.permutation(samples)
        for start in range(0, samples - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def _losses(copies: ReplicatedNetwork, split: Split, indices: Tensor) -> Tensor:
    """Mean cross-entropy of each copy on its chain's batch, indices (C, B), (C·R,)."""
    indices = indices.to(split.inputs.device)
    labels = split.labels[indices].repeat_interleave(copies.replicates // len(indices), dim=0)
    return cross_entropy(copies(split.inputs[indices]).outputs, labels)


@torch.no_grad()
def _initial_loss(network: ReplicatedNetwork, split: Split) -> np.ndarray:
    """Mean cross-entropy of the trained weights over the whole split, (R,)."""
    total = torch.zeros(network.replicates, dtype=torch.float64, device=split.inputs.device)
    for inputs, labels in split.batches(EVALUATION_BATCH):
        outputs = network(inputs.unsqueeze(0)).outputs
        total += cross_entropy(outputs, labels.expand(network.replicates, -1)) * len(labels)
    return np.asarray((total / len(split)).cpu().numpy())


def _verdict(estimate: float, standard_error: float) -> RlctVerdict:
    if not math.isfinite(estimate):
        return "diverged"
    if estimate <= 0:
        return "not_a_minimum"
    return "chains_disagree" if standard_error > CHAIN_AGREEMENT * estimate else "sound"


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
