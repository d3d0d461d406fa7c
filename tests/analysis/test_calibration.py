"""Judging settings, on estimates whose truth is known because they are made up."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.calibration import SAME, Calibration, judge_settings, propose
from analysis.calibration_report import conclusions
from analysis.estimates import SETTINGS
from analysis.statistics import kendall_tau

STEPS = (1e-5, 1e-4, 3e-4, 1e-3, 1e-2)
# As steps do: too small to get there, right, right, biased, thrown out.
FACTOR = {1e-5: 0.3, 1e-4: 1.0, 3e-4: 1.04, 1e-3: 1.3, 1e-2: 40.0}
VERDICT = {1e-5: "drifting", 1e-4: "sound", 3e-4: "sound", 1e-3: "sound", 1e-2: "diverged"}


def made_up(errors: dict[float, float] | None = None, localizations: tuple[float, ...] = (100.0,)) -> pd.DataFrame:
    """Six trials of two replicates with an rlct of 10, 12, … under every step size."""
    rows = []
    for gamma in localizations:
        for step in STEPS:
            for trial in range(6):
                for replicate in range(2):
                    value = (10 + 2 * trial + 0.1 * replicate) * FACTOR[step]
                    settings: dict[str, object] = dict.fromkeys(SETTINGS, 1)
                    settings |= {"sampler": "sgld", "step_size": step, "localization": gamma, "nbeta": "batch"}
                    rows.append(
                        settings | {
                            "settings": f"{step:g} {gamma:g}", "trial_key": f"trial{trial}", "replicate": replicate,
                            "rlct": value, "rlct_se": (errors or {}).get(step, 0.05) * value,
                            "rlct_verdict": VERDICT[step], "nbeta_value": 82.0,
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def test_settings_are_stable_where_a_sound_neighbour_agrees() -> None:
    cells = judge_settings(made_up(), "0.0001 100").set_index("step_size")
    assert cells["stable"].to_dict() == {1e-5: False, 1e-4: True, 3e-4: True, 1e-3: False, 1e-2: False}
    assert cells["change"][1e-4] == pytest.approx(0.04)
    # Sound, but a quarter above its only sound neighbour.
    assert cells["sound_share"][1e-3] == 1.0
    assert cells["change"][1e-3] > SAME
    assert cells["trouble"].to_dict()[1e-2] == "diverged"


def test_only_step_sizes_under_the_same_other_settings_are_neighbours() -> None:
    alone = made_up()
    other = made_up(localizations=(10.0,))
    # γ is part of what is measured: another value may give another rlct.
    other["rlct"] *= 3
    together = judge_settings(pd.concat([alone, other]), "0.0001 100")
    stable = together[together["stable"]]
    assert set(zip(stable["step_size"], stable["localization"], strict=True)) == {
        (1e-4, 100.0), (3e-4, 100.0), (1e-4, 10.0), (3e-4, 10.0),
    }  # fmt: skip


def test_the_stable_settings_with_the_smallest_error_are_proposed() -> None:
    networks = made_up(errors={1e-4: 0.05, 3e-4: 0.02, 1e-3: 0.001})
    assert propose(judge_settings(networks, "0.0001 100")) == "0.0003 100"
    assert propose(judge_settings(networks[networks["step_size"] == 1e-2], "0.01 100")) is None


def test_nothing_stable_is_said_with_what_to_try() -> None:
    networks = made_up()
    networks = networks[networks["step_size"] == 1e-2]
    cells = judge_settings(networks, "0.01 100")
    nothing = kendall_tau(pd.Series(dtype=float), pd.Series(dtype=float))
    lines = conclusions(Calibration("any", cells, networks, "0.01 100", nothing, None, "trial0", {}))
    assert lines[0] == "0 of 1 settings are stable."
    assert "most are diverged: try smaller step sizes" in lines[1]


def test_the_order_of_the_trials_is_held_against_that_of_the_reference() -> None:
    networks = made_up()
    reversed_order = networks["step_size"] == 1e-5
    networks.loc[reversed_order, "rlct"] = 100 - networks.loc[reversed_order, "rlct"]
    cells = judge_settings(networks, "0.0001 100").set_index("step_size")
    assert cells["tau"].to_dict() == pytest.approx({1e-5: -1.0, 1e-4: 1.0, 3e-4: 1.0, 1e-3: 1.0, 1e-2: 1.0})


def test_tau_is_the_share_of_pairs_in_order_less_that_of_pairs_out_of_order() -> None:
    first = pd.Series([1.0, 2.0, 3.0, 4.0], index=list("abcd"))
    # One of the six pairs is swapped: (5 − 1)/6.
    assert kendall_tau(first, pd.Series([1.0, 2.0, 4.0, 3.0], index=list("abcd"))).tau == pytest.approx(4 / 6)
    # By trial, not by place in the table.
    assert kendall_tau(first, first.iloc[::-1]).tau == 1.0
    missing = kendall_tau(first, pd.Series([1.0, np.nan, 3.0], index=list("abc")))
    assert (missing.trials, missing.tau) == (2, 1.0)
    assert math.isnan(missing.low)


def test_the_interval_of_tau_covers_what_more_trials_of_the_kind_give() -> None:
    rng = np.random.default_rng(0)

    def pair(trials: int) -> tuple[pd.Series, pd.Series]:
        truth = rng.normal(size=trials)
        return pd.Series(truth), pd.Series(truth + rng.normal(size=trials))

    # A correlation of 1/√2: τ = (2/π)·arcsin(1/√2) = 0.5 for normal variables.
    covered = [interval.low <= 0.5 <= interval.high for interval in (kendall_tau(*pair(20)) for _ in range(50))]
    # 95 % wanted; binomial, so that fewer than 44 of 50 would be one case in a hundred.
    assert sum(covered) >= 44
