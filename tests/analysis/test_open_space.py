"""A description may list every field of a configuration: what is shown, grouped and compared is what differs."""

import io
import math
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import read_record, write_report
from analysis.comparison import compare_with_baseline
from analysis.description import Description, Dimension
from analysis.fits import fit_curve
from analysis.pages import LONGEST_NAME, file_name, save_csv
from analysis.pareto import as_optuna_study, draw_pareto_front, pareto_optimal
from analysis.sweeps import describe_trial, find_sweeps
from analysis.text import summary_rows, trial_rows
from analysis.values import differs, for_parquet, groups, is_same, sortable, tidy
from study.record.stores import Stores
from tests.analysis.open_space import every_field, record_of, sweep_of, write_trials
from tests.study.stores import fresh_stores

WEIGHTS = (0.0, 1.0, 2.0, 5.0, 10.0)
KERNEL = Dimension(name="kernel", meaning="Size of the kernels.", role="network")
KNOB = Dimension(name="knob", meaning="Anything.", role="network")
LEVER = Dimension(name="lever", meaning="Anything.", role="setting")

values_of_any_kind = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(-3, 3),
    st.sampled_from([math.nan, math.inf, 10**20]),
    st.sampled_from(["", "relu", "1", "None", "1+2", "=1", "$\\frac{$"]),
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return fresh_stores(tmp_path_factory.mktemp("store"))


def test_columns_are_the_usual_ones_and_every_field_in_which_the_trials_differ(stores: Stores, tmp_path: Path) -> None:
    configs = [
        *sweep_of((0, 1, 2), training={"learning_rate": 0.1}),
        *sweep_of((0, 1, 2), training={"learning_rate": 0.2}),
    ]
    write_trials(stores, "rates", configs, tmp_path)
    record = read_record(stores.tracking_uri, "rates")
    assert set(record.dimensions) == {"hidden_layers", "width", "aux_weight", "target", "learning_rate"}
    assert record.differing == ["aux_weight", "learning_rate", "target"]
    fields = {dimension.name for dimension in record.description.dimensions}
    assert set(record.trials.columns) & fields == {*record.dimensions, "control"}
    # The table of replicates has every field.
    assert fields <= set(record.replicates.columns)
    assert list(summary_rows(record, record.trials)[0])[:4] == ["network", "aux_weight", "learning_rate", "target"]
    labels = {describe_trial(record, trial) for trial in record.trials.to_dict("records")}
    assert {"1×16, target 1, learning_rate 0.1", "1×16, baseline, learning_rate 0.2"} <= labels


def test_a_network_that_is_not_the_default_is_shown_though_all_trials_have_it() -> None:
    record = record_of([{"architecture": "convnet"}, {"architecture": "convnet", "aux_weight": 1.0}], every_field())
    assert "architecture" in record.dimensions
    assert "split_seed" not in record.trials
    # A label names what differs.
    assert record.network_of(record.trials.iloc[0].to_dict()) == "1×64"


def test_a_baseline_agrees_in_network_and_settings_whatever_they_are(stores: Stores, tmp_path: Path) -> None:
    configs = [
        config
        for rate in (0.1, 0.2)
        for architecture in ("mlp", "convnet")
        for config in sweep_of(
            WEIGHTS, network={"architecture": architecture, "hidden_layers": 2}, training={"learning_rate": rate}
        )
    ]

    def values(config: Any, index: int) -> dict[str, float]:
        level = 20 + 10 * config.training.learning_rate + 100 * (config.network.architecture == "mlp")
        return {"rlct": level - config.self_model.aux_weight + 0.01 * index}

    write_trials(stores, "levels", configs, tmp_path, values)
    record = read_record(stores.tracking_uri, "levels")
    table = compare_with_baseline(record).query("measure == 'rlct'")
    assert len(table) == 4 * (len(WEIGHTS) - 1)
    # Against the baseline of another rate or architecture the difference would have another level.
    assert table["difference"].tolist() == pytest.approx((-table["aux_weight"]).tolist())
    assert table["trial"].nunique() == 4
    sweeps = find_sweeps(record)
    assert len(sweeps) == 4
    for sweep in sweeps:
        assert sweep.trials["aux_weight"].tolist() == list(WEIGHTS)
        assert fit_curve(sweep, "rlct") is not None


def test_options_and_targets_do_not_part_a_trial_from_its_baseline() -> None:
    trials: list[dict[str, Any]] = [
        {"aux_weight": 0.0},
        {"aux_weight": 1.0, "target": "1", "head": "separate"},
        {"aux_weight": 1.0, "target": "1+2", "target_form": "sign"},
    ]
    compared = compare_with_baseline(record_of(trials, every_field()))
    assert set(compared["trial"]) == {"1×64, target 1, head separate", "1×64, target 1+2, target_form sign"}


def test_trials_without_a_baseline_under_their_settings_are_not_compared() -> None:
    trials = [{"aux_weight": 0.0, "momentum": 0.5}, {"aux_weight": 1.0, "momentum": 0.9}]
    assert compare_with_baseline(record_of(trials, every_field())).empty


def test_whole_numbers_stay_whole_beside_trials_without_a_value() -> None:
    trials: list[dict[str, Any]] = [
        {"architecture": "convnet", "kernel": 3},
        {"architecture": "convnet", "kernel": 5, "aux_weight": 1.0},
        {"architecture": "mlp", "kernel": None},
    ]
    record = record_of(trials, every_field(KERNEL))
    assert [row["kernel"] for row in trial_rows(record, record.trials)] == ["3", "5", "–"]
    assert [describe_trial(record, trial) for trial in record.trials.to_dict("records")] == [
        "1×64, architecture convnet, kernel 3, baseline",
        "1×64, architecture convnet, kernel 5, baseline",
        "1×64, architecture mlp, baseline",
    ]


def test_a_table_has_no_value_of_a_knob_that_a_trials_architecture_lacks(stores: Stores, tmp_path: Path) -> None:
    configs = [
        *sweep_of((0, 1), network={"architecture": "convnet", "hidden_layers": 2, "kernel_size": 3}),
        *sweep_of((0, 1), network={"architecture": "convnet", "hidden_layers": 2, "kernel_size": 5}),
        *sweep_of((0, 1), network={"architecture": "mlp"}),
    ]
    write_trials(stores, "knobs", configs, tmp_path / "files", described=False)
    record = read_record(stores.tracking_uri, "knobs")
    # What the convnets share does not differ, though the mlps lack it.
    assert record.differing == ["architecture", "hidden_layers", "kernel_size", "aux_weight", "target"]
    assert {"dense_units_per_channel", "stem_channels"}.isdisjoint(record.dimensions)
    shown = {(row["architecture"], row["kernel_size"]) for row in trial_rows(record, record.trials)}
    assert shown == {("convnet", "3"), ("convnet", "5"), ("mlp", "–")}
    assert {record.network_of(trial) for trial in record.trials.to_dict("records")} == {
        "2×16, architecture convnet, kernel_size 3",
        "2×16, architecture convnet, kernel_size 5",
        "1×16, architecture mlp",
    }
    report = write_report(record, tmp_path / "report", "command")
    table = pd.read_csv(report.folder / "trials.csv")
    assert table.groupby("architecture")["kernel_size"].count().to_dict() == {"convnet": 4, "mlp": 0}
    alone = record.by_task()["digits"]
    assert (compare_with_baseline(alone)["pairs"] == 3).all()


def test_a_knob_that_no_trial_has_is_not_shown(stores: Stores, tmp_path: Path) -> None:
    write_trials(stores, "mlps", sweep_of((0, 1)), tmp_path, described=False)
    record = read_record(stores.tracking_uri, "mlps")
    assert "kernel_size" not in record.trials
    assert record.replicates["kernel_size"].isna().all()
    assert record.dimensions == ["hidden_layers", "width", "aux_weight", "target"]


def test_a_field_that_some_trials_lack_is_a_conditional_parameter_of_the_front() -> None:
    trials: list[dict[str, Any]] = [
        {"architecture": "convnet", "kernel": kernel, "aux_weight": weight}
        for kernel in (3, 5)
        for weight in (0.0, 1.0)
    ]
    trials += [{"architecture": "mlp", "aux_weight": weight, "momentum": weight / 10} for weight in (0.0, 1.0)]
    record = record_of(trials, every_field(KERNEL))
    study = as_optuna_study(record)
    assert {name for trial in study.trials for name in trial.params} == {
        "architecture",
        "kernel",
        "aux_weight",
        "momentum",
    }
    assert sum("kernel" in trial.params for trial in study.trials) == 4
    assert draw_pareto_front(study)

    def first(trial: optuna.trial.FrozenTrial) -> float:
        return float(trial.values[0])

    for draw in (optuna.visualization.plot_parallel_coordinate, optuna.visualization.plot_slice):
        assert draw(study, target=first, target_name="accuracy").data


def test_one_tasks_trials_are_in_no_curve_front_or_comparison_with_anothers(stores: Stores, tmp_path: Path) -> None:
    configs = [*sweep_of(WEIGHTS), *sweep_of(WEIGHTS, task="mnist")]

    def values(config: Any, index: int) -> dict[str, float]:
        # All networks of the one task are better than all of the other.
        best = {"digits": 0.9, "mnist": 0.5}[config.task]
        noise = 0.001 * index
        return {"val_accuracy": best, "rlct": 30 * best / (1 + config.self_model.aux_weight) + noise, "weight_std": 1}

    write_trials(stores, "tasks", configs, tmp_path / "files", values)
    record = read_record(stores.tracking_uri, "tasks")
    assert list(record.by_task()) == ["digits", "mnist"]
    assert {sweep.label for sweep in find_sweeps(record)} == {"digits, 1×16, target 1", "mnist, 1×16, target 1"}
    report = write_report(record, tmp_path / "report", "command")
    assert set(report.front["task"]) == {"digits", "mnist"}
    assert [row["task"] for row in report.summary.front] == report.front["task"].tolist()
    for name in ("comparisons", "fits"):
        table = pd.read_csv(report.folder / f"{name}.csv")
        assert table.columns[0] == "task"
        assert set(table["task"]) == {"digits", "mnist"}
    names = {path.name for path in report.folder.iterdir()}
    assert {"complexity-digits.png", "complexity-mnist.pdf", "tradeoff-digits.png", "tradeoff-mnist.pdf"} <= names
    page = report.page.read_text()
    assert "<h2>digits: Measures against weight</h2>" in page
    assert "<h2>mnist: Pareto front</h2>" in page
    # One copy of the drawing script serves both fronts.
    assert page.count("Plotly.newPlot") == 2


@settings(max_examples=300, deadline=None)
@given(st.lists(values_of_any_kind, min_size=1, max_size=8))
def test_values_of_any_kind_are_ordered_and_grouped_by_what_they_are(values: list[Any]) -> None:
    column = tidy(pd.Series(values, dtype=object))
    ranks = sortable(column).tolist()
    kept = column.tolist()
    for first, place in zip(kept, ranks, strict=True):
        for second, other in zip(kept, ranks, strict=True):
            assert is_same(first, second) == (place == other)
            is_number = [isinstance(each, int | float) and not isinstance(each, bool) for each in (first, second)]
            if all(is_number) and not math.isnan(first) and not math.isnan(second):
                assert (first < second) == (place < other)
    table = pd.DataFrame({"value": column})
    parts = list(groups(table, ["value"]))
    assert len(parts) == len(set(ranks))
    assert differs(column) == (len(parts) > 1)
    assert sorted(index for part in parts for index in part.index) == list(range(len(values)))
    for_parquet(table).to_parquet(io.BytesIO())


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(values_of_any_kind, values_of_any_kind, st.sampled_from([0.0, 1.0, 2.0, 5.0])),
        min_size=1,
        max_size=8,
    )
)
def test_a_record_with_values_of_any_kind_is_analysed(rows: list[tuple[Any, Any, float]]) -> None:
    trials = [{"knob": knob, "lever": lever, "aux_weight": weight} for knob, lever, weight in rows]
    description = every_field(KNOB, LEVER)
    record = record_of(trials, description)
    assert len(record.trials) == len(trials)
    study = as_optuna_study(record)
    assert pareto_optimal(study)
    assert len(draw_pareto_front(study)) == 1
    for sweep in find_sweeps(record):
        assert len({str(value) for value in sweep.trials["knob"]}) == 1
    assert set(compare_with_baseline(record)["pairs"]) <= {2}
    assert len(trial_rows(record, record.trials, with_all=True)) == len(trials)
    buffer = io.StringIO()
    save_csv(record.trials, buffer)  # type: ignore[arg-type]
    for_parquet(record.replicates).to_parquet(io.BytesIO())


def test_a_report_of_values_of_every_kind_is_written(tmp_path: Path) -> None:
    kinds = [None, True, 1, 0.5, "relu", "$\\frac{$"]
    trials = [
        {"knob": kind, "lever": kind, "aux_weight": weight} for kind in kinds for weight in (0.0, 1.0, 2.0, 5.0, 9.0)
    ]
    report = write_report(record_of(trials, every_field(KNOB, LEVER)), tmp_path, "command")
    assert len({fit.sweep for fit in report.fits}) == len(kinds)
    assert pd.read_parquet(tmp_path / "trials.parquet")["knob"].nunique(dropna=False) == len(kinds)


def test_a_description_has_at_most_one_task() -> None:
    second = Dimension(name="other", meaning="Another.", role="task")
    with pytest.raises(ValueError, match="at most one dimension has the role 'task'"):
        Description.model_validate(every_field(second).model_dump())


@given(st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=4))
def test_a_name_made_of_names_is_a_bounded_name_of_a_file(names: list[str]) -> None:
    name = file_name(names)
    assert 0 < len(name.encode()) <= LONGEST_NAME
    assert "/" not in name
    assert file_name(names) == name
    if name != "+".join(names):
        assert file_name([*names, "x"]) != name
