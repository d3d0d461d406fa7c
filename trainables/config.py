"""The sections of a trial's configuration.

These models are the only description of a trial: field texts are the command line's help, validators give its error
messages, and the trial key is a hash of the canonical JSON.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

# Raise this when a change of code changes the numbers that a configuration gives. The trial keys then change too, so
# that no older result is taken for a new one.
PROTOCOL_VERSION = 5
# Split R-hat halves each chain, and the variance of a half needs two draws.
FEWEST_KEPT_DRAWS = 4
# The preconditioner is an average over some of the draws that are left out, and needs a few.
FEWEST_DRAWS_FOR_PRECONDITIONER = 4
# The fields of RlctConfig that ask for more than one estimate of a trial.
NO_EPOCHS = "none"
FURTHER_ESTIMATES = ("with_balanced", "with_layers", "with_epochs")
# Curvatures of the loss are found on at most this many samples, and by at most this many iterations.
CURVATURE_SAMPLES, CURVATURE_ITERATIONS = 1024, 10
# Number of samples for the effective rank and the gradients of the auxiliary loss.
MEASURED_SAMPLES = 2048
# Bounds far above what is ever run: a slip of the keyboard is refused before it fills a machine.
LARGEST_SEED = 2**31 - 1
MOST_EPOCHS = 100_000
MOST_DRAWS = 1_000_000
MOST_CHAINS = 1000
LARGEST_BATCH = 1_000_000
# A weight above it leaves nothing of the loss it is added to.
LARGEST_WEIGHT = 1e9

TargetForm = Literal["raw", "standardized", "sign"]
UnitWeighting = Literal["mean", "sum"]
HeadKind = Literal["widened", "separate"]
ActivationFunction = Literal["relu", "gelu", "tanh"]
# Those for which c > 0 times the input gives c times the output.
HOMOGENEOUS_ACTIVATIONS: tuple[ActivationFunction, ...] = ("relu",)
Normalization = Literal["none", "batch"]
LayerCount = Annotated[int, Field(ge=0, le=64)]
UnitCount = Annotated[int, Field(ge=1, le=65536)]


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise PydanticCustomError("odd", "must be odd, so that the kernel has a middle")
    return size


class Section(BaseModel):
    """Base of all configuration: immutable, no unknown fields, finite numbers only."""

    # Schemas are built at first use: help and lists need only some of them.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @property
    def unused(self) -> frozenset[str]:
        """Names of the fields that make no difference, given the others."""
        return frozenset()


class NetworkConfig(Section):
    """The network of a trial. An architecture has some of these fields and names them in its `fields`."""

    architecture: str = Field("mlp", description="Architecture of the network.")
    hidden_layers: LayerCount = Field(1, description="Depth of the network: number of hidden layers, blocks or stages.")
    width: UnitCount = Field(64, description="Units of every hidden layer; of convnet, channels of the first one.")
    activation: ActivationFunction = Field(
        "relu",
        description="Activation function of mlp, convnet and embedding_bag, and of resnet18's fully connected layers.",
    )
    normalization: Normalization = Field(
        "none",
        description="Normalisation of mlp's hidden units before their activation function: 'batch' over the samples of "
        "a batch, with a learned scale and shift, and running averages in evaluation.",
    )
    kernel_size: Annotated[int, Field(ge=1, le=31), AfterValidator(_odd)] = Field(
        3, description="Side of convnet's square kernels in pixels, odd; the image is padded to keep its size."
    )
    dense_units_per_channel: int = Field(
        8, ge=1, le=1024, description="Units of convnet's dense layer for each channel of its first convolution."
    )
    stem_channels: int = Field(
        64, ge=1, le=1024, description="Channels of resnet18's stem; its stages have 1, 2, 4 and 8 times as many."
    )
    embedding_units: UnitCount = Field(64, description="Units of embedding_bag's token vectors (64 as published).")
    attention_head_units: UnitCount = Field(
        16, description="Units of each of transformer's attention heads; width must be a multiple of it."
    )
    expansion: int = Field(
        4, ge=1, le=64, description="Hidden units of the perceptron in transformer's blocks, for each unit of width."
    )
    context_length: int = Field(
        256,
        ge=1,
        le=65536,
        description="Most tokens that transformer reads of a text; attention costs the square of their number.",
    )


class SelfModelConfig(Section):
    """The auxiliary task of a trial: self-modeling, or a control in its place."""

    control: str = Field("none", description="Control that replaces self-modeling; 'none' is self-modeling itself.")
    aux_weight: float = Field(
        0.0,
        ge=0,
        le=LARGEST_WEIGHT,
        description="Weight of the self-modeling loss, or strength of the control; 0 is the baseline.",
    )
    target_depths: tuple[int, ...] = Field(
        (),
        description="Depths of the target layers; depth 1 is nearest the input. "
        "Empty for the baseline, which has no extra outputs.",
    )
    detach_targets: bool = Field(
        True,
        description="Treat the target activations as constants, so that the self-modeling loss reaches the network "
        "through the prediction alone (as published); false lets its gradient flow through the targets too.",
    )
    target_form: TargetForm = Field(
        "raw",
        description="Form of the predicted activations: 'raw' (as published), 'standardized' (each unit to mean 0 and "
        "variance 1 over the batch) or 'sign'.",
    )
    unit_weighting: UnitWeighting = Field(
        "mean",
        description="Squared errors of the target units are averaged (as published: the pressure per unit falls with "
        "their number) or summed.",
    )
    head: HeadKind = Field(
        "widened",
        description="The prediction is extra rows of the final linear layer (as published), or a 'separate' head with "
        "a hidden layer of 128 ReLU units.",
    )
    predict_from: int = Field(
        0,
        ge=0,
        le=64,
        description="Depth of the hidden layer that a separate head reads: with a target above it, the network "
        "predicts a later state from an earlier one; 0 is the layer under the final one.",
    )

    @field_validator("target_depths")
    @classmethod
    def _sorted_and_distinct(cls, depths: tuple[int, ...]) -> tuple[int, ...]:
        if any(depth < 1 for depth in depths):
            raise ValueError("depths count from 1, the hidden layer nearest the input")
        return tuple(sorted(set(depths)))

    @model_validator(mode="after")
    def _only_a_separate_head_reads_another_layer(self) -> Self:
        if self.predict_from and self.head != "separate":
            raise ValueError(
                "predict_from: the final layer reads the one under it alone; set head to 'separate', or predict_from "
                "to 0"
            )
        return self

    @model_validator(mode="after")
    def _a_sign_has_no_gradient(self) -> Self:
        if self.target_form == "sign" and not self.detach_targets:
            raise ValueError(
                "detach_targets: a sign has no gradient that could flow; leave it true for target_form sign"
            )
        return self


class TrainingConfig(Section):
    """How a network is trained."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="Optimizer.")
    learning_rate: float = Field(0.005, gt=0, description="Learning rate of the optimizer.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD (Adam does not use it).")
    nesterov: bool = Field(True, description="Nesterov momentum for SGD.")
    batch_size: int = Field(512, ge=1, le=LARGEST_BATCH, description="Samples per optimizer step.")
    epochs: int = Field(50, ge=1, le=MOST_EPOCHS, description="Passes over the training split.")
    until_loss: float | None = Field(
        None,
        gt=0,
        description="Stop a replicate after the epoch in which its train_loss falls to this value, in nats, or after "
        "`epochs`. Compares networks at equal loss instead of equal epochs.",
    )
    shuffle: Literal["each_epoch", "once"] = Field(
        "each_epoch", description="Draw a new sample order each epoch, or the first one every time (published code)."
    )
    augment: bool = Field(
        False,
        description="Change the training images at random in each epoch: rotate by up to 15°, shift by up to 10 % of "
        "the side, and mirror those of cifar10 (as published for it).",
    )
    train_samples: int | None = Field(
        None,
        ge=1,
        description="Train on this many samples only, stratified by class and drawn from split_seed; none for all that "
        "are not held out.",
    )
    label_noise: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="Share of the training labels that are replaced by another class, drawn once from split_seed; "
        "held-out labels stay as they are.",
    )
    validation_fraction: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="Share of the training data held out, stratified by class, as the validation split; "
        "0 is the published recipe: train on everything and report the test split.",
    )

    @property
    def unused(self) -> frozenset[str]:
        return frozenset({"momentum", "nesterov"} if self.optimizer == "adam" else ())

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0: set momentum above 0 or nesterov to false")
        return self


class RlctConfig(Section):
    """How the real log canonical threshold is estimated: by sampling around the trained weights."""

    sampler: Literal["sgld", "rmsprop_sgld"] = Field(
        "sgld",
        description="Stochastic gradient Langevin dynamics, plain (as published) or preconditioned by RMSprop, which "
        "takes larger steps where gradients are small (decay .99, ε .1; found in the first half of the burn-in, and "
        "fixed from then on).",
    )
    step_size: float = Field(
        1e-4,
        gt=0,
        description="Step size of the sampler.",
    )
    localization: float = Field(100.0, ge=0, description="Strength γ of the pull back to the trained weights.")
    nbeta: Literal["batch", "dataset"] | Annotated[float, Field(gt=0)] = Field(
        "batch",
        description="Inverse temperature nβ: 'batch' = m/ln m with m the sampler's batch size (as published), "
        "'dataset' = n/ln n with n the training samples, or a number.",
    )
    chains: int = Field(
        4,
        ge=2,
        le=MOST_CHAINS,
        description="Independent chains per replicate; a single chain gives no standard error.",
    )
    draws: int = Field(1000, ge=8, le=MOST_DRAWS, description="Sampler steps per chain.")
    burn_in_fraction: float = Field(
        0.5, ge=0, lt=1, description="Share of draws at the start of each chain that the estimate leaves out."
    )
    batch_size: int = Field(512, ge=2, le=LARGEST_BATCH, description="Samples per sampler step.")
    seed: int = Field(
        0,
        ge=0,
        le=LARGEST_SEED,
        description="Seed of the sampler's batches and noise: another seed gives an independent estimate.",
    )
    with_balanced: bool = Field(
        False,
        description="Estimate the rlct a second time, at the balanced network: the one of the same function in which "
        "each hidden unit's incoming weights are as long as its outgoing ones (networks with ReLU, without "
        "normalisation).",
    )
    with_layers: bool = Field(
        False, description="Estimate the rlct of each layer alone too: its weights are sampled, all others are fixed."
    )
    with_epochs: str = Field(
        NO_EPOCHS, description="Estimate the rlct after these epochs of the training too: '1+10+50', or 'none'."
    )

    @field_validator("with_epochs", mode="before")
    @classmethod
    def _epochs_in_order(cls, epochs: Any) -> Any:
        numbers = epochs.split("+") if isinstance(epochs, str) else epochs if isinstance(epochs, list) else [epochs]
        if numbers in ([NO_EPOCHS], []):
            return NO_EPOCHS
        if not all(str(number).isdecimal() and int(number) > 0 for number in numbers):
            raise ValueError("needs epochs, counted from 1, joined by '+', such as '1+10+50', or 'none'")
        return "+".join(map(str, sorted({int(number) for number in numbers})))

    @model_validator(mode="after")
    def _a_preconditioner_is_found_in_burn_in(self) -> Self:
        if self.sampler == "rmsprop_sgld" and self.burn_in < FEWEST_DRAWS_FOR_PRECONDITIONER:
            raise ValueError(
                f"burn_in_fraction {self.burn_in_fraction:g} of {self.draws} draws leaves out {self.burn_in}, and "
                f"rmsprop_sgld finds its preconditioner in at least {FEWEST_DRAWS_FOR_PRECONDITIONER}: raise it"
            )
        return self

    @model_validator(mode="after")
    def _enough_draws_are_kept(self) -> Self:
        if self.kept_draws < FEWEST_KEPT_DRAWS:
            raise ValueError(
                f"burn_in_fraction {self.burn_in_fraction:g} of {self.draws} draws leaves {self.kept_draws}, and the "
                f"diagnostics need {FEWEST_KEPT_DRAWS}: take more draws, or lower burn_in_fraction"
            )
        return self

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epochs of `with_epochs`."""
        return () if self.with_epochs == NO_EPOCHS else tuple(map(int, self.with_epochs.split("+")))

    def key(self) -> str:
        """8 hexadecimal digits that identify the settings of one estimate."""
        fields = self.model_dump(mode="json", exclude=set(FURTHER_ESTIMATES))
        return hashlib.sha256(canonical(fields)).hexdigest()[:8]

    def of_one_estimate(self) -> Self:
        """The same settings without further estimates."""
        return self.model_copy(update={name: type(self).model_fields[name].default for name in FURTHER_ESTIMATES})

    @property
    def burn_in(self) -> int:
        """Draws of each chain that the estimate leaves out."""
        return int(self.draws * self.burn_in_fraction)

    @property
    def kept_draws(self) -> int:
        """Draws of each chain that the estimate uses."""
        return self.draws - self.burn_in


class ObserverConfig(Section):
    """The observer: a network of the same size in all trials that learns to predict the trained one."""

    epochs: int = Field(
        3, ge=0, le=MOST_EPOCHS, description="Passes of the observer over the training split; 0 for no observer."
    )
    width: UnitCount = Field(128, description="Units of the observer's hidden layer.")
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate of the observer (Adam).")
    batch_size: int = Field(256, ge=1, le=LARGEST_BATCH, description="Samples per step of the observer.")

    @property
    def unused(self) -> frozenset[str]:
        return frozenset() if self.epochs else frozenset(type(self).model_fields) - {"epochs"}


def canonical(content: Any) -> bytes:
    """The text that is hashed: the same for equal content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
