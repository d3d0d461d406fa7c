"""A trial's configuration: every setting that can change its result, and the key made from the settings."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from trainables.auxiliary import ActivationTargets, get_auxiliary_task
from trainables.config import (
    PROTOCOL_VERSION,
    NetworkConfig,
    ObserverConfig,
    RlctConfig,
    Section,
    SelfModelConfig,
    TrainingConfig,
    canonical,
)
from trainables.networks import Head, Layer, get_architecture, layers_of
from trainables.targets import has_target, in_words, target_depths
from trainables.tasks import Task, get_task

# The sections of a trial's configuration, in the order of their fields' flat names.
SECTIONS: dict[str, type[Section]] = {
    "network": NetworkConfig,
    "self_model": SelfModelConfig,
    "training": TrainingConfig,
    "rlct": RlctConfig,
    "observer": ObserverConfig,
}
# The sections that are part of their fields' flat names: `rlct_draws`.
PREFIXED = ("rlct", "observer")


class TrialConfig(Section):
    """Everything that decides the result of one trial, apart from the content of the data."""

    task: str = Field(description="Data set and its recipe.")
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    self_model: SelfModelConfig = Field(default_factory=SelfModelConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    rlct: RlctConfig = Field(default_factory=RlctConfig)
    observer: ObserverConfig = Field(default_factory=ObserverConfig)
    seeds: tuple[int, ...] = Field(description="One seed per replicate.")
    split_seed: int = Field(0, ge=0, description="Seed of the validation split.")

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("needs at least one seed, all different and none negative")
        return seeds

    @model_validator(mode="after")
    def _task_network_and_targets_fit(self) -> Self:
        get_auxiliary_task(self.self_model.control).check(self.self_model)
        layers, depths = self.layers, self.self_model.target_depths
        if depths and depths[-1] > len(layers):
            raise ValueError(f"self_model.target_depths {list(depths)}: the network has the layers {in_words(layers)}")
        read = self.self_model.predict_from
        if read > len(layers) or (read and layers[read - 1].feeds_head):
            raise ValueError(
                f"self_model.predict_from {read}: needs a layer before the one that the head reads; the network has "
                f"the layers {in_words(layers)}"
            )
        if self.training.augment and not get_task(self.task).augments:
            raise ValueError(f"training.augment: task {self.task!r} has no augmentation; set it to false")
        if self.rlct.with_balanced and not get_architecture(self.network.architecture).has_free_scales(self.network):
            raise ValueError(
                f"rlct.with_balanced: a {self.network.architecture} with {self.network.activation} has no balanced "
                "network here: its units have no scale that is free, or a normalisation reads them; set it to false"
            )
        if max(self.rlct.epochs, default=0) > self.training.epochs:
            raise ValueError(
                f"rlct.with_epochs {self.rlct.with_epochs}: the training has {self.training.epochs} epochs"
            )
        if self.rlct.epochs and self.training.until_loss is not None:
            raise ValueError(
                "rlct.with_epochs: with training.until_loss each replicate ends its training at an epoch of its own; "
                "leave one of them out"
            )
        return self

    @classmethod
    def from_recipe(
        cls,
        task: str,
        *,
        aux_weight: float = 0.0,
        seeds: tuple[int, ...] = (0,),
        network: dict[str, Any] | None = None,
        self_model: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        rlct: dict[str, Any] | None = None,
        observer: dict[str, Any] | None = None,
    ) -> Self:
        """A trial of the task's recipe with the given fields replaced; the targets default to the recipe's.

        Raises:
            ConfigError: the task is unknown.
            pydantic.ValidationError: a field is unknown or impossible.
        """
        chosen = get_task(task)
        recipe = chosen.recipe
        network_config = recipe.network_with(network or {})
        auxiliary = {"aux_weight": aux_weight} | (self_model or {})
        if get_auxiliary_task(auxiliary.get("control", "none")).needs_targets(auxiliary["aux_weight"]):
            auxiliary.setdefault(
                "target_depths", default_depths(chosen, layers_of(network_config, chosen.shape.inputs))
            )
        return cls(
            task=task,
            network=network_config,
            self_model=SelfModelConfig(**auxiliary),
            training=TrainingConfig(**(recipe.training.model_dump() | (training or {}))),
            rlct=RlctConfig(**(recipe.rlct.model_dump() | (rlct or {}))),
            observer=ObserverConfig(**(observer or {})),
            seeds=seeds,
        )

    @property
    def replicates(self) -> int:
        return len(self.seeds)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The hidden layers of the network, in order of depth.

        Raises:
            ConfigError: the task or architecture is unknown, or the architecture does not take the task's inputs.
        """
        return layers_of(self.network, get_task(self.task).shape.inputs)

    def head(self, classes: int) -> Head:
        """The outputs of the network: the classes, and the predictions of its auxiliary task."""
        if not get_auxiliary_task(self.self_model.control).predicts:
            return Head(classes)
        return ActivationTargets(self.self_model, self.layers).head(classes)

    @property
    def observed_depths(self) -> tuple[int, ...]:
        """Depths of the layers that the observer predicts.

        They are the recipe's targets in every trial, so that trials can be compared with their baseline, which has no
        targets.
        """
        return default_depths(get_task(self.task), self.layers)

    def key(self, data_digest: str) -> str:
        """The trial key: 16 hexadecimal digits that change with anything that can change the result of a seed.

        The seeds are not part of it: replicates can be added to a trial. Fields at their defaults are not part of it
        either, so that a new field does not make other trials of the existing ones, nor are fields without effect.
        """
        return _key({"config": self._distinct_fields(), "data_digest": data_digest})

    def replicate_key(self, seed: int, data_digest: str) -> str:
        """The key of the replicate with a seed: 16 hexadecimal digits."""
        return _key({"config": self._distinct_fields(), "data_digest": data_digest, "seed": seed})

    def _distinct_fields(self) -> dict[str, Any]:
        """The fields that differ from their defaults and make a difference."""
        fields: dict[str, Any] = self.model_dump(mode="json", exclude={"seeds"}, exclude_defaults=True)
        used = {"architecture", *get_architecture(self.network.architecture).used(self.network)}
        for section in SECTIONS:
            unused = getattr(self, section).unused
            of_section = {
                name: value
                for name, value in fields.pop(section, {}).items()
                if name not in unused and (section != "network" or name in used)
            }
            if of_section:
                fields[section] = of_section
        return fields

    def flat(self) -> dict[str, Any]:
        """Every field under one flat name, as the tracking server shows it: `aux_weight`, `width`, `rlct_draws`, …"""
        nested = self.model_dump(mode="json")
        flat = {"task": nested["task"], "replicates": self.replicates}
        for section in SECTIONS:
            flat |= {field_name(section, name): value for name, value in nested[section].items()}
        return flat | {"seeds": nested["seeds"], "split_seed": nested["split_seed"]}

    @classmethod
    def from_flat(cls, texts: Mapping[str, str]) -> Self:
        """The trial whose `flat` fields have these texts, as a tracking server keeps them; other names do not count.

        Raises:
            pydantic.ValidationError: a text is no value of its field, or a field without default is missing.
        """
        fields: dict[str, Any] = {
            name: _value(texts[name]) for name in ("task", "seeds", "split_seed") if name in texts
        }
        for section, model in SECTIONS.items():
            names = {name: field_name(section, name) for name in model.model_fields}
            fields[section] = {name: _value(texts[flat]) for name, flat in names.items() if flat in texts}
        return cls.model_validate(fields)


def default_depths(task: Task, layers: Sequence[Layer]) -> tuple[int, ...]:
    """The target layers of the task's recipe; the last layer if the network does not have them."""
    published = task.recipe.target_depth
    return target_depths(published if has_target(published, layers) else "last", layers)


def field_name(section: str, name: str) -> str:
    """The flat name of a field of a section."""
    return f"{section}_{name}" if section in PREFIXED else name


def _value(text: str) -> Any:
    if text.startswith("["):
        return json.loads(text)
    return None if text == "None" else text


def _key(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(content | {"protocol_version": PROTOCOL_VERSION})).hexdigest()[:16]
