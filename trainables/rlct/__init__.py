"""The real log canonical threshold, estimated after training as the local learning coefficient.

    rlct = nβ · (mean loss of the kept draws − loss of the trained weights)

with the draws of a Langevin sampler around the trained weights (Lau et al. 2023, arXiv 2308.12108). Never a bare
number: estimate, standard error over chains, diagnostics and a verdict come together.

Reading order: estimate, sampling, losses, diagnostics, verdict.
"""

from trainables.rlct.diagnostics import Diagnostics
from trainables.rlct.estimate import RlctEstimate, estimate_rlct, resolve_nbeta
from trainables.rlct.losses import SampleLosses, cross_entropies
from trainables.rlct.sampling import DrawCallback, Trace
from trainables.rlct.verdict import ADVICE, UNUSABLE, VERDICTS, Judgement, RlctVerdict

__all__ = [
    "ADVICE",
    "UNUSABLE",
    "VERDICTS",
    "Diagnostics",
    "DrawCallback",
    "Judgement",
    "RlctEstimate",
    "RlctVerdict",
    "SampleLosses",
    "Trace",
    "cross_entropies",
    "estimate_rlct",
    "resolve_nbeta",
]
