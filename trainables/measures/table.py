"""The measures as data: names, meanings, and functions that compute the per-epoch measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trainables.measures.formulas import effective_rank, weight_std

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.measures.epoch import EpochView
    from trainables.networks import Layer


# Suffix of the standard error over chains of a replicate's value.
CHAIN_ERROR_SUFFIX = "_chain_se"


@dataclass(frozen=True)
class Measure:
    """One measure of R replicates.

    A measure with the moment "epoch" has `compute`, which gives its values (R,) from the EpochView of that epoch. With
    `per_layer` it has a value for each hidden layer: `compute` gives {layer name: (R,)}, and the layer's name follows
    `name` and `label`. Measures with the moment "end" are added by run_experiment after training.

    Raises:
        ValueError: the moment and `compute` do not fit together.
    """

    name: str
    label: str  # of an axis, without the unit
    unit: str  # "fraction", "nats", …; empty for a plain number
    meaning: str  # one sentence
    # Which values mean a simpler network; None if the measure does not tell how simple a network is.
    simpler: Literal["lower", "higher"] | None
    # The samples that are used; "held_out" is the validation split, or the test split if there is no validation split.
    sees: Literal["weights", "training", "held_out", "validation", "test"]
    moment: Literal["epoch", "end"]
    # Whether the measure tells how well a network does its task.
    performance: bool = False
    per_layer: bool = False
    # Whether a value counts only if the verdict on the rlct is usable.
    needs_verdict: bool = False
    # Whether there is a value only if an observer is trained.
    needs_observer: bool = False
    # The field of the trial that asks for it, by its flat name; "" if it is always measured.
    asked_by: str = ""
    # Name of the standard error of each replicate's value in ExperimentResult.measurements. The standard error over
    # replicates is another one: `<name>_se`, beside means over replicates.
    error: str | None = None
    compute: Callable[[EpochView], Tensor | Mapping[str, Tensor]] | None = None

    def __post_init__(self) -> None:
        if (self.moment == "epoch") != (self.compute is not None):
            raise ValueError(f"measure {self.name!r}: with moment 'epoch' it needs `compute`, with 'end' it has none")

    def names(self, layers: Sequence[Layer]) -> tuple[str, ...]:
        """The names of its values in a network with these hidden layers."""
        return tuple(f"{self.name}{layer.name}" for layer in layers) if self.per_layer else (self.name,)


def epoch_measures() -> tuple[Measure, ...]:
    """The measures of every epoch, in the order of the table."""
    return tuple(measure for measure in MEASURES.values() if measure.moment == "epoch")


def end_measures() -> tuple[Measure, ...]:
    """The measures taken once, after training, in the order of the table."""
    return tuple(measure for measure in MEASURES.values() if measure.moment == "end")


def is_end_measure(name: str) -> bool:
    """Whether a value of this name is of a measure taken once, after training."""
    if name.endswith(CHAIN_ERROR_SUFFIX):
        return False
    return any(name.startswith(each.name) if each.per_layer else name == each.name for each in end_measures())


def _val_accuracy(view: EpochView) -> Tensor:
    return view.full(math.nan) if view.splits.validation is None else view.held_out.accuracy


def _deviation_from_identity(view: EpochView) -> Tensor | None:
    """W − I of the weights W by which the layer under the head predicts itself, (R, F, F); None if it does not."""
    rows = view.prediction_rows
    if rows is None or not view.auxiliary.predicts_itself:
        return None
    return view.auxiliary.targets.deviation_from_identity(rows)


def _identity_distance(view: EpochView) -> Tensor:
    deviation = _deviation_from_identity(view)
    if deviation is None:
        return view.full(math.nan)
    distance: Tensor = deviation.flatten(1).norm(dim=1) / math.sqrt(deviation.shape[1])
    return distance


def _identity_residual(view: EpochView) -> Tensor:
    deviation = _deviation_from_identity(view)
    if deviation is None:
        return view.full(math.nan)
    features = view.held_out.features
    moved = features @ deviation.transpose(1, 2)
    residual: Tensor = moved.flatten(1).norm(dim=1) / features.flatten(1).norm(dim=1)
    return residual


def _balanced_weight_std(view: EpochView) -> Tensor:
    from trainables.networks.balance import balanced

    network = balanced(view.network)
    return view.full(math.nan) if network is None else weight_std(network.head.weight)


def _path_norm(view: EpochView) -> Tensor:
    from trainables.networks.balance import path_norm

    norm = path_norm(view.network)
    return view.full(math.nan) if norm is None else norm


def _rlct_in_training(view: EpochView) -> Tensor:
    if view.rlct is None or view.epoch not in view.rlct.epochs:
        return view.full(math.nan)
    import torch

    from trainables.rlct import estimate_rlct

    with torch.enable_grad():
        estimate = estimate_rlct(view.network.classifier(), view.splits.train, view.rlct, view.seeds[0])
    return torch.from_numpy(estimate.usable)


def _layer_weight_std(view: EpochView) -> dict[str, Tensor]:
    return {layer: weight_std(weights) for layer, weights in view.network.layer_weights().items()}


# In the order of display.
MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            name="val_accuracy",
            label="validation accuracy",
            unit="fraction",
            meaning="Share of the validation split that is classified correctly.",
            simpler=None,
            sees="validation",
            moment="epoch",
            performance=True,
            compute=_val_accuracy,
        ),
        Measure(
            name="test_accuracy",
            label="test accuracy",
            unit="fraction",
            meaning="Share of the test split that is classified correctly.",
            simpler=None,
            sees="test",
            moment="epoch",
            performance=True,
            compute=lambda view: view.test_accuracy,
        ),
        Measure(
            name="weight_std",
            label="std of final-layer weights",
            unit="",
            meaning="Standard deviation of the final layer's class weights, biases left out (arXiv 2407.10188).",
            simpler="lower",
            sees="weights",
            moment="epoch",
            compute=lambda view: weight_std(view.class_weights),
        ),
        Measure(
            name="weight_std_balanced",
            label="std of final-layer weights, balanced",
            unit="",
            meaning="weight_std of the same function with each hidden unit's weights in and out equally long (ReLU).",
            simpler="lower",
            sees="weights",
            moment="epoch",
            compute=_balanced_weight_std,
        ),
        Measure(
            name="path_norm",
            label="path norm",
            unit="",
            meaning="Root of the sum over all paths from an input or a bias to a class of the product of their squared "
            "weights; the same for all networks that differ in the scales of their units.",
            simpler="lower",
            sees="weights",
            moment="epoch",
            compute=_path_norm,
        ),
        Measure(
            name="rlct",
            label="rlct (local learning coefficient)",
            unit="",
            meaning="Local learning coefficient of the trained classifier at the sampler's nβ and localization (arXiv "
            "2308.12108); it tends to the real log canonical threshold as nβ grows.",
            simpler="lower",
            sees="training",
            moment="end",
            needs_verdict=True,
            error="rlct_chain_se",
        ),
        Measure(
            name="rlct_balanced",
            label="rlct of the balanced network",
            unit="",
            meaning="rlct at the network of the same function in which each hidden unit's incoming weights are as long "
            "as its outgoing ones; no value if its verdict is not usable.",
            simpler="lower",
            sees="training",
            moment="end",
            error="rlct_balanced_chain_se",
            asked_by="rlct_with_balanced",
        ),
        Measure(
            name="rlct_in_training",
            label="rlct in training",
            unit="",
            meaning="rlct after the epochs in rlct.with_epochs; no value if its verdict is not usable.",
            simpler=None,
            sees="training",
            moment="epoch",
            asked_by="rlct_with_epochs",
            compute=_rlct_in_training,
        ),
        Measure(
            name="train_loss",
            label="training loss",
            unit="nats",
            meaning="Cross-entropy, averaged over the batches of the epoch during training.",
            simpler=None,
            sees="training",
            moment="epoch",
            compute=lambda view: view.train_loss,
        ),
        Measure(
            name="self_model_mse",
            label="mean squared error of the prediction",
            unit="",
            meaning="Squared error of the extra outputs, averaged over held-out samples and target units.",
            simpler=None,
            sees="held_out",
            moment="epoch",
            compute=lambda view: view.held_out.self_model_mse,
        ),
        Measure(
            name="self_model_r2",
            label="R² of the prediction",
            unit="",
            meaning="R² of the extra outputs on held-out samples against each target unit's mean, units pooled.",
            simpler=None,
            sees="held_out",
            moment="epoch",
            compute=lambda view: view.held_out.self_model_r2,
        ),
        Measure(
            name="identity_distance",
            label="distance of the prediction from the identity",
            unit="",
            meaning="‖W − I‖ / ‖I‖ of the weights W by which the layer under the head predicts itself.",
            simpler=None,
            sees="weights",
            moment="epoch",
            compute=_identity_distance,
        ),
        Measure(
            name="identity_residual",
            label="distance of the prediction from the identity, on activations",
            unit="",
            meaning="‖(W − I)A‖ / ‖A‖ of the weights W by which the layer under the head predicts itself, over its "
            "activations A on held-out samples: what the directions that A does not have cannot hide.",
            simpler=None,
            sees="held_out",
            moment="epoch",
            compute=_identity_residual,
        ),
        Measure(
            name="epochs_trained",
            label="epochs trained",
            unit="epochs",
            meaning="Epochs that the replicate was trained for.",
            simpler=None,
            sees="training",
            moment="epoch",
            compute=lambda view: view.full(view.epoch),
        ),
        Measure(
            name="generalization_gap",
            label="generalization gap (accuracy)",
            unit="fraction",
            meaning="Accuracy on training samples, label noise and all, minus held-out accuracy, without augmentation "
            "and dropout.",
            simpler=None,
            sees="held_out",
            moment="epoch",
            compute=lambda view: view.training_accuracy - view.held_out.accuracy,
        ),
        Measure(
            name="gradient_norm_ratio",
            label="gradient of the auxiliary loss / prediction weights",
            unit="",
            meaning="Weight decay whose gradient on the prediction weights is as long as that of the auxiliary loss.",
            simpler=None,
            sees="training",
            moment="epoch",
            compute=lambda view: view.rows_against_decay.norm_ratio,
        ),
        Measure(
            name="gradient_cosine",
            label="cosine of auxiliary gradient and weight decay",
            unit="",
            meaning="Cosine of the angle between these gradients of the auxiliary loss and of weight decay.",
            simpler=None,
            sees="training",
            moment="epoch",
            compute=lambda view: view.rows_against_decay.cosine,
        ),
        Measure(
            name="trunk_gradient_norm_ratio",
            label="gradient of the auxiliary loss / weights, hidden layers",
            unit="",
            meaning="Weight decay whose gradient on all weights below the head is as long as that of the auxiliary "
            "loss.",
            simpler=None,
            sees="training",
            moment="epoch",
            compute=lambda view: view.trunk_against_decay.norm_ratio,
        ),
        Measure(
            name="trunk_gradient_cosine",
            label="cosine of auxiliary gradient and weight decay, hidden layers",
            unit="",
            meaning="Cosine of the angle between these gradients of the auxiliary loss and of weight decay on all "
            "weights below the head.",
            simpler=None,
            sees="training",
            moment="epoch",
            compute=lambda view: view.trunk_against_decay.cosine,
        ),
        Measure(
            name="activation_norm",
            label="norm of the last activations",
            unit="",
            meaning="Mean length |a| of the features under the head, on held-out samples.",
            simpler=None,
            sees="held_out",
            moment="epoch",
            compute=lambda view: view.held_out.activation_norm,
        ),
        Measure(
            name="dead_unit_share",
            label="share of dead units",
            unit="fraction",
            meaning="Share of the features under the head that are 0 for all held-out samples.",
            simpler=None,
            sees="held_out",
            moment="epoch",
            compute=lambda view: view.held_out.dead_unit_share,
        ),
        Measure(
            name="effective_rank",
            label="effective rank of the last activations",
            unit="dimensions",
            meaning="Effective rank of the features under the head, on held-out samples (Roy and Vetterli 2007).",
            simpler="lower",
            sees="held_out",
            moment="epoch",
            compute=lambda view: effective_rank(view.held_out.features),
        ),
        Measure(
            name="observer_r2",
            label="R² of the observer",
            unit="",
            meaning="R² with which another network predicts the activations from the inputs, on held-out samples.",
            simpler=None,
            sees="held_out",
            moment="end",
            needs_observer=True,
        ),
        Measure(
            name="observer_agreement",
            label="agreement of the observer",
            unit="fraction",
            meaning="Share of held-out samples for which another network predicts the network's most probable class.",
            simpler=None,
            sees="held_out",
            moment="end",
            needs_observer=True,
        ),
        Measure(
            name="weight_std_",
            label="std of the weights of",
            unit="",
            meaning="Standard deviation of the weights of a hidden layer, biases left out.",
            simpler="lower",
            sees="weights",
            moment="epoch",
            per_layer=True,
            compute=_layer_weight_std,
        ),
        Measure(
            name="rlct_of_",
            label="rlct of",
            unit="",
            meaning="rlct of a layer's weights and biases alone, all others being fixed; no value if its verdict is "
            "not usable.",
            simpler="lower",
            sees="training",
            moment="end",
            per_layer=True,
            asked_by="rlct_with_layers",
        ),
    )
}
