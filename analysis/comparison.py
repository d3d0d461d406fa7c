"""Compare every trial with the baseline of its network, seed by seed."""

import pandas as pd

from analysis.record import STATUS, VERDICT, StudyRecord
from analysis.statistics import mean_difference
from analysis.sweeps import describe_trial

COLUMNS = ("trial", "measure", "baseline", "difference", "low", "high", "p_value", "pairs", STATUS, VERDICT)


def compare_with_baseline(record: StudyRecord) -> pd.DataFrame:
    """The difference of every trial from the baseline of its network in each measure, with its 95 % interval.

    Columns: trial, the weight, measure, baseline, difference, low, high, p_value, pairs, status and verdict of the
    trial. Empty if no network has a baseline whose values count.
    """
    values = record.replicates.set_index(["trial_key", "seed"])[record.measures]
    rows = []
    for _, of_network in record.trials.groupby(list(record.description.names_of("network")), dropna=False):
        is_baseline = record.is_baseline(of_network)
        baseline = record.usable(of_network[is_baseline]).head(1)
        # A baseline whose value does not count cannot be compared with.
        measures = [name for name in record.measures if len(record.usable(baseline, name))]
        if not measures:
            continue
        reference = values.loc[baseline["trial_key"].iloc[0]]
        means = reference.mean()
        for trial in of_network[~is_baseline].to_dict("records"):
            name = describe_trial(record, trial)
            differences = values.loc[trial["trial_key"]] - reference
            for measure in measures:
                difference = mean_difference(differences[measure])
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
