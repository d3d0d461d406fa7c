"""A study as data: the model is the file format, the validation, the command line and the documentation."""

import re
from collections.abc import Iterator
from itertools import chain, product
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from study.errors import StudyError
from study.shown import plain
from study.spec.dimensions import ENUMERATED, SEARCHED, DesignPoints, SamplerName, SearchSpace, Word
from study.spec.points import ListedTrial, Point, all_trials, count_points, listed_trials, network_config, trial_config
from trainables.auxiliary import OPTIONS, get_auxiliary_task
from trainables.config import LARGEST_SEED, ObserverConfig, RlctConfig, Section, TrainingConfig
from trainables.measures import MEASURES, Measure
from trainables.networks import Layer, check_network, get_architecture, layers_of
from trainables.registry import did_you_mean
from trainables.targets import has_target, in_words
from trainables.tasks import TASKS, DataShape, get_task
from trainables.trial import TrialConfig

Direction = Literal["maximize", "minimize"]
# MLflow has an experiment of this name in every store; it belongs to no study.
RESERVED_NAME = "Default"
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
LONGEST_QUESTION = 1000
MOST_OBJECTIVES = 20
MOST_TRIALS = 100_000
MOST_DESIGN_BLOCKS = 1000
# Of all trials of a study.
MOST_NETWORKS = 1_000_000
# All networks of a space are checked up to this number; beyond it, those with a size at an end of its range.
MOST_CHECKED = 20_000


class StudySpec(Section):
    """A study: one question, its trials and how they are measured."""

    name: str = Field(
        description="Name of the study: of its MLflow experiment, its Optuna study and its folders.",
    )
    question: str = Field("", max_length=LONGEST_QUESTION, description="The question that the study asks.")
    task: Word = Field(description="Data set, with its recipe.")
    architecture: Word = Field(description="Architecture of the networks (default: the task's recipe).")
    replicates: int = Field(5, ge=1, le=1000, description="Networks per trial, each with a seed of its own.")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the first replicate; the others count up from it.")
    split_seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="Seed of the validation split, the same for all trials."
    )
    trials: int | None = Field(
        None,
        ge=1,
        le=MOST_TRIALS,
        description="Number of trials, design points included; leave it out for a grid or a design.",
    )
    sampler: SamplerName = Field(
        "tpe",
        description="How trials after the design points are chosen; 'grid' runs every point of the space, 'design' "
        "only the design points.",
    )
    space: SearchSpace = Field(default_factory=SearchSpace, description="What differs between the trials.")
    design: list[DesignPoints] = Field(
        default_factory=list, max_length=MOST_DESIGN_BLOCKS, description="Points that are run before the search."
    )
    objectives: dict[Word, Direction] = Field(
        default={"val_accuracy": "maximize", "weight_std": "minimize", "rlct": "minimize"},
        min_length=1,
        max_length=MOST_OBJECTIVES,
        description="Measures to optimize, and the direction of each: any measures that do not use the test split.",
    )
    training: TrainingConfig = Field(description="Training. Fields left out are from the task's recipe.")
    rlct: RlctConfig = Field(description="Estimation of the rlct. Fields left out are from the task's recipe.")
    observer: ObserverConfig = Field(
        default_factory=ObserverConfig, description="The network that learns to predict each trained one."
    )

    @model_validator(mode="before")
    @classmethod
    def _complete_from_recipe(cls, raw: Any) -> Any:
        """Fill omitted fields from the task's recipe: architecture and its sizes, targets, training and rlct."""
        if not isinstance(raw, dict):
            return raw
        # An unknown task is reported by the validator of `task`, and nothing else is.
        task = raw.get("task")
        recipe = TASKS.get(task if isinstance(task, str) else "", TASKS["mnist"]).recipe
        completed = dict(raw)
        completed.setdefault("architecture", recipe.network.architecture)
        if completed["architecture"] == recipe.network.architecture and isinstance(raw.get("space", {}), dict):
            published = recipe.network.model_dump(include={"hidden_layers", "width"})
            completed["space"] = published | {"target_depth": recipe.target_depth} | raw.get("space", {})
        for section, defaults in (("training", recipe.training), ("rlct", recipe.rlct)):
            given = raw.get(section, {})
            if isinstance(given, dict):
                completed[section] = defaults.model_dump() | given
        return completed

    @field_validator("name")
    @classmethod
    def _name_of_folders_and_experiment(cls, name: str) -> str:
        if not STUDY_NAME.fullmatch(name) or name == RESERVED_NAME:
            raise ValueError(
                "not a name for an experiment and its folders: take up to 100 letters, digits, dots, dashes and "
                f"underscores, a letter or digit first, and not {RESERVED_NAME!r}"
            )
        return name

    @field_validator("question")
    @classmethod
    def _printable(cls, question: str) -> str:
        if plain(question) != question:
            raise ValueError("it has control characters. Write it as plain text")
        return question

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        return get_task(task).name

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, architecture: str) -> str:
        return get_architecture(architecture).name

    @model_validator(mode="after")
    def _free_of_contradictions(self) -> Self:
        self._check_trials()
        self._check_targets()
        for name in self.objectives:
            self._check_objective(name)
        if not self.is_enumerated:
            self._check_search()
        listed = list(self.listed())
        if self.trials is not None and self.trials < len(listed):
            raise ValueError(f"trials: {self.trials} is less than the {len(listed)} design points")
        finite = None if self.is_enumerated else self.all_trials()
        if self.trials is not None and finite is not None and self.trials > len(finite):
            raise ValueError(
                f"trials: {self.trials} is more than the {len(finite)} different trials of the space. Lower it, widen "
                "the space, or choose sampler 'grid', which runs each once (and takes no number of trials)"
            )
        return self

    def _check_trials(self) -> None:
        """Check that sampler, number of trials, space and design fit together."""
        if self.sampler == "grid":
            for name in SEARCHED:
                if self.space.choices(name) is None:
                    raise ValueError(f"space.{name}: a grid needs values, not a range: give a list, or another sampler")
            if self.design:
                raise ValueError("design: a grid's points are its design points; leave design out")
        if self.sampler == "design" and not self.design:
            raise ValueError("design: sampler 'design' runs the design points, and none are listed")
        if self.is_enumerated and self.trials is not None:
            raise ValueError(f"trials: sampler {self.sampler!r} runs all listed points; leave trials out")
        self._check_networks(count_points(self) if self.trials is None else self.trials)
        if not self.is_enumerated and self.trials is None:
            raise ValueError(f"trials: sampler {self.sampler!r} needs a number of trials, e.g. 30")

    def _check_networks(self, trials: int) -> None:
        if trials * self.replicates > MOST_NETWORKS:
            raise ValueError(
                f"replicates: {trials:,} trials of {self.replicates:,} replicates are {trials * self.replicates:,} "
                f"networks, and a study may have {MOST_NETWORKS:,}. Lower one of them"
            )

    def _check_objective(self, name: str) -> None:
        """Check that an objective is a known measure that does not use the test split."""
        measure = self._measure(name)
        if measure is None:
            layers = self._common_layers()
            known = [each for measure in MEASURES.values() if measure.sees != "test" for each in measure.names(layers)]
            raise ValueError(
                f"objectives.{name}: no such measure; {did_you_mean(name, known)}the measures are {', '.join(known)}"
            )
        if measure.sees == "test":
            raise ValueError(
                f"objectives.{name}: it looks at the test split, and a search must not. Take val_accuracy, or another "
                "measure"
            )
        if measure.sees in ("validation", "held_out") and self.training.validation_fraction == 0:
            raise ValueError(
                f"objectives: {name} needs a validation split, and training.validation_fraction is 0 (the "
                f"published recipe). Set it above 0, or leave {name} out: a search must not look at the test split"
            )
        if measure.needs_observer and self.observer.epochs == 0:
            raise ValueError(f"objectives: {name} needs an observer, and observer.epochs is 0. Set it above 0")

    def _measure(self, name: str) -> Measure | None:
        """The measure with this name; a measure of one layer only if every network has this layer."""
        for measure in MEASURES.values():
            if not measure.per_layer and measure.name == name:
                return measure
            if measure.per_layer and name in measure.names(self._common_layers()):
                return measure
        return None

    def _common_layers(self) -> list[Layer]:
        """The layers, by name, that every network of the study has."""
        networks = [self.layers(depth) for depth in self.values("hidden_layers")]
        names = set.intersection(*({layer.name for layer in layers} for layers in networks))
        return [layer for layer in networks[0] if layer.name in names]

    def _check_targets(self) -> None:
        """Check that every target is a layer of some network of the study."""
        networks = [self.layers(depth) for depth in self.values("hidden_layers")]
        deepest = max(networks, key=len)
        for target in self.choices("target_depth") or ():
            if not any(has_target(target, layers) for layers in networks):
                raise ValueError(
                    f"space.target_depth: no network of the study has {target!r}; the deepest has the layers "
                    f"{in_words(deepest)}"
                )

    def _check_search(self) -> None:
        """Check that whatever the sampler chooses is an existing network, target and strength."""
        inputs = get_task(self.task).shape.inputs
        for depth, width in self._networks():
            check_network(network_config(self, depth, width), inputs)
        for depth in self.space.values("hidden_layers"):
            if self.space.target_depth != "any" and not self.targets_within(depth):
                raise ValueError(
                    f"space.target_depth: the search may choose {depth} hidden layer(s), and no target lies within the "
                    f"layers {in_words(self.layers(depth))}. Raise the lower end of space.hidden_layers, or let "
                    "target_depth be 'any' or 'last'"
                )
        largest, narrowest, highest = (
            self.space.largest("hidden_layers"),
            self.space.smallest("width"),
            self.space.largest("aux_weight"),
        )
        size = Point(largest, narrowest, highest, "last")
        for values in product(*(self.space.choices(name) or () for name in ("control", *OPTIONS))):
            self.trial_config(size._replace(**dict(zip(("control", *OPTIONS), values, strict=True))))

    def _networks(self) -> Iterator[tuple[int, int]]:
        """The numbers of layers and units of the networks to check."""
        depths, widths = self.space.values("hidden_layers"), self.space.values("width")
        if len(depths) * len(widths) <= MOST_CHECKED:
            return product(depths, widths)
        ends = product((min(depths), max(depths)), widths), product(depths, (min(widths), max(widths)))
        return chain.from_iterable(ends)

    def check_against(self, shape: DataShape) -> None:
        """Check the settings that depend on the sizes of the data.

        Raises:
            StudyError: the data is too small for a split or a batch.
        """
        fraction = self.training.validation_fraction
        samples = shape.training_size(fraction)
        held_out = shape.train_samples - samples
        if fraction > 0 and held_out < shape.classes:
            raise StudyError(
                f"training.validation_fraction: {fraction} of {shape.train_samples} training samples holds out "
                f"{held_out}, fewer than the {shape.classes} classes. Raise it, or set it to 0."
            )
        if self.rlct.batch_size > samples:
            raise StudyError(
                f"rlct.batch_size: {self.rlct.batch_size} is more than the {samples} training samples. Lower it."
            )
        batch_size = self.training.batch_size
        if min(samples, samples % batch_size or batch_size) == 1 and (reason := self._why_batches_need_two()):
            raise StudyError(
                f"training.batch_size: {batch_size} cuts the {samples} training samples so that the last batch has one "
                f"sample alone, and {reason}. Take another size."
            )

    def _why_batches_need_two(self) -> str | None:
        """The part of this study that compares the samples of a batch with each other; None if nothing does."""
        if get_architecture(self.architecture).mixes_samples:
            return f"{self.architecture} normalises each sample by its batch"
        for control in self.choices("control") or []:
            if get_auxiliary_task(control).mixes_samples:
                return f"control {control!r} takes its targets from the rest of the batch"
        if "standardized" in (self.choices("target_form") or []):
            return "target_form 'standardized' is over the batch"
        return None

    @property
    def is_enumerated(self) -> bool:
        """Whether all trials are listed and no sampler chooses any."""
        return self.sampler in ENUMERATED

    def layers(self, hidden_layers: int) -> tuple[Layer, ...]:
        """The layers of the study's networks with this many hidden layers; the names do not depend on the width."""
        width = min(self.choices("width") or [self.space.smallest("width")])
        return layers_of(network_config(self, hidden_layers, width), get_task(self.task).shape.inputs)

    def targets_within(self, hidden_layers: int) -> list[int | str]:
        """The choices of target_depth that exist in a network with this many hidden layers."""
        layers = self.layers(hidden_layers)
        return [target for target in self.choices("target_depth") or [] if has_target(target, layers)]

    def choices(self, name: str) -> list[Any] | None:
        """The choices of a dimension: those of the design if only the design is run, else those of the space."""
        if self.sampler != "design":
            return self.space.choices(name)
        of_blocks = [block.values(name) or self.space.fixed(name) for block in self.design]
        return list(dict.fromkeys(value for values in of_blocks for value in values)) or self.space.choices(name)

    def values(self, name: str) -> list[Any]:
        """Every value of a dimension that is a list or a range of whole numbers."""
        return self.choices(name) or self.space.values(name)

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings that all trials of a study share. Results under two protocols are not one study."""
        return self.model_dump(mode="json", exclude={"name", "question", "trials", "sampler", "space", "design"})

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seed, self.seed + self.replicates))

    def listed(self) -> Iterator[ListedTrial]:
        """The trials at the design points, or at the points of a grid: in order, each once.

        Points that no network can have are left out.

        Raises:
            ValueError: a point lies outside the space, or omits a dimension that the space does not fix.
        """
        return listed_trials(self)

    def all_trials(self) -> list[ListedTrial] | None:
        """Every different trial of the space; None if there are too many to list, or a range of weights."""
        return all_trials(self)

    def trial_config(self, point: Point) -> TrialConfig | None:
        """The trial at a point; None if the network does not have the target.

        Raises:
            ConfigError: the network does not exist, or the control does not take this strength.
        """
        return trial_config(self, point)

    def trial_key(self, point: Point, data_digest: str) -> str:
        """The key of the trial at a point whose target the network has."""
        config = self.trial_config(point)
        assert config is not None, f"no network of the study has the target of {point}"
        return config.key(data_digest)
