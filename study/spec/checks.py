"""The checks of a study's tasks, sizes, trials and objectives against each other and against the data."""

from itertools import product
from typing import TYPE_CHECKING

from study.errors import StudyError
from study.spec.dimensions import ANY, numbers_in
from study.spec.networks import check_search, check_targets, common_layers, layers_of_networks, networks_of
from study.spec.trials import count_points, lies_in
from trainables.auxiliary import get_auxiliary_task
from trainables.config import NO_EPOCHS
from trainables.fields import FIELDS
from trainables.measures import MEASURES, Measure
from trainables.networks import Layer, architectures_for, get_architecture
from trainables.registry import did_you_mean
from trainables.tasks import DataShape, get_task

if TYPE_CHECKING:
    from study.spec.study import StudySpec

# Of all trials of a study.
MOST_NETWORKS = 1_000_000


def check_study(spec: "StudySpec") -> None:
    """Check a study whose fields are right one by one.

    Raises:
        ValueError: two of them contradict each other, or a network or trial of the study does not exist.
    """
    _check_architectures(spec)
    _check_names(spec)
    _check_trials(spec)
    networks = networks_of(spec)
    by_layers = layers_of_networks(networks)
    check_targets(spec, by_layers)
    layers = common_layers(by_layers)
    for name in spec.objectives:
        _check_objective(spec, name, layers)
    if not spec.is_enumerated:
        check_search(spec, networks, by_layers)
    _check_number(spec)


def check_data(spec: "StudySpec", shape: DataShape, task: str) -> None:
    """Check the settings that depend on the sizes of a task's data.

    Raises:
        StudyError: the data is too small for a split or a batch.
    """
    for fraction, most in product(
        numbers_in(spec.values("validation_fraction", task)), spec.values("train_samples", task)
    ):
        _check_split(spec, shape, fraction, most, task)


def _check_architectures(spec: "StudySpec") -> None:
    """Check that each of several tasks has an architecture, and each architecture a task whose inputs it takes."""
    if len(spec.tasks) == 1:
        return  # Its networks are checked with their sizes.
    for task in spec.tasks:
        if not spec.architectures_of(task):
            fitting = ", ".join(architectures_for(get_task(task).shape.inputs))
            raise ValueError(f"architecture: none takes the inputs of {task!r}. Add one of {fitting}")
    of_tasks = {architecture for task in spec.tasks for architecture in spec.architectures_of(task)}
    for architecture in spec.architectures:
        if architecture not in of_tasks:
            raise ValueError(
                f"architecture: {architecture!r} takes the inputs of none of the tasks {', '.join(spec.tasks)}. "
                "Leave it out"
            )


def _check_names(spec: "StudySpec") -> None:
    """Check that values by architecture or task are there for those of the study, and for no others."""
    for name in spec.space.names:
        if FIELDS[name].role == "network" and not any(
            name in get_architecture(each).fields for each in spec.architectures
        ):
            raise ValueError(
                f"space.{name}: makes no difference to {', '.join(spec.architectures)}. Leave it out, or add an "
                "architecture that has it"
            )
        given = spec.space.by_name(name)
        if not given:
            continue
        own = {*spec.architectures, *spec.tasks}
        for scope in given:
            if scope not in own:
                raise ValueError(
                    f"space.{name}: has values for {scope!r}, which the study does not have. Remove them, or add "
                    "it to the study's architectures or tasks"
                )
        for base in spec.bases:
            task, architecture = base["task"], base["architecture"]
            if FIELDS[name].role == "network" and name not in get_architecture(architecture).fields:
                continue
            if architecture not in given and task not in given:
                of_task = f" of {task!r}" if len(spec.tasks) > 1 else ""
                raise ValueError(f"space.{name}: has no values for {architecture!r}{of_task}. Add them")


def _check_trials(spec: "StudySpec") -> None:
    """Check that sampler, number of trials, space and design fit together."""
    if spec.sampler.name == "grid":
        for name, base in product(spec.names, spec.bases):
            if not isinstance(dimension := spec.space_dimension(name, base), list) or dimension == [ANY]:
                raise ValueError(f"space.{name}: a grid needs values, not a range: give a list, or another sampler")
        if spec.design:
            raise ValueError("design: a grid's points are its design points; leave design out")
    if spec.sampler.name == "design" and not spec.design:
        raise ValueError("design: sampler 'design' runs the design points, and none are listed")
    if spec.is_enumerated and spec.trials is not None:
        raise ValueError(f"trials: sampler {spec.sampler.name!r} runs all listed points; leave trials out")
    _check_count(spec, count_points(spec) if spec.trials is None else spec.trials)
    if not spec.is_enumerated and spec.trials is None:
        raise ValueError(f"trials: sampler {spec.sampler.name!r} needs a number of trials, e.g. 30")


def _check_count(spec: "StudySpec", trials: int) -> None:
    if trials * spec.replicates > MOST_NETWORKS:
        raise ValueError(
            f"replicates: {trials:,} trials of {spec.replicates:,} replicates are {trials * spec.replicates:,} "
            f"networks, and a study may have {MOST_NETWORKS:,}. Lower one of them"
        )


def _check_objective(spec: "StudySpec", name: str, layers: list[Layer]) -> None:
    """Check that an objective is a known measure that does not use the test split."""
    measure = _measure(name, layers)
    if measure is None:
        known = [each for measure in MEASURES.values() if measure.sees != "test" for each in measure.names(layers)]
        raise ValueError(
            f"objectives.{name}: no such measure; {did_you_mean(name, known)}the measures are {', '.join(known)}"
        )
    if measure.sees == "test":
        raise ValueError(
            f"objectives.{name}: it looks at the test split, and a search must not. Take val_accuracy, or another "
            "measure"
        )
    if measure.sees in ("validation", "held_out") and min(spec.values("validation_fraction")) == 0:
        raise ValueError(
            f"objectives: {name} needs a validation split, and training.validation_fraction is 0 (the "
            f"published recipe). Set it above 0, or leave {name} out: a search must not look at the test split"
        )
    if measure.asked_by and any(not value or value == NO_EPOCHS for value in spec.values(measure.asked_by)):
        field = FIELDS[measure.asked_by].path
        raise ValueError(f"objectives: {name} is measured only where {field} asks for it. Set it, or leave {name} out")
    if measure.needs_observer and min(spec.values("observer_epochs")) == 0:
        raise ValueError(f"objectives: {name} needs an observer, and observer.epochs is 0. Set it above 0")


def _measure(name: str, layers: list[Layer]) -> Measure | None:
    """The measure with this name; a measure of one layer only if every network has this layer."""
    for measure in MEASURES.values():
        if not measure.per_layer and measure.name == name:
            return measure
        if measure.per_layer and name in measure.names(layers):
            return measure
    return None


def _check_number(spec: "StudySpec") -> None:
    """Check the listed trials, and that the number of trials is not below them nor above the trials that there are."""
    listed = len(list(spec.listed()))
    if spec.trials is None:
        return
    if spec.trials < listed:
        raise ValueError(f"trials: {spec.trials} is less than the {listed} design points")
    finite = spec.all_trials()
    if finite is not None and spec.trials > len(finite):
        raise ValueError(
            f"trials: {spec.trials} is more than the {len(finite)} different trials of the space. Lower it, widen "
            "the space, or choose sampler 'grid', which runs each once (and takes no number of trials)"
        )


def _check_split(spec: "StudySpec", shape: DataShape, fraction: float, most: int | None, task: str) -> None:
    samples, available = shape.training_size(fraction, most), shape.training_size(fraction)
    held_out = shape.validation_size(fraction)
    if most is not None and not shape.classes <= most <= available - shape.classes:
        raise StudyError(
            f"training.train_samples: {most} of the {available} training samples of {task} cannot be drawn by class: "
            f"that takes, and leaves out, at least {shape.classes}. Choose another number, or leave it out for all."
        )
    for share in spec.values("label_noise", task):
        if share > 0 and round(share * samples) == 0:
            raise StudyError(
                f"training.label_noise: {share:g} of {samples} training samples changes no label. Raise it, or set it "
                "to 0."
            )
    if fraction > 0 and held_out < shape.classes:
        raise StudyError(
            f"training.validation_fraction: {fraction} of {shape.train_samples} training samples holds out "
            f"{held_out}, fewer than the {shape.classes} classes. Raise it, or set it to 0."
        )
    if (largest := max(spec.values("rlct_batch_size", task))) > samples:
        of_task = f" of {task}" if len(spec.tasks) > 1 else ""
        raise StudyError(f"rlct.batch_size: {largest} is more than the {samples} training samples{of_task}. Lower it.")
    if not (reason := _why_batches_need_two(spec, task)):
        return
    dimensions = [spec.space_dimension("batch_size", base) for base in spec.bases if base["task"] == task]
    if spec.sampler.name == "design":
        dimensions = [spec.values("batch_size", task)]
    for batch_size in (size for size in range(1, samples) if (samples - 1) % size == 0):
        if any(lies_in(dimension, "batch_size", batch_size) for dimension in dimensions):
            raise StudyError(
                f"training.batch_size: {batch_size} cuts the {samples} training samples so that the last batch has "
                f"one sample alone, and {reason}. Take another size; for a range, a step or a list that leaves it "
                "out."
            )


def _why_batches_need_two(spec: "StudySpec", task: str) -> str | None:
    """The part of this study that compares the samples of a batch with each other; None if nothing does."""
    for architecture in spec.architectures_of(task):
        if get_architecture(architecture).mixes_samples:
            return f"{architecture} normalises each sample by its batch"
    for control in spec.values("control", task):
        if get_auxiliary_task(control).mixes_samples:
            return f"control {control!r} takes its targets from the rest of the batch"
    if "batch" in spec.values("normalization", task):
        return "normalization 'batch' is over the batch"
    if "standardized" in spec.values("target_form", task):
        return "target_form 'standardized' is over the batch"
    return None
