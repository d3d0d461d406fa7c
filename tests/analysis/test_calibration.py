"""Judging settings, on made-up estimates with known true values."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import read_record
from analysis.calibration import SAME, Calibration, judge_settings, propose, read_calibration
from analysis.calibration_report import conclusions, draw_grid, draw_order, write_calibration
from analysis.description import undescribed
from analysis.statistics import kendall_tau
from tests.kept import CONTROLS, REESTIMATED, unpack_kept_record

STEPS = (1e-5, 1e-4, 3e-4, 1e-3, 1e-2)
# Five step sizes: too small to settle, right, right, biased, diverged.
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
                    rows.append(
                        {
                            "sampler": "sgld",
                            "step_size": step,
                            "localization": gamma,
                            "nbeta": "batch",
                            "chains": 4,
                            "settings_key": f"{step:g} {gamma:g}",
                            "trial_key": f"trial{trial}",
                            "replicate": replicate,
                            "rlct": value,
                            "rlct_chain_se": (errors or {}).get(step, 0.05) * value,
                            "rlct_verdict": VERDICT[step],
                            "nbeta_value": 82.0,
                        }
                    )
    return pd.DataFrame(rows)


def judged(networks: pd.DataFrame, reference: str = "0.0001 100") -> pd.DataFrame:
    return judge_settings(networks, reference, best="sound")


def test_settings_are_stable_where_a_sound_neighbour_agrees() -> None:
    table = judged(made_up()).set_index("step_size")
    assert table["stable"].to_dict() == {1e-5: False, 1e-4: True, 3e-4: True, 1e-3: False, 1e-2: False}
    assert table["change"][1e-4] == pytest.approx(0.04)
    # Sound, but a quarter above its only sound neighbour.
    assert table["sound_share"][1e-3] == 1.0
    assert table["change"][1e-3] > SAME
    assert table["trouble"].to_dict()[1e-2] == "diverged"


def test_only_step_sizes_under_the_same_other_settings_are_neighbours() -> None:
    alone = made_up()
    other = made_up(localizations=(10.0,))
    # γ is part of what is measured: another value may give another rlct.
    other["rlct"] *= 3
    table = judged(pd.concat([alone, other]))
    stable = table[table["stable"]]
    expected = {(step, gamma) for step in (1e-4, 3e-4) for gamma in (100.0, 10.0)}
    assert set(zip(stable["step_size"], stable["localization"], strict=True)) == expected


def test_the_stable_settings_with_the_smallest_error_are_proposed() -> None:
    networks = made_up(errors={1e-4: 0.05, 3e-4: 0.02, 1e-3: 0.001})
    assert propose(judged(networks)) == "0.0003 100"
    assert propose(judged(networks[networks["step_size"] == 1e-2], "0.01 100")) is None


def traces_of(settings: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Two chains of 50 draws for each settings, which rise to the estimate."""
    draws = pd.DataFrame([(draw, chain) for draw in range(50) for chain in (0, 1)], columns=["draw", "chain"])
    rise = 1 - np.exp(-draws["draw"] / 10) * (1 + 0.1 * draws["chain"])
    return {
        row["settings_key"]: draws.assign(
            replicate=0, start_loss=0.1, loss=0.1 + rise * row["rlct"] / row["nbeta_value"], kept=draws["draw"] >= 25
        )
        for row in settings.to_dict("records")
    }


def test_the_page_of_a_calibration_has_a_panel_per_settings_and_a_row_each(tmp_path: Path) -> None:
    networks = made_up(localizations=(30.0, 100.0)).assign(draws=50, burn_in_fraction=0.5)
    settings = judged(networks)
    repeat = kendall_tau(pd.Series(range(6)), pd.Series(range(6)))
    verdicts = undescribed().verdicts
    calibration = Calibration(
        "any", settings, networks, verdicts, "0.0001 100", repeat, propose(settings), "trial0", traces_of(settings)
    )
    report = write_calibration(calibration, tmp_path, "the command")
    page = report.page.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {
        "calibration.html",
        "settings.csv",
        "estimates.csv",
        *(f"{name}.{kind}" for name in ("grid", "order") for kind in ("png", "pdf")),
    }
    assert "<b>10</b>settings" in page
    assert page.count("<td>0.0001 100</td>") == 1
    assert pd.read_csv(tmp_path / "settings.csv")["settings_key"].tolist() == settings["settings_key"].tolist()
    panels = [axes for axes in draw_grid(calibration).axes if axes.get_visible()]
    assert len(panels) == 10
    assert {axes.get_ylabel() for axes in panels} == {"γ 30, nβ batch", "γ 100, nβ batch", ""}
    # Chains with too large steps would compress the others to a line at the bottom.
    assert max(axes.get_ylim()[1] for axes in panels) < 3 * 20 * FACTOR[1e-3]
    names = [label.get_text() for label in draw_order(calibration).axes[0].get_yticklabels()]
    assert len(names) == 10
    assert "step 0.0001, γ 100, nβ batch" in names


def test_a_calibration_is_read_from_the_estimates_of_a_record(tmp_path: Path) -> None:
    kept = unpack_kept_record(tmp_path)
    trials = read_record(kept.tracking_uri, CONTROLS).trials["trial_key"].tolist()
    again = read_record(kept.tracking_uri, CONTROLS, REESTIMATED).replicates
    calibration = read_calibration(
        kept.tracking_uri, CONTROLS, [REESTIMATED], reference=REESTIMATED, repeat=REESTIMATED, trials=trials
    )
    (settings,) = calibration.settings.to_dict("records")
    assert (settings["settings_key"], settings["step_size"], settings["draws"]) == (REESTIMATED, 0.001, 100)
    assert (settings["trials"], settings["networks"], settings["trouble"]) == (7, 14, "drifting")
    assert settings["rlct"] == pytest.approx(again["rlct"].mean())
    assert settings["relative_se"] == pytest.approx((again["rlct_chain_se"] / again["rlct"]).median())
    assert calibration.repeat.tau == 1.0
    assert calibration.proposed is None
    # Every draw of two chains of two replicates.
    assert len(calibration.traces[REESTIMATED]) == 100 * 2 * 2


def test_without_stable_settings_the_conclusions_say_what_to_try() -> None:
    networks = made_up()
    networks = networks[networks["step_size"] == 1e-2]
    table = judged(networks, "0.01 100")
    nothing = kendall_tau(pd.Series(dtype=float), pd.Series(dtype=float))
    verdicts = undescribed().verdicts
    lines = conclusions(Calibration("any", table, networks, verdicts, "0.01 100", nothing, None, "trial0", {}))
    assert lines[0] == "0 of 1 settings are stable."
    # The advice that the record gives for the commonest verdict.
    assert lines[1] == f"None is sound, most are diverged. {verdicts[-1].advice}"


def test_the_order_of_the_trials_is_held_against_that_of_the_reference() -> None:
    networks = made_up()
    reversed_order = networks["step_size"] == 1e-5
    networks.loc[reversed_order, "rlct"] = 100 - networks.loc[reversed_order, "rlct"]
    table = judged(networks).set_index("step_size")
    assert table["tau"].to_dict() == pytest.approx({1e-5: -1.0, 1e-4: 1.0, 3e-4: 1.0, 1e-3: 1.0, 1e-2: 1.0})


def test_tau_is_the_share_of_pairs_in_order_less_that_of_pairs_out_of_order() -> None:
    first = pd.Series([1.0, 2.0, 3.0, 4.0], index=list("abcd"))
    # One of the six pairs is swapped: (5 − 1)/6.
    assert kendall_tau(first, pd.Series([1.0, 2.0, 4.0, 3.0], index=list("abcd"))).tau == pytest.approx(4 / 6)
    # By trial, not by position in the table.
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
    # The intervals should cover in 95 %; by the binomial distribution, fewer than 44 of 50 has a probability of 1 %.
    assert sum(covered) >= 44
