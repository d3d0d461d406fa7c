"""The real log canonical threshold, estimated after training as the local learning coefficient.

    rlct = nβ · (mean loss of the kept draws − loss of the trained weights)

with the draws of a Langevin sampler around the trained weights (Lau et al. 2023, arXiv 2308.12108). The estimate always
comes with its standard error over chains, diagnostics and a verdict.

Reading order: estimate, sampling, losses, curvature, diagnostics, verdict.
"""

from trainables.outcomes import RlctVerdict
from trainables.rlct.diagnostics import Diagnostics
from trainables.rlct.estimate import RlctEstimate, estimate_rlct, resolve_nbeta
from trainables.rlct.losses import SampleLosses, cross_entropies
from trainables.rlct.sampling import DrawCallback, Trace
from trainables.rlct.verdict import Judgement

__all__ = [
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
