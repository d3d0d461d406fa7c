"""One step size of the rlct sampler for a whole study, from networks at the ends of what it varies.

A step that suits a small network trained without self-modeling may be too large for a sharper one, and two step sizes
in one study would give estimates of different bias. So the ends of the grid are trained first, in a study of their own,
and sampled with a ladder of steps; the largest one that suits all of them is that of the study.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.errors import StudyError
from study.record.outcome import RlctOutcome
from study.spec import StudySpec, build_spec
from study.spec.study import LONGEST_NAME
from trainables.config import FURTHER_ESTIMATES, RlctConfig, canonical
from trainables.fields import FIELDS, TARGET
from trainables.networks import Head, get_architecture
from trainables.outcomes import STATUSES, VERDICTS
from trainables.tasks import get_task
from trainables.trial import TrialConfig, field_name

# Steps that are tried, relative to the one that the study would have otherwise.
FACTORS = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)
# An estimate may be raised by at most this share by finite steps and the noise of batches.
MOST_BIAS = 0.02
MOST_REPLICATES = 2
# What is added to the name of a study for that of its ends: this, and so many digits of a digest.
SUFFIX, DIGITS = ".step-size-", 8


def check_auto(spec: StudySpec) -> None:
    """Check that a study can have one step size that is found before its first trial.

    Raises:
        StudyError: its trials are not listed, it has several tasks, varies the step size, or has too long a name.
    """
    if not spec.is_enumerated:
        raise StudyError(
            "rlct.step_size: auto is found at the ends of a grid or of a design, and this is a search, which may leave "
            "them. Give a number, or make it a grid."
        )
    if len(spec.tasks) > 1:
        raise StudyError("rlct.step_size: auto is for one task, as each task has settings of its own. Give a number.")
    if "rlct_step_size" in spec.names:
        raise StudyError("rlct.step_size: auto is given, and the trials vary it. Give it once.")
    longest = LONGEST_NAME - len(SUFFIX) - DIGITS
    if len(spec.name) > longest:
        raise StudyError(
            f"name: with rlct.step_size auto it has at most {longest} characters, as {SUFFIX!r} and {DIGITS} digits "
            "are added to it."
        )


def extremes(spec: StudySpec) -> list[TrialConfig]:
    """The trials of the smallest and the largest network, each with the least and the greatest aux_weight.

    Those of self-modeling go first: the strengths of controls have other scales.
    """
    listed = list(spec.listed())
    sizes = [_parameters(config) for config in listed]
    found: dict[TrialConfig, None] = {}
    for size in (min(sizes), max(sizes)):
        alike = [config for config, each in zip(listed, sizes, strict=True) if each == size]
        alike = [config for config in alike if config.self_model.control == "none"] or alike
        for end in (min, max):
            found[end(alike, key=lambda config: config.self_model.aux_weight)] = None
    return list(found)


def study_of_extremes(spec: StudySpec) -> StudySpec:
    """The study that trains these networks, with one estimate each and without an observer.

    Its name follows from all that it is made of: with other settings it is another study.
    """
    task = spec.tasks[0]
    left_out = {field_name("rlct", name) for name in FURTHER_ESTIMATES}
    names = [name for name in spec.names if name not in left_out and FIELDS[name].section != "observer"]
    raw: dict[str, Any] = {
        "task": task,
        "architecture": list(spec.architectures),
        "seed": spec.seed,
        "split_seed": spec.split_seed,
        "replicates": min(spec.replicates, MOST_REPLICATES),
        "sampler": "design",
        "design": [_point(config, names) for config in extremes(spec)],
        "objectives": {"rlct": "minimize"},
        "training": spec.training_of(task).model_dump(mode="json"),
        "rlct": spec.rlct_of(task).of_one_estimate().model_dump(mode="json"),
        "observer": {"epochs": 0},
        "budget": spec.budget.model_dump(mode="json", exclude={"trials"}),
    }
    name = f"{spec.name}{SUFFIX}{hashlib.sha256(canonical(raw)).hexdigest()[:DIGITS]}"
    question = f"Which step size of the rlct's sampler suits all networks of the study {spec.name}?"
    return build_spec(raw | {"name": name, "question": question}, name)


def ladder(settings: RlctConfig) -> list[RlctConfig]:
    """A trial's settings with every step size that is tried, from the largest to the smallest."""
    return [
        settings.model_copy(update={"step_size": float(f"{settings.step_size * factor:.3g}")}) for factor in FACTORS
    ]


@dataclass(frozen=True)
class Sampled:
    """A network sampled with one step size."""

    status: str
    verdict: str
    bias: float  # the share by which finite steps and the noise of batches raise the estimate

    @property
    def learned(self) -> bool:
        """Whether its measures count."""
        return STATUSES[self.status].usable

    @property
    def suits(self) -> bool:
        """Whether the estimate is sound and has little bias."""
        return self.verdict == next(iter(VERDICTS)) and self.bias <= MOST_BIAS


def sampled(statuses: Sequence[str], outcome: RlctOutcome) -> list[Sampled]:
    """Each replicate of a trial under one step size."""
    excess = outcome.diagnostics["excess"]
    return [
        Sampled(status, verdict, raised / abs(estimate) if estimate else math.inf)
        for status, verdict, raised, estimate in zip(statuses, outcome.verdicts, excess, outcome.estimates, strict=True)
    ]


def largest_that_suits(networks: Mapping[float, Sequence[Sampled]]) -> float | None:
    """The largest step size that suits every network that learned, given by step size; None if there is none."""
    for step in sorted(networks, reverse=True):
        learned = [network for network in networks[step] if network.learned]
        if learned and all(network.suits for network in learned):
            return step
    return None


def _point(config: TrialConfig, names: Sequence[str]) -> dict[str, Any]:
    """A design point that is this trial."""
    point = {name: FIELDS[name].value_in(config) for name in names}
    if TARGET in point:
        # A baseline has no target, whichever is named.
        point[TARGET] = "+".join(map(str, config.self_model.target_depths)) or "last"
    return point


def _parameters(config: TrialConfig) -> int:
    shape = get_task(config.task).shape
    architecture = get_architecture(config.network.architecture)
    return architecture.size(config.network, shape.inputs, Head(shape.classes)).parameters
