"""The Pareto front over a study's objectives, with Optuna, from the tracking record only."""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from pandas.api.types import infer_dtype

from analysis.record import VERDICT, StudyRecord
from analysis.values import is_missing, place_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Most objectives that optuna.visualization can draw at once.
MOST_OBJECTIVES = 3


def as_optuna_study(record: StudyRecord) -> optuna.Study:
    """An Optuna study in memory with every finished trial of the record whose objectives all count.

    Left out are networks that learned nothing, trials with an objective that a bad verdict makes meaningless, and
    trials without a finite value for each objective: they would lie on the front as the simplest of all.

    The parameters are the dimensions that differ between the record's trials. A trial that has no value of one of them,
    such as a setting of another architecture's, has no such parameter.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=record.directions, study_name=record.study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(record.objectives))
    counted = record.usable(record.trials, *record.objectives).dropna(subset=list(record.objectives))
    distributions = {name: _distribution(counted[name]) for name in record.differing if counted[name].notna().any()}
    for trial in counted.to_dict("records"):
        parameters = {name: trial[name] for name in distributions if not is_missing(trial[name])}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                values=[float(trial[name]) for name in record.objectives],
                params=parameters,
                distributions={name: distributions[name] for name in parameters},
                user_attrs={"trial_key": trial["trial_key"], VERDICT: trial[VERDICT]},
            )
        )
    return study


def pareto_optimal(study: optuna.Study) -> set[str]:
    """Keys of the Pareto-optimal trials."""
    return {trial.user_attrs["trial_key"] for trial in study.best_trials} if study.trials else set()


def draw_pareto_front(study: optuna.Study) -> list["go.Figure"]:
    """Optuna's picture of the front; for more than MOST_OBJECTIVES, one picture of the first with each other one.

    No picture for a single objective, or if no trial counts. Marked trials are optimal in all objectives together.
    """
    names = study.metric_names or []
    if len(names) < 2 or not study.trials:
        return []
    if len(names) <= MOST_OBJECTIVES:
        return [_draw(study, range(len(names)))]
    return [_draw(study, (0, other)) for other in range(1, len(names))]


def front_table(record: StudyRecord, keys: set[str]) -> pd.DataFrame:
    """The rows of the trial table that lie on the front, the best of the first objective first."""
    first, direction = next(iter(record.objectives.items()))
    front = record.trials[record.trials["trial_key"].isin(keys)]
    return front.sort_values(first, ascending=direction == "minimize", ignore_index=True)


def _draw(study: optuna.Study, objectives: Sequence[int]) -> "go.Figure":
    def values(trial: FrozenTrial) -> list[float]:
        return [trial.values[number] for number in objectives]

    names = study.metric_names or []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.visualization.plot_pareto_front(
            study, targets=values, target_names=[names[number] for number in objectives]
        )


def _distribution(column: pd.Series) -> BaseDistribution:
    """A distribution that has all values of the column: a range if they are numbers, else a choice."""
    values: list[Any] = column.dropna().tolist()
    kind = infer_dtype(values, skipna=False)
    if kind == "integer":
        return IntDistribution(min(values), max(values))
    if kind in ("floating", "mixed-integer-float") and all(map(math.isfinite, values)):
        return FloatDistribution(min(values), max(values))
    by_place = {place_of(value): value for value in values}
    return CategoricalDistribution([by_place[place] for place in sorted(by_place)])
