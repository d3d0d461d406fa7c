"""A study as data: the model is the file format, the validation, the command line and the documentation."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from study.shown import plain
from study.spec.budget import BudgetConfig
from study.spec.checks import check_data, check_study
from study.spec.dimensions import (
    ANY,
    APART,
    Architectures,
    DesignPoints,
    Dimension,
    SearchSpace,
    Tasks,
    Word,
    all_values,
)
from study.spec.sampler import SamplerConfig
from study.spec.stopping import StoppingConfig, check_stopping
from study.spec.trials import ORDER, Values, all_trials, listed_trials
from trainables.config import LARGEST_SEED, ObserverConfig, RlctConfig, Section, TrainingConfig
from trainables.errors import ConfigError
from trainables.fields import FIELDS, PATHS, TARGET
from trainables.making import make_trial, network_of, recipe_values
from trainables.networks import Layer, architectures_for, layers_of
from trainables.tasks import TASKS, DataShape, Recipe, get_task
from trainables.trial import TrialConfig

Direction = Literal["maximize", "minimize"]
_Section = TypeVar("_Section", TrainingConfig, RlctConfig)
# MLflow has an experiment of this name in every store; it belongs to no study.
RESERVED_NAME = "Default"
LONGEST_NAME = 100
STUDY_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}", re.ASCII)
LONGEST_QUESTION = 1000
MOST_OBJECTIVES = 20
MOST_TRIALS = 100_000
MOST_DESIGN_BLOCKS = 1000
# Weights of a study that names none.
DEFAULT_WEIGHTS = [0.0, 1.0, 5.0, 10.0, 20.0, 50.0]
# Sections of a study whose fields a space may vary.
SECTIONS = ("training", "rlct", "observer")
# Those of them that a task's recipe has.
SECTIONS_OF_RECIPES = ("training", "rlct")
# Fields that a space has besides its own.
_ALWAYS = ("architecture", "aux_weight", TARGET)


class StudySpec(Section):
    """A study: one question, its trials and how they are measured."""

    name: str = Field(
        description="Name of the study: of its MLflow experiment, its Optuna study and its folders.",
    )
    question: str = Field("", max_length=LONGEST_QUESTION, description="The question that the study asks.")
    task: Tasks = Field(description="Data set, with its recipe, or several.")
    architecture: Architectures = Field(
        description="Architecture of the networks, or several (default: the task's recipe)."
    )
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
    sampler: SamplerConfig = Field(
        SamplerConfig(name="tpe"),
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
    rlct: RlctConfig = Field(
        description="Estimation of the rlct. Fields left out are from the task's recipe; 'protocol: local' takes its "
        "settings at which the chains stay near the trained weights, 'step_size: auto' finds one step for all trials "
        "before the first."
    )
    observer: ObserverConfig = Field(
        default_factory=ObserverConfig, description="The network that learns to predict each trained one."
    )
    budget: BudgetConfig = Field(
        default_factory=BudgetConfig, description="Limits after which no further trial begins."
    )
    stopping: StoppingConfig | None = Field(
        None, description="The rule by which trials of a search are stopped early; left out, none is."
    )

    @model_validator(mode="before")
    @classmethod
    def _complete_from_recipe(cls, raw: Any) -> Any:
        """Fill omitted fields from the first task's recipe: architecture, training and rlct."""
        if not isinstance(raw, dict):
            return raw
        completed = dict(raw)
        space = raw.get("space")
        if isinstance(space, Mapping):
            space = {PATHS.get(name, name) if isinstance(name, str) else name: value for name, value in space.items()}
            for name in APART:
                if name in space and name in raw:
                    raise ValueError(f"space.{name}: {name} is given too. Give it once")
                if name in space:
                    completed[name] = space.pop(name)
                    completed["space"] = space
            _check_given_once(space, raw)
        tasks = completed.get("task")
        if isinstance(tasks, list) and len(tasks) == 1:
            completed["task"] = tasks[0]
        # An unknown task is reported by the type of `task`, and nothing else is.
        task = tasks[0] if isinstance(tasks, list) and tasks else tasks
        recipe = TASKS.get(task if isinstance(task, str) else "", TASKS["mnist"]).recipe
        completed.setdefault("architecture", recipe.network.architecture)
        if isinstance(raw.get("rlct"), Mapping) and "protocol" in raw["rlct"]:
            raw = raw | {"rlct": _of_protocol(raw["rlct"], recipe, completed.get("task"))}
        for section, defaults in (("training", recipe.training), ("rlct", recipe.rlct)):
            given = raw.get(section, {})
            if isinstance(given, dict):
                completed[section] = defaults.model_dump() | given
        return completed

    @model_validator(mode="wrap")
    @classmethod
    def _knowing_what_was_given(cls, raw: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Let `model_fields_set` name what was given: each task has its own recipe's value of the other fields."""
        spec = handler(raw)
        if isinstance(raw, dict):
            for section in SECTIONS_OF_RECIPES:
                given = raw.get(section, {})
                if isinstance(given, dict):
                    getattr(spec, section).model_fields_set.intersection_update(given)
            space = raw.get("space")
            in_space = isinstance(space, Mapping) and {"architecture", FIELDS["architecture"].path} & space.keys()
            if "architecture" not in raw and not in_space:
                spec.model_fields_set.discard("architecture")
        return spec

    @model_serializer(mode="wrap")
    def _without_what_varies(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields as a study file has them: what the space varies is in no section.

        Of several tasks, each has its own recipe: only what was given is written.
        """
        fields: dict[str, Any] = handler(self)
        if len(self.tasks) > 1:
            if "architecture" not in self.model_fields_set:
                fields.pop("architecture", None)
            for name in SECTIONS_OF_RECIPES:
                if name in fields:
                    given = self.given(name)
                    fields[name] = {key: value for key, value in fields[name].items() if key in given}
        for field in (FIELDS[name] for name in self.space.names):
            if field.section in SECTIONS:
                fields[field.section].pop(field.key, None)
        if self.stopping is None:
            fields.pop("stopping", None)
        return fields

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

    @model_validator(mode="after")
    def _free_of_contradictions(self) -> Self:
        check_study(self)
        check_stopping(self)
        return self

    def check_against(self, shape: DataShape, task: str | None = None) -> None:
        """Check the settings that depend on the sizes of a task's data; the task may be left out if there is one.

        Raises:
            StudyError: the data is too small for a split or a batch.
        """
        check_data(self, shape, self.tasks[0] if task is None else task)

    @property
    def is_enumerated(self) -> bool:
        """Whether all trials are listed and no sampler chooses any."""
        return self.sampler.is_enumerated

    @property
    def stopping_rule(self) -> str:
        """The rule of early stopping as the record has it: one line, empty without a rule."""
        return "" if self.stopping is None else self.stopping.as_text()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The study's tasks."""
        return tuple(self.task) if isinstance(self.task, list) else (self.task,)

    @property
    def architectures(self) -> tuple[str, ...]:
        """The architectures of the study's networks."""
        if len(self.tasks) > 1 and "architecture" not in self.model_fields_set:
            return tuple(dict.fromkeys(chain.from_iterable(self.architectures_of(task) for task in self.tasks)))
        given = self.architecture
        return tuple(given) if isinstance(given, list) else (given,)

    def architectures_of(self, task: str) -> tuple[str, ...]:
        """The architectures of a task's networks: of several tasks, those of the study that take its inputs."""
        if len(self.tasks) == 1:
            return self.architectures
        if "architecture" not in self.model_fields_set:
            return (get_task(task).recipe.network.architecture,)
        fitting = architectures_for(get_task(task).shape.inputs)
        return tuple(architecture for architecture in self.architectures if architecture in fitting)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The fields that the study's trials are chosen by, each after those that it depends on."""
        given = {*_ALWAYS, *self.space.names, *(name for block in self.design for name in block.names)}
        if len(self.tasks) > 1:
            given.add("task")
        return tuple(name for name in ORDER if name in given)

    @property
    def free_names(self) -> tuple[str, ...]:
        """The fields that are chosen after the task and the architecture."""
        return tuple(name for name in self.names if name not in APART)

    @cached_property
    def varied(self) -> tuple[str, ...]:
        """The fields in which the study's trials differ."""
        return tuple(name for name in self.names if len(self.values(name)) > 1 or self.values(name) == [ANY])

    def base(self, task: str, architecture: str) -> Values:
        """The value of every field with this task and architecture, for a trial that is chosen by none."""
        return self._bases[task, architecture]

    @property
    def bases(self) -> list[Values]:
        """The value of every field with each task and architecture of the study."""
        return list(self._bases.values())

    @cached_property
    def _bases(self) -> dict[tuple[str, str], Values]:
        of_sections = {
            field.name: getattr(getattr(self, field.section), field.key)
            for field in FIELDS.values()
            if field.section in SECTIONS and field.key in self.given(field.section)
        }
        return {
            (task, architecture): recipe_values(task, architecture) | of_sections | {"split_seed": self.split_seed}
            for task in self.tasks
            for architecture in self.architectures_of(task)
        }

    def given(self, section: str) -> frozenset[str]:
        """The fields of a section that are the same for all tasks; the others are from each task's recipe."""
        model = getattr(self, section)
        if len(self.tasks) == 1 or section not in SECTIONS_OF_RECIPES:
            return frozenset(type(model).model_fields)
        return frozenset(model.model_fields_set)

    def training_of(self, task: str) -> TrainingConfig:
        """The training of a task, where the space does not vary it."""
        return self.training if len(self.tasks) == 1 else self._completed(get_task(task).recipe.training, "training")

    def rlct_of(self, task: str) -> RlctConfig:
        """The estimation of a task's rlct, where the space does not vary it."""
        return self.rlct if len(self.tasks) == 1 else self._completed(get_task(task).recipe.rlct, "rlct")

    def _completed(self, recipe: _Section, section: str) -> _Section:
        given = getattr(self, section)
        return recipe.model_copy(update={key: getattr(given, key) for key in self.given(section)})

    def space_dimension(self, name: str, values: Values) -> Dimension:
        """What the space allows a field, given the choices before it; a single value is a list of one."""
        if name == "task":
            return list(self.tasks)
        if name == "architecture":
            return list(self.architectures_of(values["task"]))
        given = self.space.dimension(name, values["architecture"], values["task"])
        if given is None and name == "aux_weight":
            return DEFAULT_WEIGHTS
        return [values[name]] if given is None else given

    def dimension(self, name: str, values: Values) -> Dimension:
        """What a field may be, given the choices before it: target 'any' is the layers of the network."""
        dimension = self.space_dimension(name, values)
        if name == TARGET and dimension == [ANY]:
            return list(range(1, len(self.layers(values)) + 1))
        return dimension

    def values(self, name: str, task: str | None = None) -> list[Any]:
        """Every value that a field may have in the study or with a task of it; of a range without steps, its ends."""
        found: dict[Any, None] = {}
        if self.sampler.name == "design":
            for block in self.design:
                of_block = [each for each in block.values("task") or self.tasks if task in (None, each)]
                if of_block:
                    found |= dict.fromkeys(block.values(name) or self._values_of_space(name, of_block))
            return list(found) or self._values_of_space(name, self.tasks)
        return self._values_of_space(name, self.tasks if task is None else [task])

    def numbers(self, name: str) -> tuple[float, float] | None:
        """The least and the greatest value of a field; None if it has other values than numbers, or none.

        Both are whole if all values are.
        """
        return self._numbers[name]

    @cached_property
    def _numbers(self) -> dict[str, tuple[float, float] | None]:
        found: dict[str, tuple[float, float] | None] = {}
        for name in self.names:
            values = [value for value in self.values(name) if value != ANY]
            if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
                whole = all(isinstance(value, int) for value in values)
                found[name] = (min(values), max(values)) if whole else (float(min(values)), float(max(values)))
            else:
                found[name] = None
        return found

    def _values_of_space(self, name: str, tasks: Sequence[str]) -> list[Any]:
        bases = [base for base in self.bases if base["task"] in tasks]
        return list(dict.fromkeys(value for base in bases for value in all_values(self.space_dimension(name, base))))

    def protocol(self, task: str) -> dict[str, Any]:
        """The settings that all trials with one task share. Results under two protocols are not one study."""
        sections = {"task": task, "training": self.training_of(task), "rlct": self.rlct_of(task)}
        fields = self.model_copy(update=sections).model_dump(
            mode="json",
            exclude={
                "name",
                "question",
                "trials",
                "sampler",
                "space",
                "design",
                "replicates",
                "architecture",
                "budget",
                "stopping",
            },
        )
        for field in (FIELDS[name] for name in self.names):
            if field.role == "setting":
                shared = fields[field.section] if field.section else fields
                shared.pop(field.key, None)
                if field.name not in self.varied:
                    (shared[field.key],) = self.values(field.name, task)
        return fields

    @property
    def varied_settings(self) -> list[str]:
        """The settings, by path, in which trials of the study differ."""
        return [FIELDS[name].path for name in self.varied if FIELDS[name].role == "setting"]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seed, self.seed + self.replicates))

    def listed(self) -> Iterator[TrialConfig]:
        """The trials at the design points, or at the points of a grid: in order, each once.

        Points that no network can have are left out.

        Raises:
            ValueError: a point lies outside the space, or omits a dimension that the space does not fix.
        """
        return iter(self._listed)

    @cached_property
    def _listed(self) -> tuple[TrialConfig, ...]:
        return tuple(listed_trials(self))

    def lists(self, config: TrialConfig) -> bool:
        """Whether a trial is among those that the study lists."""
        return config in self._set_of_listed

    @cached_property
    def _set_of_listed(self) -> frozenset[TrialConfig]:
        return frozenset(self._listed)

    def all_trials(self) -> list[TrialConfig] | None:
        """Every different trial of the space; None if there are too many to list, or a range has no steps."""
        return all_trials(self)

    def layers(self, values: Values) -> tuple[Layer, ...]:
        """The layers of the network with these values.

        Raises:
            ConfigError: the network does not exist.
        """
        return layers_of(network_of(values), get_task(values["task"]).shape.inputs)

    def make_trial(self, values: Values) -> TrialConfig | None:
        """The trial with these values of all fields; None if the network does not have the target.

        Raises:
            ConfigError: the network does not exist, or two values contradict each other.
        """
        try:
            return make_trial(values, self.seeds)
        except ValidationError as error:
            # This runs within a validation, in which an error of pydantic's would be taken apart.
            details = error.errors()[0]
            path = "".join(f"{part}: " for part in details["loc"][-1:]) or "space: some choices contradict each other: "
            raise ConfigError(f"{path}{details['msg'].removeprefix('Value error, ')}") from error


def _check_given_once(space: Mapping[Any, Any], raw: Mapping[str, Any]) -> None:
    for name in space:
        section, _, key = FIELDS[name].path.rpartition(".") if name in FIELDS else ("", "", "")
        given = raw.get(section)
        if section in SECTIONS and isinstance(given, Mapping) and key in given:
            raise ValueError(f"space.{name}: {section}.{key} is given too. Give it once")
        if name == "split_seed" and name in raw:
            raise ValueError("space.split_seed: split_seed is given too. Give it once")


def _of_protocol(given: Mapping[str, Any], recipe: Recipe, task: Any) -> dict[str, Any]:
    """Settings of the rlct with those of the protocol that they name in place of the name.

    Raises:
        ValueError: the recipe has no such protocol, or the study has several tasks, whose settings differ.
    """
    others = {name: value for name, value in given.items() if name != "protocol"}
    if given["protocol"] == "published":
        return others
    if isinstance(task, list):
        raise ValueError("rlct.protocol: its settings differ between tasks. Make a study of each task")
    try:
        settings = recipe.rlct_settings(str(given["protocol"]))
    except ConfigError as error:
        raise ValueError(f"rlct.protocol: {error}") from error
    return settings.model_dump() | others
