"""One step size of the rlct sampler for a whole study, from networks at the ends of what it varies.

A step that suits a small network trained without self-modeling may be too large for a sharper one, and two step sizes
in one study would give estimates of different bias. So the ends of the grid are trained first, in a study of their own,
and sampled with a ladder of steps; the largest one that suits all of them is that of the study.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from study.errors import StudyError
from study.record.outcome import RlctOutcome
from study.spec import StudySpec, build_spec
from trainables.config import FURTHER_ESTIMATES, RlctConfig
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
# Of the name of the study in which the ends are trained.
SUFFIX = ".step-size"


def check_auto(spec: StudySpec) -> None:
    """Check that a study can have one step size that is found before its first trial.

    Raises:
        StudyError: it has several tasks, varies the step size, or lists no trials.
    """
    if len(spec.tasks) > 1:
        raise StudyError("rlct.step_size: auto is for one task; each has settings of its own. Give a number.")
    if "rlct_step_size" in spec.names:
        raise StudyError("rlct.step_size: auto is given, and the space varies it. Give it once.")
    if not any(spec.listed()):
        raise StudyError(
            "rlct.step_size: auto is found on listed trials, and this study has none. Add design points, such as the "
            "smallest and the largest network with the least and the greatest weight, or give a number."
        )


def extremes(spec: StudySpec) -> list[TrialConfig]:
    """The listed trials of the smallest and the largest network, each with the least and the greatest aux_weight.

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
    """The study that trains these networks, with one estimate each and without an observer."""
    settings = spec.rlct_of(spec.tasks[0]).of_one_estimate()
    further = {field_name("rlct", name) for name in FURTHER_ESTIMATES}
    names = [name for name in spec.names if name not in further]
    raw = spec.model_dump(mode="json", include={"task", "architecture", "seed", "split_seed", "training"}) | {
        "name": f"{spec.name}{SUFFIX}",
        "question": f"Which step size of the rlct's sampler suits all networks of the study {spec.name}?",
        "replicates": min(spec.replicates, MOST_REPLICATES),
        "sampler": "design",
        "design": [_point(config, names) for config in extremes(spec)],
        "objectives": {"rlct": "minimize"},
        "rlct": {key: value for key, value in settings.model_dump().items() if field_name("rlct", key) not in names},
        "observer": {"epochs": 0},
    }
    return build_spec(raw, raw["name"])


def ladder(settings: RlctConfig) -> list[RlctConfig]:
    """The settings with every step size that is tried, from the largest to the smallest."""
    return [
        settings.model_copy(update={"step_size": float(f"{settings.step_size * factor:.3g}")}) for factor in FACTORS
    ]


def largest_that_suits(outcomes: Mapping[float, Iterable[tuple[str, RlctOutcome]]]) -> float | None:
    """The largest step size at which every network that learned has a sound estimate of little bias; None if none is.

    `outcomes` are the estimates of each trial, with its status, by step size.
    """
    for step in sorted(outcomes, reverse=True):
        learned = [outcome for status, outcome in outcomes[step] if STATUSES[status].usable]
        if learned and all(_suits(outcome) for outcome in learned):
            return step
    return None


def bias(outcome: RlctOutcome) -> float:
    """The largest share by which finite steps and the noise of batches raise a replicate's estimate."""
    shares = zip(outcome.diagnostics["excess"], outcome.estimates, strict=True)
    return max(excess / abs(estimate) if estimate else math.inf for excess, estimate in shares)


def _suits(outcome: RlctOutcome) -> bool:
    best = next(iter(VERDICTS))
    return all(verdict == best for verdict in outcome.verdicts) and bias(outcome) <= MOST_BIAS


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
