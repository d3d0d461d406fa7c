"""E[nβ·ΔL] by an independent sampler, for models of too many weights for an integral.

`python benchmarks/references.py` makes these numbers: NUTS with the whole data, 8 chains × 4000 draws, R-hat at most
1.001. They are kept here so that the tests need neither JAX nor its minutes.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reference:
    """E[nβ·ΔL] by NUTS."""

    mean: float
    standard_error: float  # over 8 chains

    def agrees(self, value: float, standard_error: float = 0.0, bias: float = 0.0) -> bool:
        """Whether another value is within three standard errors of the difference, up to a bias that is known of it."""
        return abs(value - self.mean) <= 3 * math.hypot(standard_error, self.standard_error) + bias


# Inputs, outputs, hidden units and true rank, at nβ = 300, γ = 1.
REDUCED_RANK = {
    (3, 3, 2, 0): Reference(2.3736, 0.0166),
    (3, 3, 2, 1): Reference(3.3166, 0.0184),
    (3, 3, 2, 2): Reference(3.9952, 0.0203),
    (4, 2, 1, 0): Reference(0.9846, 0.0093),
    (2, 4, 1, 0): Reference(0.9951, 0.0088),
    (2, 2, 5, 0): Reference(1.9873, 0.0086),
    (3, 3, 3, 1): Reference(3.8681, 0.0108),
}
# 2000 samples, 7 features, nβ = 2000/ln 2000, γ = 10.
LOGISTIC = Reference(2.8190, 0.0138)

# Σ bᵢ·tanh(aᵢ·x) of four units, fitted without noise to a single one, tanh(x): λ = 2/2 + 5/6. The weights of that unit
# are regular; three more units, fitted to zero, have λ = 5/6: (H + i² + i)/(4i + 2) for H units, i the largest with
# i² ≤ H (Aoyagi and Watanabe, Resolution of singularities and the generalization error with Bayesian estimation for
# layered neural network, IEICE Transactions J88-D-II, 2005).
TANH_UNITS, TANH_NBETA, TANH_GAMMA = 4, 300.0, 10.0
TANH = Reference(0.7118, 0.0037)


def tanh_task(points: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Points x of a normal distribution, and tanh(x)."""
    inputs = np.random.default_rng(0).normal(size=points)
    return inputs, np.tanh(inputs)


def tanh_start() -> np.ndarray:
    """The weights w0: slopes a, then heights b. The first unit is the true one, the others are 0."""
    start = np.zeros((2, TANH_UNITS))
    start[:, 0] = 1.0
    return start.ravel()
