"""Self-modeling: extra outputs predict the network's own activations.

As published, the final layer is widened from `classes` to `classes + N` outputs, N the number of target units, and the
extra outputs are the prediction (Premakumar et al. 2024, arXiv 2407.10188). A separate head, other forms of the target
and a sum instead of the mean are variants of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trainables.auxiliary.base import OPTIONS
from trainables.auxiliary.prediction import PredictionTask

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.networks import Activations


class SelfModeling(PredictionTask):
    """Predict the activations of the target layers. Weight 0 is the baseline, without extra outputs."""

    name = "none"
    summary = "self-modeling: predict the target layers' activations"
    strength: ClassVar[str | None] = "weight of the self-modeling loss"
    may_be_baseline = True
    predicts_itself = True
    options: ClassVar[tuple[str, ...]] = OPTIONS

    def raw_target(self, activations: Activations, inputs: Tensor) -> Tensor:
        return self.targets.activations(activations)


class ExtraOutputs(SelfModeling):
    """Tests more parameters: the extra outputs exist, and their error has weight 0."""

    name = "extra_outputs"
    summary = "extra outputs with weight 0: only more parameters"
    strength = None
    may_be_baseline = False
    options = ("head", "predict_from")
