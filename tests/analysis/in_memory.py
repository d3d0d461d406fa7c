"""A record with made-up values in memory, not in a store: for tests that need only tables."""

from collections.abc import Callable, Sequence

import pandas as pd

from analysis.description import undescribed
from analysis.freshness import ReportSource
from analysis.record import StudyRecord

OBJECTIVES = {"val_accuracy": "maximize", "weight_std": "minimize", "rlct": "minimize"}
# A function from a replicate's weight and number to its measures.
Values = Callable[[float, int], dict[str, float]]


def record_in_memory(values: Values, weights: Sequence[float], replicates: int = 4) -> StudyRecord:
    """A sweep of one network over the weights; weight 0 is its baseline."""
    words = undescribed()
    dimensions = {dimension.name: dimension.default for dimension in words.dimensions}
    rows = [
        dimensions
        | {"hidden_layers": 1, "width": 16, "aux_weight": weight, "target": "1" if weight else "none"}
        | {"trial_key": f"trial{weight:g}", "replicate": number, "seed": number}
        | {"status_detail": "ok", "rlct_verdict": "sound"}
        | values(weight, number)
        for weight in weights
        for number in range(replicates)
    ]
    table = pd.DataFrame(rows)
    by_trial = table.groupby("trial_key", sort=False)
    trials = by_trial[[*dimensions, "status_detail", "rlct_verdict"]].first()
    for name in words.measures_among(table.columns):
        trials[name] = by_trial[name].mean()
        trials[f"{name}_se"] = by_trial[name].sem()
        trials[f"{name}_ci95"] = 2 * trials[f"{name}_se"]
    source = ReportSource({}, OBJECTIVES, "")
    return StudyRecord("made-up", {}, OBJECTIVES, table, trials.reset_index(), {}, words, source)
