"""The Pareto front over a study's objectives, with Optuna, from the tracking record alone."""

import warnings

import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from analysis.scaling import usable
from analysis.table import StudyRecord

# optuna.visualization draws no more at once.
MOST_OBJECTIVES = 3


def as_optuna_study(record: StudyRecord) -> optuna.Study:
    """An Optuna study in memory with every finished trial of the record whose networks learned something.

    Collapsed and diverged networks, trials whose rlct is none, and those without a finite value for each objective are
    left out: they would lie on the front as the simplest of all.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=record.directions, study_name=record.study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(record.objectives))
    fit = usable(record.trials, *record.objectives).dropna(subset=list(record.objectives))
    if fit.empty:
        return study
    distributions: dict[str, BaseDistribution] = {
        "hidden_layers": IntDistribution(0, int(fit["hidden_layers"].max())),
        "width": IntDistribution(1, int(fit["width"].max())),
        "aux_weight": FloatDistribution(0.0, float(fit["aux_weight"].max())),
        "target": CategoricalDistribution(sorted(fit["target"].unique())),
        "control": CategoricalDistribution(sorted(fit["control"].unique())),
    }
    for _, trial in fit.iterrows():
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                values=[float(trial[name]) for name in record.objectives],
                params={name: trial[name] for name in distributions},
                distributions=distributions,
                user_attrs={"trial_key": trial["trial_key"], "rlct_verdict": trial["rlct_verdict"]},
            )
        )
    return study


def pareto_optimal(study: optuna.Study) -> set[str]:
    """Keys of the trials that no other one is better than in every objective."""
    return {trial.user_attrs["trial_key"] for trial in study.best_trials} if study.trials else set()


def draw_pareto_front(study: optuna.Study) -> go.Figure | None:
    """Optuna's picture of the front; None for a single objective, or where no trial is usable."""
    objectives = study.metric_names or []
    if len(objectives) < 2 or not study.trials:
        return None
    shown = objectives[:MOST_OBJECTIVES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if len(shown) == len(objectives):
            return optuna.visualization.plot_pareto_front(study, target_names=shown)
        return optuna.visualization.plot_pareto_front(
            study, targets=lambda trial: trial.values[:MOST_OBJECTIVES], target_names=shown
        )


def front_table(record: StudyRecord, keys: set[str]) -> pd.DataFrame:
    """The rows of the trial table that lie on the front, the best of the first objective first."""
    first, direction = next(iter(record.objectives.items()))
    front = record.trials[record.trials["trial_key"].isin(keys)]
    return front.sort_values(first, ascending=direction == "minimize", ignore_index=True)
