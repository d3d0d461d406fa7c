"""The estimate, with all that is needed to judge it."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trainables.config import RlctConfig
from trainables.networks import ReplicatedModule
from trainables.outcomes import VERDICTS, RlctVerdict, worst_verdict
from trainables.rlct.diagnostics import Diagnostics, diagnose, flat_spread
from trainables.rlct.losses import (
    SampledLoss,
    SampleLosses,
    Start,
    Surroundings,
    cross_entropies,
    look_around,
    look_at_start,
)
from trainables.rlct.sampling import Chains, DrawCallback, Sampler, Trace
from trainables.rlct.verdict import Judgement, judge_all
from trainables.snapshot import Snapshots
from trainables.states import prefixed, under
from trainables.tasks import Split


@dataclass(frozen=True)
class RlctEstimate:
    """Estimates of R replicates from C chains of D draws."""

    per_chain: np.ndarray  # (R, C)
    initial_loss: np.ndarray  # (R,), nats, of the trained weights over all samples
    trace: Trace
    diagnostics: Diagnostics
    nbeta: float
    config: RlctConfig

    @property
    def estimate(self) -> np.ndarray:
        """Mean over chains, (R,); NaN where a chain diverged."""
        return np.asarray(self.per_chain.mean(axis=1))

    @property
    def standard_error(self) -> np.ndarray:
        """Standard error over chains, (R,)."""
        return np.asarray(self.per_chain.std(axis=1, ddof=1) / math.sqrt(self.per_chain.shape[1]))

    @cached_property
    def judgements(self) -> tuple[Judgement, ...]:
        """Verdict, reason and advice per replicate."""
        return judge_all(self.estimate, self.standard_error, self.diagnostics)

    @property
    def verdicts(self) -> tuple[RlctVerdict, ...]:
        """The verdict per replicate."""
        return tuple(judgement.verdict for judgement in self.judgements)

    @property
    def usable(self) -> np.ndarray:
        """The estimate where its verdict is usable, (R,); NaN elsewhere."""
        usable = [VERDICTS[verdict].usable for verdict in self.verdicts]
        return np.where(usable, self.estimate, math.nan)

    @property
    def verdict(self) -> RlctVerdict:
        """The worst verdict of the replicates."""
        return worst_verdict(self.verdicts)


def resolve_nbeta(config: RlctConfig, training_samples: int) -> float:
    """The inverse temperature nβ as a number."""
    if config.nbeta == "batch":
        return config.batch_size / math.log(config.batch_size)
    if config.nbeta == "dataset":
        return training_samples / math.log(training_samples)
    return config.nbeta


def estimate_rlct(
    network: ReplicatedModule,
    split: Split,
    config: RlctConfig,
    seed: int,
    on_draw: DrawCallback | None = None,
    sample_losses: SampleLosses = cross_entropies,
    snapshots: Snapshots | None = None,
    part: Collection[str] | None = None,
    name: str = "rlct",
) -> RlctEstimate:
    """Estimate the rlct of every replicate of a network on the data it was trained on.

        rlct = nβ · (mean loss of the kept draws − loss of the trained weights)

    Every chain of every replicate starts at the trained weights and takes `config.draws` steps. Each chain reshuffles
    the samples for itself and takes a batch per step. Every draw is compared with the trained weights on the same
    batch: the mean stays that over all samples, with less noise. The network is sampled in evaluation mode: batch norm
    with its running statistics, no dropout, inputs unchanged. After training on changed inputs (`training.augment`),
    the weights need not be at a minimum of this loss. Replicates and chains are sampled at once if the network is
    stackable, otherwise one chain after the other.

    Args:
        network: of R replicates, a classifier without the self-model's rows; left unchanged.
        split: the training split, n samples.
        config: settings.
        seed: with `config.seed` it fixes batches and noise; the global random state is left as it was.
        on_draw: called after each draw with the number of draws that all chains have completed.
        sample_losses: the loss in nats of every sample; cross-entropy unless given.
        snapshots: what an earlier worker has sampled is taken from there, and the chains' state is kept there.
        part: names of parameters: only these are sampled, and the others are fixed (a weight-restricted coefficient,
            Wang et al. 2024, arXiv 2410.02984). All unless given.
        name: of the estimate among those in the snapshots.

    Raises:
        ValueError: the sampler's batch is larger than the split.
    """
    if config.batch_size > len(split):
        raise ValueError(f"rlct.batch_size {config.batch_size} exceeds the {len(split)} training samples")
    nbeta = resolve_nbeta(config, len(split))
    snapshots, probe = snapshots or Snapshots(), flat_spread(config)
    restored = snapshots.restored(name)
    copies = [network.repeated(1)] if network.stackable else network.alone()
    at_start = [SampledLoss.of(one.eval(), split, sample_losses, part) for one in copies]
    if restored:
        start = Start.of_state(under("start", restored))
    else:
        start = Start.together(look_at_start(loss, probe, config.batch_size) for loss in at_start)
    chains = Chains(under("chains", restored))
    start_state = prefixed("start", start.state())
    snapshots.include(name, lambda: start_state | prefixed("chains", chains.state()))
    sampler = Sampler(split, config, nbeta, seed, sample_losses, start, part, probe)
    trace = sampler.sample(network, on_draw, chains, snapshots.save_if_due)
    per_chain = nbeta * (trace.loss - trace.start_loss)[config.burn_in :].mean(axis=0)
    if known := under("around", restored):
        around = Surroundings.of_state(known)
    else:
        around = Surroundings.together(look_around(loss, probe) for loss in at_start)
    after = prefixed("around", around.state())
    snapshots.include(name, lambda: start_state | prefixed("chains", chains.state()) | after)
    diagnostics = diagnose(trace, start, around, config, nbeta)
    return RlctEstimate(per_chain, start.loss, trace, diagnostics, nbeta, config)
