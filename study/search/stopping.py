"""Early stopping: the rules by which a trial is worse than others at the same epoch, and their application to a trial.

A worker applies the rule to its trial, after every epoch. The trials that it is compared with are fixed when the trial
is handed out, so that the same trials are stopped at the same epochs whatever ends first.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from study.shown import short_key
from study.spec.stopping import StoppingConfig

# The values of a trial at one epoch, one per replicate, by the name of the objective.
Values = Mapping[str, Sequence[float]]
Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Rival:
    """A finished trial that others are compared with."""

    key: str
    seeds: tuple[int, ...]
    epochs: tuple[Values, ...]  # of the objectives that a rule compares, from the first epoch on


@dataclass(frozen=True)
class EarlyStopping:
    """The rule of a study for one trial, with the trials that it is compared with.

    Args:
        config: the rule.
        directions: of the objectives that it compares.
        rivals: the other trials.
    """

    config: StoppingConfig
    directions: Mapping[str, Direction]
    rivals: tuple[Rival, ...]

    def reason(self, epoch: int, seeds: Sequence[int], values: Values) -> str | None:
        """Why a trial with these values after this epoch is stopped, in a line; None if it goes on.

        A trial that was trained for fewer epochs is not compared with.
        """
        if epoch < self.config.from_epoch:
            return None
        for rival in self.rivals:
            if epoch <= len(rival.epochs) and self._is_better(rival, rival.epochs[epoch - 1], seeds, values):
                how = "dominated" if self.config.rule == "dominated" else "worse by Wilcoxon's test"
                by = "by" if self.config.rule == "dominated" else "than"
                return f"{how} at epoch {epoch} {by} trial {short_key(rival.key)}"
        return None

    def _is_better(self, rival: Rival, better: Values, seeds: Sequence[int], values: Values) -> bool:
        if self.config.rule == "dominated":
            return is_dominated(values, better, self.directions, self.config.z)
        ((name, direction),) = self.directions.items()
        trial = dict(zip(seeds, values[name], strict=True))
        best = dict(zip(rival.seeds, better[name], strict=True))
        return is_worse_by_seed(trial, best, direction, self.config.p_threshold)


def is_dominated(trial: Values, other: Values, directions: Mapping[str, Direction], z: float) -> bool:
    """Whether the other trial is better in every objective by more than z standard errors of the difference.

    All values are of the same epoch. The standard error of a difference is the root of the sum of both squared standard
    errors over replicates; replicates that share seeds vary together, most often in the same direction, and the error
    is then smaller than this. A trial with one replicate, or with a value that is not finite, dominates none and is
    dominated by none.
    """
    return all(_margin(trial[name], other[name], direction) > z for name, direction in directions.items())


def is_worse_by_seed(
    trial: Mapping[int, float], best: Mapping[int, float], direction: Direction, p_threshold: float
) -> bool:
    """Whether Optuna's WilcoxonPruner would stop a trial, given the best one, on the replicates of the same seeds.

    Values are by seed, which are the pruner's steps. With n pairs without ties the p-value is at least 2⁻ⁿ.
    """
    # Not every worker needs it, and it takes a second.
    import optuna

    shared = sorted(trial.keys() & best.keys())
    if not all(math.isfinite(values[seed]) for values in (trial, best) for seed in shared) or len(shared) < 2:
        return False
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=p_threshold)
    study = optuna.create_study(direction=direction, pruner=pruner)
    study.add_trial(
        optuna.trial.create_trial(value=0.0, intermediate_values={step: best[seed] for step, seed in enumerate(shared)})
    )
    asked = study.ask()
    for step, seed in enumerate(shared):
        asked.report(trial[seed], step)
    return asked.should_prune()


def _margin(values: Sequence[float], better: Sequence[float], direction: Direction) -> float:
    """By how many standard errors the second trial is better; NaN if that is not known."""
    if len(values) < 2 or len(better) < 2 or not np.isfinite([*values, *better]).all():
        return math.nan
    gap = float(np.mean(better) - np.mean(values)) * (1 if direction == "maximize" else -1)
    error = math.hypot(*(float(np.std(each, ddof=1)) / math.sqrt(len(each)) for each in (values, better)))
    if error == 0:
        return math.copysign(math.inf, gap) if gap else 0.0
    return gap / error
