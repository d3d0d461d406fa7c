"""What one trial is: every setting that can change its result, and the key made from them.

The models here are the single description of a trial. Their field texts are the command line's help, their
validators its error messages, and their canonical JSON is what the trial key hashes.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# Raise it whenever a change of code changes the numbers that an unchanged configuration gives:
# the trial keys change with it, and no older result is taken for a newer one.
PROTOCOL_VERSION = 2
# Split R-hat halves each chain, and a half needs two draws to have a variance.
FEWEST_KEPT_DRAWS = 4


class Section(BaseModel):
    """Base of all configuration: immutable, no unknown fields, finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NetworkConfig(Section):
    """The network of a trial."""

    architecture: str = Field("mlp", description="Architecture of the network.")
    hidden_layers: int = Field(1, ge=1, le=64, description="Number of hidden layers.")
    width: int = Field(64, ge=1, le=65536, description="Units of every hidden layer.")


class SelfModelConfig(Section):
    """The auxiliary task of a trial."""

    aux_weight: float = Field(0.0, ge=0, description="Weight of the self-modeling loss; 0 is the baseline.")
    target_depths: tuple[int, ...] = Field(
        (),
        description="Depths of the target layers, counted from the input, from 1. "
        "Empty exactly for the baseline, which has no extra outputs.",
    )
    detach_targets: bool = Field(
        True,
        description="Treat the target activations as constants, so that the self-modeling loss reaches the network "
        "through the prediction alone (as published); false lets its gradient flow through the targets too.",
    )

    @field_validator("target_depths")
    @classmethod
    def _sorted_and_distinct(cls, depths: tuple[int, ...]) -> tuple[int, ...]:
        if any(depth < 1 for depth in depths):
            raise ValueError("depths count from 1, the hidden layer nearest the input")
        return tuple(sorted(set(depths)))

    @model_validator(mode="after")
    def _baseline_has_no_targets(self) -> Self:
        if self.aux_weight > 0 and not self.target_depths:
            raise ValueError("aux_weight > 0 needs at least one depth in target_depths")
        if self.aux_weight == 0 and self.target_depths:
            raise ValueError("aux_weight 0 is the baseline without extra outputs: leave target_depths empty")
        return self


class TrainingConfig(Section):
    """How a network is trained."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="Optimizer.")
    learning_rate: float = Field(0.005, gt=0, description="Learning rate of the optimizer.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD (Adam does not use it).")
    nesterov: bool = Field(True, description="Nesterov momentum for SGD.")
    batch_size: int = Field(512, ge=1, description="Samples per optimizer step.")
    epochs: int = Field(50, ge=1, description="Passes over the training split.")
    shuffle: Literal["each_epoch", "once"] = Field(
        "each_epoch", description="Draw a new sample order each epoch, or replay the first one (the published code)."
    )
    validation_fraction: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="Share of the training data held out, stratified by class, as the validation split; "
        "0 is the published recipe: train on everything and report the test split.",
    )

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
        "takes larger steps where gradients are small (decay .99, ε .1).",
    )
    step_size: float = Field(1e-4, gt=0, description="Step size of the sampler.")
    localization: float = Field(100.0, ge=0, description="Strength γ of the pull back to the trained weights.")
    nbeta: Literal["batch", "dataset"] | Annotated[float, Field(gt=0)] = Field(
        "batch",
        description="Inverse temperature nβ: 'batch' = m/ln m with m the sampler's batch size (as published), "
        "'dataset' = n/ln n with n the training samples, or a number.",
    )
    chains: int = Field(4, ge=2, description="Independent chains per replicate; one alone gives no standard error.")
    draws: int = Field(1000, ge=8, description="Sampler steps per chain.")
    burn_in_fraction: float = Field(
        0.5, ge=0, lt=1, description="Share of each chain, from its start, that the estimate leaves out."
    )
    batch_size: int = Field(512, ge=2, description="Samples per sampler step.")
    seed: int = Field(
        0, ge=0, description="Seed of the sampler's batches and noise: another one gives an independent estimate."
    )

    @model_validator(mode="after")
    def _enough_draws_are_kept(self) -> Self:
        if self.kept_draws < FEWEST_KEPT_DRAWS:
            raise ValueError(
                f"burn_in_fraction {self.burn_in_fraction:g} of {self.draws} draws leaves {self.kept_draws}, and the "
                f"diagnostics need {FEWEST_KEPT_DRAWS}: take more draws, or lower burn_in_fraction"
            )
        return self

    def key(self) -> str:
        """8 hexadecimal digits that stand for these settings."""
        return hashlib.sha256(_canonical(self.model_dump(mode="json"))).hexdigest()[:8]

    @property
    def burn_in(self) -> int:
        """Draws of each chain that the estimate leaves out."""
        return int(self.draws * self.burn_in_fraction)

    @property
    def kept_draws(self) -> int:
        """Draws of each chain that the estimate uses."""
        return self.draws - self.burn_in


class TrialConfig(Section):
    """Everything that decides the result of one trial, apart from the content of the data."""

    task: str = Field(description="Data set and its recipe.")
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    self_model: SelfModelConfig = Field(default_factory=SelfModelConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    rlct: RlctConfig = Field(default_factory=RlctConfig)
    seeds: tuple[int, ...] = Field(description="One seed per replicate.")
    split_seed: int = Field(0, ge=0, description="Seed of the validation split.")

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("needs at least one seed, all different and none negative")
        return seeds

    @model_validator(mode="after")
    def _targets_exist(self) -> Self:
        too_deep = [d for d in self.self_model.target_depths if d > self.network.hidden_layers]
        if too_deep:
            raise ValueError(
                f"self_model.target_depths {too_deep}: the network has {self.network.hidden_layers} hidden "
                f"layer(s), so depths are 1 to {self.network.hidden_layers}"
            )
        return self

    @classmethod
    def from_recipe(
        cls,
        task: str,
        *,
        aux_weight: float = 0.0,
        target_depths: tuple[int, ...] | None = None,
        detach_targets: bool = True,
        seeds: tuple[int, ...] = (0,),
        network: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        rlct: dict[str, Any] | None = None,
    ) -> Self:
        """A trial with the task's recipe and the given fields replaced; the last hidden layer is the default target.

        Raises:
            ConfigError: the task is unknown.
            pydantic.ValidationError: a field is unknown or impossible.
        """
        from trainables.tasks import get_task

        recipe = get_task(task).recipe
        network_config = NetworkConfig(**(network or {}))
        if target_depths is None:
            target_depths = (network_config.hidden_layers,) if aux_weight > 0 else ()
        return cls(
            task=task,
            network=network_config,
            self_model=SelfModelConfig(
                aux_weight=aux_weight, target_depths=target_depths, detach_targets=detach_targets
            ),
            training=TrainingConfig(**(recipe.training.model_dump() | (training or {}))),
            rlct=RlctConfig(**(recipe.rlct.model_dump() | (rlct or {}))),
            seeds=seeds,
        )

    @property
    def replicates(self) -> int:
        return len(self.seeds)

    def key(self, data_digest: str) -> str:
        """The trial key: 16 hexadecimal digits that change with anything that can change the result."""
        content = {
            "config": self.model_dump(mode="json"),
            "data_digest": data_digest,
            "protocol_version": PROTOCOL_VERSION,
        }
        return hashlib.sha256(_canonical(content)).hexdigest()[:16]

    def flat(self) -> dict[str, Any]:
        """Every field under one flat name, as the tracking server shows it: `aux_weight`, `width`, `rlct_draws`, …"""
        nested = self.model_dump(mode="json")
        flat = {"task": nested["task"], "replicates": self.replicates}
        for section in ("network", "self_model", "training"):
            flat |= nested[section]
        flat |= {f"rlct_{name}": value for name, value in nested["rlct"].items()}
        return flat | {"seeds": nested["seeds"], "split_seed": nested["split_seed"]}


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
