"""A study as data: the model is the file format, the validation, the command line and the documentation."""

import difflib
import math
from collections.abc import Iterator
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from study.errors import StudyError
from study.explain import explain_errors
from study.space import SEARCHED, DesignPoints, SamplerName, SearchSpace, WeightRange, target_depths
from trainables.config import NetworkConfig, RlctConfig, Section, SelfModelConfig, TrainingConfig, TrialConfig
from trainables.networks import get_architecture
from trainables.tasks import TASKS, TaskData, get_task

Direction = Literal["maximize", "minimize"]
# Measures that a search may steer by. The test split is not among them, and never will be.
ObjectiveName = Literal["val_accuracy", "train_loss", "weight_std", "rlct"]
# A space of more places than this counts as endless.
MOST_PLACES = 5000


class Point(NamedTuple):
    """One place in the search space, by the names the search uses."""

    hidden_layers: int
    width: int
    aux_weight: float
    target_depth: int | str


class StudySpec(Section):
    """A study: one question, its trials and how they are measured."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the study: of its MLflow experiment, its Optuna study and its folders.",
    )
    question: str = Field("", description="The question that the study asks.")
    task: str = Field(description="Data set, with its recipe.")
    architecture: str = Field("mlp", description="Architecture of the networks.")
    replicates: int = Field(5, ge=1, le=1000, description="Networks per trial, each with a seed of its own.")
    seed: int = Field(0, ge=0, description="First replicate's seed; the next ones count on from it.")
    split_seed: int = Field(0, ge=0, description="Seed of the validation split, the same for all trials.")
    trials: int | None = Field(
        None, ge=1, description="Number of trials, design points included. A grid has as many as it has cells."
    )
    sampler: SamplerName = Field(
        "tpe", description="How trials after the design points are chosen; 'grid' runs every cell of the space."
    )
    space: SearchSpace = Field(default_factory=SearchSpace, description="What differs between the trials.")
    design: list[DesignPoints] = Field(default_factory=list, description="Points that are run before the search.")
    objectives: dict[ObjectiveName, Direction] = Field(
        default={"val_accuracy": "maximize", "weight_std": "minimize", "rlct": "minimize"},
        min_length=1,
        description="What the search looks at, and which way is better.",
    )
    detach_targets: bool = Field(
        True, description="Treat target activations as constants (as published); false lets gradients flow through."
    )
    training: TrainingConfig = Field(description="Training. Fields left out are the task's recipe.")
    rlct: RlctConfig = Field(description="Estimation of the rlct. Fields left out are the task's recipe.")

    @model_validator(mode="before")
    @classmethod
    def _complete_from_recipe(cls, raw: Any) -> Any:
        """Fields of training and rlct that are left out are the task's recipe."""
        if not isinstance(raw, dict):
            return raw
        # An unknown task is reported by its own validator, and alone.
        recipe = TASKS.get(str(raw.get("task")), TASKS["mnist"]).recipe
        completed = dict(raw)
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
        if self.sampler == "grid":
            self._check_grid()
        elif self.trials is None:
            raise ValueError(f"trials: sampler {self.sampler!r} needs a number of trials, e.g. 30")
        self._check_targets()
        points = list(self.points())
        if self.trials is not None and self.trials < len(points):
            raise ValueError(f"trials: {self.trials} is less than the {len(points)} design points")
        places = self.places()
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
        if self.trials is not None:
            raise ValueError("trials: a grid runs every cell; leave trials out, or choose another sampler")
        if self.design:
            raise ValueError("design: a grid's cells are its design points; leave design out")

    def _check_targets(self) -> None:
        deepest = self.space.largest_depth
        for target in self.space.choices("target_depth") or ():
            if max(target_depths(target, 1)) > deepest:
                raise ValueError(
                    f"space.target_depth: {target!r} lies beyond the deepest network of the study, which has {deepest} "
                    f"hidden layer(s); depths count from 1, the layer nearest the input"
                )
        shallowest = self.space.smallest_depth
        if self.sampler != "grid" and self.space.target_depth != "any" and not self.space.targets_within(shallowest):
            raise ValueError(
                f"space.target_depth: the search may choose {shallowest} hidden layer(s), and no target lies within "
                "them. Raise the lower end of space.hidden_layers, or let target_depth be 'any' or 'last'"
            )

    def check_against(self, data: TaskData) -> None:
        """Find what only the data can contradict.

        Raises:
            StudyError: a split or a batch that the data is too small for.
        """
        fraction = self.training.validation_fraction
        samples = data.training_size(fraction)
        held_out = len(data.train_labels) - samples
        if fraction > 0 and held_out < data.classes:
            raise StudyError(
                f"training.validation_fraction: {fraction} of {len(data.train_labels)} training samples holds out "
                f"{held_out}, fewer than the {data.classes} classes. Raise it, or set it to 0."
            )
        if self.rlct.batch_size > samples:
            raise StudyError(
                f"rlct.batch_size: {self.rlct.batch_size} is more than the {samples} training samples. Lower it."
            )

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
        dimensions = [self.space.values(name) for name in SEARCHED]
        if math.prod(map(len, dimensions)) > MOST_PLACES:
            return None
        different: dict[TrialConfig, Point] = {}
        for values in product(*dimensions):
            config = self.trial_config(Point(*values))
            if config is not None:
                different.setdefault(config, Point(*values))
        return list(different.values())

    def _cells(self) -> Iterator[Point]:
        for values in product(*(self.space.choices(name) or () for name in SEARCHED)):
            yield Point(*values)

    def _design_points(self) -> Iterator[Point]:
        for number, block in enumerate(self.design):
            values = [self._design_values(number, block, name) for name in SEARCHED]
            for combination in product(*values):
                point = Point(*combination)
                if self.trial_config(point) is None:
                    raise ValueError(
                        f"design[{number}].target_depth: {point.target_depth!r} lies beyond the "
                        f"{point.hidden_layers} hidden layer(s) of that point"
                    )
                yield point

    def _design_values(self, number: int, block: DesignPoints, name: str) -> list[Any]:
        given = getattr(block, name)
        if given is None:
            fixed = self.space.choices(name) or []
            if len(fixed) != 1:
                raise ValueError(f"design[{number}].{name}: missing, and space.{name} leaves it open. Give a value")
            return fixed
        values = given if isinstance(given, list) else [given]
        for value in values:
            if not self.space.contains(name, value):
                raise ValueError(f"design[{number}].{name}: {value!r} lies outside space.{name}. Widen the space")
        return values

    def trial_config(self, point: Point) -> TrialConfig | None:
        """The trial at a point; None where the target lies beyond the network's layers."""
        depths = target_depths(point.target_depth, point.hidden_layers) if point.aux_weight > 0 else ()
        if depths and max(depths) > point.hidden_layers:
            return None
        return TrialConfig(
            task=self.task,
            network=NetworkConfig(
                architecture=self.architecture, hidden_layers=point.hidden_layers, width=point.width
            ),
            self_model=SelfModelConfig(
                aux_weight=point.aux_weight, target_depths=depths, detach_targets=self.detach_targets
            ),
            training=self.training,
            rlct=self.rlct,
            seeds=self.seeds,
            split_seed=self.split_seed,
        )  # fmt: skip

    def trial_key(self, point: Point, data_digest: str) -> str:
        """The key of the trial at a point that the networks have."""
        config = self.trial_config(point)
        assert config is not None, f"no network of the study has the target of {point}"
        return config.key(data_digest)


def named_studies() -> dict[str, str]:
    """Names of the studies that come with the project, with their questions."""
    folder = resources.files("study") / "studies"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {f.name.removesuffix(".yaml"): yaml.safe_load(f.read_text())["question"] for f in files}


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
