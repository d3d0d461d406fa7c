"""From a record with known values to tables, curves, front and report: the real store, made-up numbers."""

import base64
import html
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
from analysis.comparison import compare_with_baseline
from analysis.fits import fit_curve
from analysis.pareto import as_optuna_study, pareto_optimal
from analysis.sweeps import find_sweeps
from analysis.text import with_interval
from study.record.stores import Stores
from study.record.writer import RecordWriter
from tests.analysis.in_memory import OBJECTIVES, record_in_memory
from tests.study.stores import fresh_stores
from tests.study.synthetic import falling, sweep_spec, write_study

WEIGHTS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    stores = fresh_stores(tmp_path_factory.mktemp("store"))
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
    for config in spec.listed():
        weight = config.self_model.aux_weight
        rows = table[table["aux_weight"] == weight]
        for _, row in rows.iterrows():
            assert row["rlct"] == pytest.approx(falling(config, row["replicate"])["rlct"])
            assert row["learning_rate"] == config.training.learning_rate
            assert row["target"] == ("none" if weight == 0 else "1")


def test_the_trial_table_has_means_standard_errors_and_intervals(record: StudyRecord) -> None:
    for _, trial in record.trials.iterrows():
        values = record.replicates.loc[record.replicates["trial_key"] == trial["trial_key"], "rlct"]
        assert trial["rlct"] == pytest.approx(values.mean())
        assert trial["rlct_se"] == pytest.approx(values.std() / 2)
        # Student's t with 3 degrees of freedom: 3.182.
        assert trial["rlct_ci95"] == pytest.approx(3.182 * values.std() / 2, rel=1e-3)


def test_collapsed_trials_are_in_the_table_but_in_no_curve_and_no_front(record: StudyRecord) -> None:
    trials = record.trials.copy()
    trials.loc[trials["aux_weight"] == 50, "status_detail"] = "collapsed"
    trials.loc[trials["aux_weight"] == 50, "rlct"] = -7.0
    broken = replace(record, trials=trials)
    (sweep,) = find_sweeps(broken)
    fits = fit_curve(sweep, "rlct")
    assert fits is not None
    assert fits.points == len(WEIGHTS) - 1
    assert 50 not in [trial.params["aux_weight"] for trial in as_optuna_study(broken).trials]


@pytest.mark.parametrize("verdict", ["not_a_minimum", "diverged"])
def test_an_unusable_rlct_is_in_no_curve_and_on_no_front_with_the_rlct(record: StudyRecord, verdict: str) -> None:
    trials = record.trials.copy()
    trials.loc[trials["aux_weight"] == 50, "rlct_verdict"] = verdict
    trials.loc[trials["aux_weight"] == 50, "rlct"] = -7.0
    (sweep,) = find_sweeps(replace(record, trials=trials))
    rlct, spread = fit_curve(sweep, "rlct"), fit_curve(sweep, "weight_std")
    assert rlct is not None
    assert spread is not None
    # The network itself is usable: its other measures count.
    assert (rlct.points, spread.points) == (len(WEIGHTS) - 1, len(WEIGHTS))
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
@given(st.lists(st.tuples(*[st.floats(0, 1, allow_subnormal=False)] * 3), min_size=1, max_size=12, unique=True))
def test_the_front_is_what_a_brute_force_search_finds(values: list[tuple[float, float, float]]) -> None:
    columns = np.array(values)
    record = record_in_memory(
        lambda weight, number: dict(zip(OBJECTIVES, columns[int(weight) - 1], strict=True)),
        weights=range(1, len(values) + 1),
        replicates=1,
    )
    losses = columns * [-1, 1, 1]
    expected = {
        f"trial{i + 1}"
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
    tables = {
        f"{name}.{kind}" for name in ("replicates", "trials", "comparisons", "fits") for kind in ("csv", "parquet")
    }
    figures = {f"{name}.{kind}" for name in ("complexity", "tradeoff") for kind in ("png", "pdf")}
    assert written == tables | figures | {"report.html", "report.json", "pareto.html"}
    # The page loads nothing: no script, style or image from an address.
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"'](?!data:)", page) == []
    assert page.count('<img src="data:image/png;base64,') == 2
    image = re.search(r"data:image/png;base64,([^\"]+)", page)
    assert image is not None
    assert base64.b64decode(image.group(1)).startswith(b"\x89PNG")
    for expected in ("Is it so?", "1×16, target 1", "python -m analysis made-up", "rlct sound", "plotly"):
        assert expected in page
    pd.testing.assert_frame_equal(pd.read_parquet(report.folder / "replicates.parquet"), record.replicates)


def test_a_study_in_which_no_network_learned_anything_has_a_report_that_says_so(
    record: StudyRecord, tmp_path: Path
) -> None:
    report = write_report(replace(record, trials=record.trials.assign(status_detail="collapsed")), tmp_path, "command")
    page = report.page.read_text()
    (collapsed,) = (status for status in record.description.statuses if status.name == "collapsed")
    assert "<div><b>7</b>collapsed</div>" in page
    assert collapsed.meaning in html.unescape(page)
    assert "there is no front to draw" in page
    assert (report.summary.front, report.fits, report.comparisons.empty) == ([], [], True)
    assert pd.read_csv(tmp_path / "fits.csv").empty
    assert pd.read_csv(tmp_path / "comparisons.csv").empty


def test_the_command_needs_the_record_alone(stores: Stores, record: StudyRecord, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "analysis", "made-up", "--tracking-uri", stores.tracking_uri, "--out", "r"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"7 trials, 28 networks, {len(record.complexities)} fitted curves" in done.stdout
    assert (tmp_path / "r" / "report.html").exists()


def test_a_study_or_store_that_is_not_there_is_a_clear_error(stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"has no study 'made-down'; it has .*made-up"):
        read_record(stores.tracking_uri, "made-down")
    with pytest.raises(AnalysisError, match="there is no record at"):
        read_record(f"sqlite:///{tmp_path}/none.db", "made-up")
    assert not (tmp_path / "none.db").exists()
    RecordWriter(stores, "empty").open_study(sweep_spec(name="empty"), "0" * 64)
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
