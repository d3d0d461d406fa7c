"""Compare every trial with its baseline, seed by seed."""

import pandas as pd

from analysis.record import STATUS, VERDICT, StudyRecord
from analysis.statistics import mean_difference
from analysis.sweeps import describe_trial
from analysis.values import groups

COLUMNS = ("trial", "measure", "baseline", "difference", "low", "high", "p_value", "pairs", STATUS, VERDICT)


def compare_with_baseline(record: StudyRecord) -> pd.DataFrame:
    """The difference of every trial from its baseline in each measure, with its 95 % interval.

    The baseline agrees with the trial in the task, the network and all settings. Columns: trial, the weight, measure,
    baseline, difference, low, high, p_value, pairs, status and verdict of the trial. Empty if no trial has a baseline
    whose values count.
    """
    # Sorted, so that the rows of a trial are found without a look at all others.
    values = record.replicates.set_index(["trial_key", "seed"])[record.measures].sort_index()
    rows = []
    for alike in groups(record.trials, record.conditions):
        is_baseline = record.is_baseline(alike)
        baseline = record.usable(alike[is_baseline]).head(1)
        # A baseline whose value does not count cannot be compared with.
        measures = [name for name in record.measures if len(record.usable(baseline, name))]
        if not measures:
            continue
        reference = values.loc[baseline["trial_key"].iloc[0]]
        means = reference.mean()
        for trial in alike[~is_baseline].to_dict("records"):
            name = describe_trial(record, trial)
            differences = (values.loc[trial["trial_key"]] - reference)[measures].to_numpy(float)
            for measure, of_measure in zip(measures, differences.T, strict=True):
                difference = mean_difference(of_measure)
                if difference is not None:
                    rows.append(
                        {
                            "trial": name,
                            record.weight: trial[record.weight],
                            "measure": measure,
                            "baseline": float(means[measure]),
                            "difference": difference.mean,
                            "low": difference.low,
                            "high": difference.high,
                            "p_value": difference.p_value,
                            "pairs": difference.pairs,
                            STATUS: trial[STATUS],
                            VERDICT: trial[VERDICT],
                        }
                    )
    return pd.DataFrame(rows, columns=[COLUMNS[0], record.weight, *COLUMNS[1:]])
