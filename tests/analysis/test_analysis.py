"""From a record with known values to tables, curves, front and report: the real store, made-up numbers."""

import base64
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import AnalysisError, StudyRecord, read_record, write_report
from analysis.pareto import as_optuna_study, pareto_optimal
from analysis.report import with_interval
from analysis.scaling import compare_with_baseline, find_sweeps, fit_curve
from study.record import Record
from study.stores import Stores
from tests.study.synthetic import falling, sweep_spec, write_study

WEIGHTS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    stores = Stores.under(tmp_path_factory.mktemp("store"))
    write_study(stores, sweep_spec(weights=WEIGHTS), falling, tmp_path_factory.mktemp("files"))
    return stores


@pytest.fixture(scope="module")
def record(stores: Stores) -> StudyRecord:
    return read_record(stores.tracking_uri, "made-up")


def test_the_tidy_table_has_a_row_per_replicate_with_every_value(record: StudyRecord) -> None:
    table = record.replicates
    assert len(table) == len(WEIGHTS) * 4
    assert table.groupby("aux_weight")["seed"].apply(list).tolist() == [[0, 1, 2, 3]] * len(WEIGHTS)
    spec = sweep_spec(weights=WEIGHTS)
    for point in spec.points():
        config = spec.trial_config(point)
        assert config is not None
        rows = table[table["aux_weight"] == point.aux_weight]
        for _, row in rows.iterrows():
            assert row["rlct"] == pytest.approx(falling(config, row["replicate"])["rlct"])
            assert row["learning_rate"] == config.training.learning_rate
            assert row["target"] == ("none" if point.aux_weight == 0 else "1")


def test_the_trial_table_has_means_standard_errors_and_intervals(record: StudyRecord) -> None:
    for _, trial in record.trials.iterrows():
        values = record.replicates.loc[record.replicates["trial_key"] == trial["trial_key"], "rlct"]
        assert trial["rlct"] == pytest.approx(values.mean())
        assert trial["rlct_se"] == pytest.approx(values.std() / 2)
        # Student's t with 3 degrees of freedom: 3.182.
        assert trial["rlct_ci95"] == pytest.approx(3.182 * values.std() / 2, rel=1e-3)


@pytest.mark.parametrize(("measure", "y0", "alpha"), [("rlct", 30, 0.4), ("weight_std", 0.3, 0.1)])
def test_the_fitted_curve_finds_the_parameters_the_values_were_made_with(
    record: StudyRecord, measure: str, y0: float, alpha: float
) -> None:
    (sweep,) = find_sweeps(record)
    fit = fit_curve(sweep, measure)
    assert fit is not None
    assert fit.weights == len(WEIGHTS)
    assert abs(fit.y0 - y0) < 3 * fit.y0_se
    assert abs(fit.alpha - alpha) < 3 * fit.alpha_se
    assert abs(fit.w0 - 5) < 3 * fit.w0_se
    assert fit.aicc_gain > 10
    band = fit.curve[(fit.curve["aux_weight"] > 0)]
    truth = y0 * (1 + band["aux_weight"] / 5) ** -alpha
    assert ((band["low"] <= truth) & (truth <= band["high"])).mean() > 0.9


def test_with_one_replicate_the_scatter_about_the_curve_is_the_error(stores: Stores, tmp_path: Path) -> None:
    write_study(stores, sweep_spec(name="single", weights=WEIGHTS, replicates=1), falling, tmp_path / "files")
    (sweep,) = find_sweeps(read_record(stores.tracking_uri, "single"))
    fit = fit_curve(sweep, "rlct")
    assert fit is not None
    assert abs(fit.alpha - 0.4) < 4 * fit.alpha_se < 0.4
    assert fit.aicc_gain > 10
    assert np.isnan(fit.reduced_chi_square)


def test_a_constant_is_not_sold_as_a_curve(stores: Stores, tmp_path: Path) -> None:
    def constant(config: object, index: int) -> dict[str, float]:
        return {"rlct": 20 + (index - 1.5), "weight_std": 0.2 + 0.01 * index, "val_accuracy": 0.9}

    write_study(stores, sweep_spec(name="constant", weights=WEIGHTS), constant, tmp_path / "files")
    (sweep,) = find_sweeps(read_record(stores.tracking_uri, "constant"))
    fit = fit_curve(sweep, "rlct")
    assert fit is not None
    assert fit.aicc_gain < 0


def test_fewer_than_five_weights_are_shown_but_not_fitted_and_fewer_than_three_are_no_sweep(
    stores: Stores, tmp_path: Path
) -> None:
    write_study(stores, sweep_spec(name="short", weights=(0, 1, 2, 5)), falling, tmp_path / "files")
    (sweep,) = find_sweeps(read_record(stores.tracking_uri, "short"))
    assert fit_curve(sweep, "rlct") is None
    write_study(stores, sweep_spec(name="shorter", weights=(0, 1)), falling, tmp_path / "files")
    assert find_sweeps(read_record(stores.tracking_uri, "shorter")) == []


def test_collapsed_trials_are_in_the_table_but_in_no_curve_and_no_front(record: StudyRecord) -> None:
    trials = record.trials.copy()
    trials.loc[trials["aux_weight"] == 50, "status_detail"] = "collapsed"
    trials.loc[trials["aux_weight"] == 50, "rlct"] = -7.0
    broken = StudyRecord(record.study, record.tags, record.objectives, record.replicates, trials, {})
    (sweep,) = find_sweeps(broken)
    fit = fit_curve(sweep, "rlct")
    assert fit is not None
    assert fit.weights == len(WEIGHTS) - 1
    assert 50 not in [trial.params["aux_weight"] for trial in as_optuna_study(broken).trials]


@pytest.mark.parametrize("verdict", ["not_a_minimum", "diverged"])
def test_an_rlct_that_is_none_is_in_no_curve_of_it_and_on_no_front_that_counts_it(
    record: StudyRecord, verdict: str
) -> None:
    trials = record.trials.copy()
    trials.loc[trials["aux_weight"] == 50, "rlct_verdict"] = verdict
    trials.loc[trials["aux_weight"] == 50, "rlct"] = -7.0
    (sweep,) = find_sweeps(replace(record, trials=trials))
    rlct, spread = fit_curve(sweep, "rlct"), fit_curve(sweep, "weight_std")
    assert rlct is not None
    assert spread is not None
    # The network itself is fine: its other measures count.
    assert (rlct.weights, spread.weights) == (len(WEIGHTS) - 1, len(WEIGHTS))
    with_rlct = as_optuna_study(replace(record, trials=trials))
    without = {name: way for name, way in record.objectives.items() if name != "rlct"}
    without_rlct = as_optuna_study(replace(record, trials=trials, objectives=without))
    weights = [{trial.params["aux_weight"] for trial in study.trials} for study in (with_rlct, without_rlct)]
    assert [50 in of_study for of_study in weights] == [False, True]


def test_every_weight_is_compared_with_its_baseline_seed_by_seed(record: StudyRecord) -> None:
    table = compare_with_baseline(record)
    assert set(table["trial"]) == {"1×16, target 1"}
    rlct = table[table["measure"] == "rlct"]
    assert rlct["aux_weight"].tolist() == list(WEIGHTS[1:])
    for _, row in rlct.iterrows():
        assert row["low"] < 30 * (1 + row["aux_weight"] / 5) ** -0.4 - 30 < row["high"]
        assert row["pairs"] == 4


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0, 1, allow_subnormal=False)] * 3), min_size=1, max_size=12, unique=True)
)  # fmt: skip
def test_the_front_is_what_a_brute_force_search_finds(values: list[tuple[float, float, float]]) -> None:
    columns = np.array(values)
    trials = pd.DataFrame(
        {
            "trial_key": [str(number) for number in range(len(values))],
            "hidden_layers": 1, "width": 8, "target": "1", "aux_weight": 1.0, "control": "none",
            "status_detail": "ok", "rlct_verdict": "sound",
            "val_accuracy": columns[:, 0], "weight_std": columns[:, 1], "rlct": columns[:, 2],
        }
    )  # fmt: skip
    objectives = {"val_accuracy": "maximize", "weight_std": "minimize", "rlct": "minimize"}
    record = StudyRecord("any", {}, objectives, pd.DataFrame(), trials, {})
    losses = columns * [-1, 1, 1]
    expected = {
        str(i)
        for i, loss in enumerate(losses)
        if not any((other <= loss).all() and (other < loss).any() for other in losses)
    }
    assert pareto_optimal(as_optuna_study(record)) == expected


def test_the_report_is_one_self_contained_page_with_tables_and_figures_beside_it(
    record: StudyRecord, tmp_path: Path
) -> None:
    report = write_report(record, tmp_path / "report", "python -m analysis made-up")
    page = report.page.read_text()
    written = {path.name for path in report.folder.iterdir()}
    assert {
        "report.html", "replicates.csv", "replicates.parquet", "trials.csv", "complexity.png", "complexity.pdf",
        "tradeoff.png", "pareto.html", "fits.csv", "comparisons.csv",
    } <= written  # fmt: skip
    # Nothing is loaded from anywhere: no script, style or image by address.
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"'](?!data:)", page) == []
    assert page.count('<img src="data:image/png;base64,') == 2
    image = re.search(r"data:image/png;base64,([^\"]+)", page)
    assert image is not None
    assert base64.b64decode(image.group(1)).startswith(b"\x89PNG")
    for expected in ("Is it so?", "1×16, target 1", "python -m analysis made-up", "rlct sound", "plotly"):
        assert expected in page
    pd.testing.assert_frame_equal(pd.read_parquet(report.folder / "replicates.parquet"), record.replicates)


def test_the_command_needs_the_record_alone(stores: Stores, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "analysis", "made-up", "--tracking-uri", stores.tracking_uri, "--out", "r"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "7 trials, 28 networks, 2 fitted curves" in done.stdout
    assert (tmp_path / "r" / "report.html").exists()


def test_a_study_or_store_that_is_not_there_is_a_clear_error(stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"has no study 'made-down'; it has .*made-up"):
        read_record(stores.tracking_uri, "made-down")
    with pytest.raises(AnalysisError, match="there is no record at"):
        read_record(f"sqlite:///{tmp_path}/none.db", "made-up")
    assert not (tmp_path / "none.db").exists()
    Record(stores, "empty").open_study(sweep_spec(name="empty"), "0" * 64)
    with pytest.raises(AnalysisError, match="no finished trial yet"):
        read_record(stores.tracking_uri, "empty")


@pytest.mark.parametrize(
    ("value", "half_width", "text"),
    [
        (0.26134, 0.0045, "0.261 ± 0.004"),
        (0.26134, 0.0012, "0.2613 ± 0.0012"),
        (33.27, 2.4, "33 ± 2"),
        (33.27, 1.42, "33.3 ± 1.4"),
        (float("nan"), 1.0, "–"),
        (0.5, float("nan"), "0.5"),
        (0.5, float("inf"), "0.5"),
        (0.968641, 1e-16, "0.9686"),
        (1234.5, 321.0, "1234 ± 321"),
    ],
)
def test_a_value_is_given_to_the_digits_its_interval_warrants(value: float, half_width: float, text: str) -> None:
    assert with_interval(value, half_width) == text
