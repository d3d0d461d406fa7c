"""A study as data: the model is the file format, the validation, the command line and the documentation."""

import difflib
import math
from collections.abc import Iterator
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from study.errors import StudyError
from study.explain import explain_errors
from study.space import ENUMERATED, OPTIONS, SEARCHED, DesignPoints, SamplerName, SearchSpace, WeightRange
from trainables.config import NetworkConfig, ObserverConfig, RlctConfig, Section, SelfModelConfig, TrainingConfig
from trainables.controls import get_control
from trainables.errors import ConfigError
from trainables.networks import Layer, get_architecture, layers_of
from trainables.targets import has_target, in_words, target_depths
from trainables.tasks import TASKS, DataShape, get_task
from trainables.trial import TrialConfig

Direction = Literal["maximize", "minimize"]
# Measures that a search may steer by. The test split is not among them, and never will be.
ObjectiveName = Literal["val_accuracy", "train_loss", "weight_std", "rlct", "observer_r2", "observer_agreement"]
_Section = TypeVar("_Section", bound=Section)
# A space of more places than this counts as endless.
MOST_PLACES = 5000


class Point(NamedTuple):
    """One place in the search space, by the names the search uses."""

    hidden_layers: int
    width: int
    aux_weight: float
    target_depth: int | str
    control: str = "none"
    detach_targets: bool = True
    target_form: str = "raw"
    unit_weighting: str = "mean"
    head: str = "widened"


class StudySpec(Section):
    """A study: one question, its trials and how they are measured."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the study: of its MLflow experiment, its Optuna study and its folders.",
    )
    question: str = Field("", description="The question that the study asks.")
    task: str = Field(description="Data set, with its recipe.")
    architecture: str = Field(description="Architecture of the networks (default: the task's recipe).")
    replicates: int = Field(5, ge=1, le=1000, description="Networks per trial, each with a seed of its own.")
    seed: int = Field(0, ge=0, description="First replicate's seed; the next ones count on from it.")
    split_seed: int = Field(0, ge=0, description="Seed of the validation split, the same for all trials.")
    trials: int | None = Field(
        None, ge=1, description="Number of trials, design points included. A grid has as many as it has cells."
    )
    sampler: SamplerName = Field(
        "tpe",
        description="How trials after the design points are chosen; 'grid' runs every cell of the space, 'design' "
        "the design points alone.",
    )
    space: SearchSpace = Field(default_factory=SearchSpace, description="What differs between the trials.")
    design: list[DesignPoints] = Field(default_factory=list, description="Points that are run before the search.")
    objectives: dict[ObjectiveName, Direction] = Field(
        default={"val_accuracy": "maximize", "weight_std": "minimize", "rlct": "minimize"},
        min_length=1,
        description="What the search looks at, and which way is better.",
    )
    training: TrainingConfig = Field(description="Training. Fields left out are the task's recipe.")
    rlct: RlctConfig = Field(description="Estimation of the rlct. Fields left out are the task's recipe.")
    observer: ObserverConfig = Field(
        default_factory=ObserverConfig, description="The network that learns to predict each trained one."
    )

    @model_validator(mode="before")
    @classmethod
    def _complete_from_recipe(cls, raw: Any) -> Any:
        """Fields that are left out are the task's recipe: architecture and its sizes, targets, training and rlct."""
        if not isinstance(raw, dict):
            return raw
        # An unknown task is reported by its own validator, and alone.
        recipe = TASKS.get(str(raw.get("task")), TASKS["mnist"]).recipe
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

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        return get_task(task).name

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, architecture: str) -> str:
        return get_architecture(architecture).architecture

    @model_validator(mode="after")
    def _free_of_contradictions(self) -> Self:
        if self.training.validation_fraction == 0 and "val_accuracy" in self.objectives:
            raise ValueError(
                "objectives: val_accuracy needs a validation split, and training.validation_fraction is 0 (the "
                "published recipe). Set it above 0, or leave val_accuracy out: a search must not look at the test split"
            )
        unobserved = [name for name in self.objectives if name.startswith("observer_")]
        if unobserved and self.observer.epochs == 0:
            raise ValueError(f"objectives: {unobserved[0]} needs an observer, and observer.epochs is 0. Set it above 0")
        if self.sampler == "grid":
            self._check_grid()
        if self.sampler == "design" and not self.design:
            raise ValueError("design: sampler 'design' runs what is listed there, and nothing is")
        if self.is_enumerated:
            if self.trials is not None:
                raise ValueError(f"trials: sampler {self.sampler!r} runs what is listed; leave trials out")
        elif self.trials is None:
            raise ValueError(f"trials: sampler {self.sampler!r} needs a number of trials, e.g. 30")
        self._check_targets()
        if not self.is_enumerated:
            self._check_search()
        points = list(self.points())
        if self.trials is not None and self.trials < len(points):
            raise ValueError(f"trials: {self.trials} is less than the {len(points)} design points")
        places = None if self.is_enumerated else self.places()
        if self.trials is not None and places is not None and self.trials > len(places):
            raise ValueError(
                f"trials: {self.trials} is more than the {len(places)} different trials of the space. Lower it, widen "
                "the space, or choose sampler 'grid', which runs each once (and takes no number of trials)"
            )
        return self

    def _check_grid(self) -> None:
        for name in SEARCHED:
            if self.space.choices(name) is None:
                raise ValueError(f"space.{name}: a grid needs values, not a range: give a list, or another sampler")
        if self.design:
            raise ValueError("design: a grid's cells are its design points; leave design out")

    def _check_targets(self) -> None:
        """Every target is a layer of some network of the study."""
        networks = [self.layers(depth) for depth in self.values("hidden_layers")]
        deepest = max(networks, key=len)
        for target in self.choices("target_depth") or ():
            if not any(has_target(target, layers) for layers in networks):
                raise ValueError(
                    f"space.target_depth: no network of the study has {target!r}; the deepest has the layers "
                    f"{in_words(deepest)}"
                )

    def _check_search(self) -> None:
        """Whatever the sampler chooses is a network, a target and a strength that exist."""
        for depth in self.space.values("hidden_layers"):
            for width in self.space.values("width"):
                layers_of(self._network(depth, width), get_task(self.task).shape.inputs)
            if self.space.target_depth != "any" and not self.targets_within(depth):
                raise ValueError(
                    f"space.target_depth: the search may choose {depth} hidden layer(s), and no target lies within the "
                    f"layers {in_words(self.layers(depth))}. Raise the lower end of space.hidden_layers, or let "
                    "target_depth be 'any' or 'last'"
                )
        weights = self.space.aux_weight
        highest = weights.high if isinstance(weights, WeightRange) else max(self.space.choices("aux_weight") or ())
        size = Point(max(self.space.values("hidden_layers")), min(self.space.values("width")), highest, "last")
        for values in product(*(self.space.choices(name) or () for name in ("control", *OPTIONS))):
            self.trial_config(size._replace(**dict(zip(("control", *OPTIONS), values, strict=True))))

    def check_against(self, shape: DataShape) -> None:
        """Find what only the sizes of the data can contradict.

        Raises:
            StudyError: a split or a batch that the data is too small for.
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
        """What in this study sets the samples of a batch against each other; None if nothing does."""
        if get_architecture(self.architecture).mixes_samples:
            return f"{self.architecture} normalises each sample by its batch"
        for control in self.choices("control") or []:
            if get_control(control).mixes_samples:
                return f"control {control!r} takes its targets from the rest of the batch"
        if "standardized" in (self.choices("target_form") or []):
            return "target_form 'standardized' is over the batch"
        return None

    @property
    def is_enumerated(self) -> bool:
        """Whether the trials are listed, and no sampler chooses any."""
        return self.sampler in ENUMERATED

    def layers(self, hidden_layers: int) -> tuple[Layer, ...]:
        """The layers of the study's networks of that size in depth; those of all widths have the same names."""
        width = min(self.values("width"))
        return layers_of(self._network(hidden_layers, width), get_task(self.task).shape.inputs)

    def targets_within(self, hidden_layers: int) -> list[int | str]:
        """The choices of target_depth that a network of that size in depth has."""
        layers = self.layers(hidden_layers)
        return [target for target in self.choices("target_depth") or [] if has_target(target, layers)]

    def choices(self, name: str) -> list[Any] | None:
        """The finite choices of a dimension: of the design's blocks where they are all there is, else of the space."""
        if self.sampler != "design":
            return self.space.choices(name)
        of_blocks = [self._given(block, name) for block in self.design]
        return list(dict.fromkeys(value for values in of_blocks for value in values)) or self.space.choices(name)

    def values(self, name: str) -> list[Any]:
        """Every value of a dimension that is listed, or a range of whole numbers."""
        return self.choices(name) or self.space.values(name)

    @property
    def protocol(self) -> dict[str, Any]:
        """What all trials of a study share. Results under two protocols are not one study."""
        return self.model_dump(mode="json", exclude={"name", "question", "trials", "sampler", "space", "design"})

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seed, self.seed + self.replicates))

    def points(self) -> Iterator[Point]:
        """Design points in order, or the cells of a grid: without those that no network can have, none twice.

        Raises:
            ValueError: a point lies outside the space, or leaves open what the space leaves open too.
        """
        seen = set()
        for point in self._cells() if self.sampler == "grid" else self._design_points():
            config = self.trial_config(point)
            if config is not None and config not in seen:
                seen.add(config)
                yield point

    def places(self) -> list[Point] | None:
        """Every different trial of the space; None if there are more than MOST_PLACES, or a range of weights."""
        if isinstance(self.space.aux_weight, WeightRange):
            return None
        if self.space.target_depth == "any":
            targets = list(range(1, max(len(self.layers(depth)) for depth in self.values("hidden_layers")) + 1))
        else:
            targets = self.values("target_depth")
        dimensions = [targets if name == "target_depth" else self.values(name) for name in SEARCHED]
        if math.prod(map(len, dimensions)) > MOST_PLACES:
            return None
        different: dict[TrialConfig, Point] = {}
        for values in product(*dimensions):
            point = Point(**dict(zip(SEARCHED, values, strict=True)))
            config = self.trial_config(point)
            if config is not None:
                different.setdefault(config, point)
        return list(different.values())

    def _cells(self) -> Iterator[Point]:
        for values in product(*(self.space.choices(name) or () for name in SEARCHED)):
            yield Point(**dict(zip(SEARCHED, values, strict=True)))

    def _design_points(self) -> Iterator[Point]:
        for number, block in enumerate(self.design):
            values = [self._design_values(number, block, name) for name in SEARCHED]
            for combination in product(*values):
                point = Point(**dict(zip(SEARCHED, combination, strict=True)))
                if self.trial_config(point) is None:
                    raise ValueError(
                        f"design[{number}].target_depth: that point's network has no {point.target_depth!r}; it has "
                        f"the layers {in_words(self.layers(point.hidden_layers))}"
                    )
                yield point

    def _given(self, block: DesignPoints, name: str) -> list[Any]:
        """The values of a block, or the space's one value."""
        given = getattr(block, name)
        if given is None:
            fixed = self.space.choices(name) or []
            return fixed if len(fixed) == 1 else []
        return given if isinstance(given, list) else [given]

    def _design_values(self, number: int, block: DesignPoints, name: str) -> list[Any]:
        values = self._given(block, name)
        if not values:
            raise ValueError(f"design[{number}].{name}: missing, and space.{name} leaves it open. Give a value")
        for value in values:
            # Where nothing is searched, the design says where the study goes.
            if self.sampler != "design" and not self.space.contains(name, value):
                raise ValueError(f"design[{number}].{name}: {value!r} lies outside space.{name}. Widen the space")
        return values

    def trial_config(self, point: Point) -> TrialConfig | None:
        """The trial at a point; None where the network does not have the target.

        A control whose strength is 0 is the baseline, and one that has no strength is itself at any weight.

        Raises:
            ConfigError: there is no such network, or the control does not take that strength.
        """
        layers = self.layers(point.hidden_layers)
        if not has_target(point.target_depth, layers):
            if get_control(point.control).needs_targets(point.aux_weight):
                return None
            point = point._replace(target_depth="last")
        self_model = self._self_model(point, target_depths(point.target_depth, layers))
        return _checked(
            TrialConfig,
            task=self.task,
            network=self._network(point.hidden_layers, point.width),
            self_model=self_model,
            training=self.training,
            rlct=self.rlct,
            observer=self.observer,
            seeds=self.seeds,
            split_seed=self.split_seed,
        )

    def _network(self, hidden_layers: int, width: int) -> NetworkConfig:
        return NetworkConfig(architecture=self.architecture, hidden_layers=hidden_layers, width=width)

    def _self_model(self, point: Point, depths: tuple[int, ...]) -> SelfModelConfig:
        control = get_control(point.control)
        weight = 0.0 if control.strength is None else point.aux_weight
        if control.strength is not None and weight == 0:
            control = get_control("none")
        targets = depths if control.needs_targets(weight) else ()
        # What makes no difference to a control does not make another trial.
        options = {name: getattr(point, name) for name in control.options} if targets else {}
        config = _checked(SelfModelConfig, aux_weight=weight, target_depths=targets, control=control.name, **options)
        control.check(config)
        return config

    def trial_key(self, point: Point, data_digest: str) -> str:
        """The key of the trial at a point that the networks have."""
        config = self.trial_config(point)
        assert config is not None, f"no network of the study has the target of {point}"
        return config.key(data_digest)


def _checked(model: type[_Section], **fields: Any) -> _Section:
    """The model of these fields; what is wrong with them as a plain error, for it arises within a validation."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def named_studies() -> list[str]:
    """Names of the studies that come with the project."""
    folder = resources.files("study") / "studies"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def read_study(name_or_file: str) -> dict[str, Any]:
    """The fields of a named study or of a YAML file, as they are written.

    Raises:
        StudyError: there is no such study or file, or it is not a mapping in YAML.
    """
    if name_or_file.endswith((".yaml", ".yml")) or "/" in name_or_file:
        path = Path(name_or_file)
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"study file {path} cannot be read: {error}") from error
        raw = _parse_yaml(text, str(path))
        raw.setdefault("name", path.stem)
        return raw
    known = named_studies()
    if name_or_file not in known:
        close = difflib.get_close_matches(name_or_file, known, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise StudyError(
            f"study {name_or_file!r} is unknown. {hint}Named studies: {', '.join(known)}; or give a YAML file "
            "by its path."
        )
    text = (resources.files("study") / "studies" / f"{name_or_file}.yaml").read_text()
    return _parse_yaml(text, name_or_file)


def build_spec(raw: dict[str, Any], source: str) -> StudySpec:
    """Validate the fields of a study.

    Raises:
        StudyError: naming every field that is wrong, what it got and what would be right.
    """
    try:
        return StudySpec.model_validate(raw)
    except ValidationError as error:
        lines = explain_errors(error, raw, StudySpec)
        raise StudyError(f"the study {source!r} cannot be run:\n" + "\n".join(f"  {line}" for line in lines)) from error


def _parse_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StudyError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise StudyError(f"{source} must be a mapping of study fields, such as 'task: digits'")
    return raw
