"""The families of curves that a measure may follow as the weight grows. A family is a function and a line in CURVES."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# A number, or a function of the points' weights (P,) and values (P,) that gives it.
Number = float | Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Parameter:
    """Start value and bounds of a parameter in a fit."""

    start: Number
    low: Number = -math.inf
    high: Number = math.inf

    def numbers(self, weight: np.ndarray, value: np.ndarray) -> tuple[float, float, float]:
        """Start, low and high for points with these weights (P,) and values (P,)."""
        start, low, high = (
            float(number(weight, value) if callable(number) else number) for number in (self.start, self.low, self.high)
        )
        return start, low, high


@dataclass(frozen=True)
class Curve:
    """A family of curves."""

    # f(weight, *parameters): values at weights (P,); the first line of the docstring is the formula.
    function: Callable[..., np.ndarray]
    parameters: Mapping[str, Parameter]  # by their names in the function
    positive: bool = False  # whether all values of the curve are positive

    @property
    def formula(self) -> str:
        """The formula as text."""
        return (inspect.getdoc(self.function) or "").split("\n")[0].rstrip(".")

    @property
    def fewest_weights(self) -> int:
        """Number of different weights that a fit needs: with fewer, its quality cannot be judged."""
        return len(self.parameters) + 2


def constant(weight: np.ndarray, level: float) -> np.ndarray:
    """level"""
    return np.full_like(weight, level)


def shifted_power_law(weight: np.ndarray, y0: float, w0: float, alpha: float) -> np.ndarray:
    """y0 · (1 + weight / w0)^(−alpha).

    The value is y0 at the baseline and falls as weight^(−alpha) far above w0.
    """
    return np.asarray(y0 * (1 + weight / w0) ** (-alpha))


def value_at_smallest_weight(weight: np.ndarray, value: np.ndarray) -> float:
    """The value of the point with the smallest weight."""
    return float(value[weight.argmin()])


def smallest_positive(weight: np.ndarray, value: np.ndarray) -> float:
    """The smallest weight above 0."""
    return float(weight[weight > 0].min())


def geometric_middle(weight: np.ndarray, value: np.ndarray) -> float:
    """The geometric mean of the smallest weight above 0 and the largest one."""
    return math.sqrt(smallest_positive(weight, value) * float(weight.max()))


# The null hypothesis that the weight has no effect: other families are judged by their gain over it.
CONSTANT = "constant"
CURVES: dict[str, Curve] = {
    CONSTANT: Curve(constant, {"level": Parameter(lambda weight, value: float(value.mean()))}),
    "shifted power law": Curve(
        shifted_power_law,
        {
            "y0": Parameter(value_at_smallest_weight, low=0),
            # Beyond these bounds the data cannot tell w0 from 0 or from infinity.
            "w0": Parameter(
                geometric_middle,
                low=lambda weight, value: smallest_positive(weight, value) / 10,
                high=lambda weight, value: 10 * float(weight.max()),
            ),
            "alpha": Parameter(0.1, low=-5, high=5),
        },
        positive=True,
    ),
}
