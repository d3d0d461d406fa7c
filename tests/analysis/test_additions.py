"""A measure, an objective or a curve family that is added appears everywhere, with no file of the analysis edited."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient

from analysis import StudyRecord, read_record, write_report
from analysis.curves import CURVES, Curve, Parameter
from analysis.description import Measure
from analysis.figures import draw_against_weight, draw_tradeoff
from analysis.layout import Tag
from analysis.pareto import as_optuna_study, draw_pareto_front, pareto_optimal
from analysis.report import Report
from analysis.sweeps import find_sweeps
from analysis.text import summary_rows, trial_rows
from study.record.stores import Stores
from tests.analysis.described import add_metric, describe, description_with
from tests.study.stores import fresh_stores
from tests.study.synthetic import falling, runs_of, sweep_spec, write_study

WEIGHTS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)
SURPRISE = Measure(name="surprise", label="mean surprise", unit="bits", meaning="How odd the answers are.")
LENGTH = Measure(
    name="length", label="description length", unit="kB", meaning="Of the packed weights.", simpler="lower"
)


@dataclass(frozen=True)
class Written:
    """A record with an addition, and its report."""

    record: StudyRecord
    report: Report

    @property
    def page(self) -> str:
        return self.report.page.read_text()

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.report.folder / f"{name}.csv")


Writer = Callable[..., Written]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """A study whose replicates have the metrics of SURPRISE and LENGTH, described or not."""
    stores = fresh_stores(tmp_path_factory.mktemp("store"))
    write_study(stores, sweep_spec(weights=WEIGHTS, replicates=2), falling, tmp_path_factory.mktemp("files"))
    add_metric(stores, "made-up", SURPRISE.name, per_weight=-0.01)
    add_metric(stores, "made-up", LENGTH.name, per_weight=-0.02)
    return stores


@pytest.fixture
def written(stores: Stores, tmp_path: Path) -> Writer:
    (run,) = runs_of(stores, "made-up", "tags.level = 'study'")

    def write(*measures: Measure, objectives: dict[str, str] | None = None) -> Written:
        describe(stores, "made-up", description_with(*measures))
        chosen = json.dumps(objectives or sweep_spec().objectives)
        MlflowClient(stores.tracking_uri).set_tag(run.info.run_id, Tag.OBJECTIVES, chosen)
        record = read_record(stores.tracking_uri, "made-up")
        return Written(record, write_report(record, tmp_path, "python -m analysis made-up"))

    return write


def labels_of(figure: Figure) -> list[tuple[str, str]]:
    """The labels of both axes of every panel."""
    return [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes if axes.get_xlabel()]


def test_a_measure_is_in_every_table_and_in_the_report(written: Writer) -> None:
    made = written(SURPRISE)
    assert made.record.measures[-1] == "surprise"
    assert made.table("replicates")["surprise"].notna().all()
    trials = made.table("trials")
    # The mean over two replicates, which differ by 0.01.
    assert trials["surprise"].tolist() == pytest.approx([1.005 - 0.01 * weight for weight in WEIGHTS])
    assert trials["surprise_se"].tolist() == pytest.approx([0.005] * len(WEIGHTS))
    comparisons = made.table("comparisons").query("measure == 'surprise'")
    assert comparisons["difference"].tolist() == pytest.approx([-0.01 * weight for weight in WEIGHTS[1:]])
    assert "surprise" in trial_rows(made.record, made.record.trials, with_all=True)[0]
    assert '<th title="mean surprise, bits: How odd the answers are.">surprise</th>' in made.page
    assert "<td>mean surprise, bits</td><td>How odd the answers are.</td>" in made.page


def test_a_measure_by_which_a_network_is_simpler_has_a_panel_and_curves(written: Writer) -> None:
    made = written(SURPRISE, LENGTH)
    assert made.record.complexities[-1] == "length"
    figure = draw_against_weight(made.record, find_sweeps(made.record), made.report.fits)
    panels = [y for _, y in labels_of(figure)]
    assert "description length, kB" in panels
    assert "mean surprise, bits" not in panels
    (fits,) = (fits for fits in made.report.fits if fits.measure == "length")
    assert fits.points == len(WEIGHTS)
    assert set(made.table("fits").query("measure == 'length'")["family"]) == set(CURVES)
    assert "surprise" not in set(made.table("fits")["measure"])
    assert "Of the packed weights. Lower is simpler." in made.page


def test_a_metric_that_no_measure_describes_is_nowhere(written: Writer) -> None:
    made = written(SURPRISE)
    for name in ("replicates", "trials", "comparisons"):
        assert not re.search(r"\blength\b", made.table(name).to_csv())
    assert ">length<" not in made.page


def test_an_objective_is_in_summary_front_figures_and_report(written: Writer) -> None:
    made = written(SURPRISE, LENGTH, objectives={"length": "maximize", "surprise": "minimize"})
    # Both fall with the weight: every trial is optimal.
    assert made.report.front["aux_weight"].tolist() == list(WEIGHTS)
    row = made.report.summary.front[0]
    assert list(row) == ["network", "aux_weight", "target", "length", "surprise"]
    assert row["surprise"] == "1.00 ± 0.06"
    assert list(trial_rows(made.record, made.record.trials)[0])[-2:] == ["length", "surprise"]
    tradeoff = draw_tradeoff(made.record, pareto_optimal(as_optuna_study(made.record)))
    assert labels_of(tradeoff) == [("mean surprise, bits", "description length, kB")]
    against = draw_against_weight(made.record, find_sweeps(made.record), made.report.fits)
    assert "mean surprise, bits" in [y for _, y in labels_of(against)]
    (picture,) = draw_pareto_front(as_optuna_study(made.record))
    assert (picture.layout.xaxis.title.text, picture.layout.yaxis.title.text) == ("length", "surprise")
    assert "maximize length, minimize surprise." in made.page


def test_an_objective_that_no_network_has_a_value_of_leaves_the_front_empty(written: Writer) -> None:
    absent = Measure(name="absent", label="absent", unit="", meaning="Nobody has it.")
    made = written(SURPRISE, absent, objectives={"surprise": "minimize", "absent": "minimize"})
    assert made.table("trials")["absent"].isna().all()
    assert made.report.front.empty
    assert "there is no front to draw" in made.page


def test_a_single_objective_is_drawn_against_the_weight(written: Writer) -> None:
    made = written(SURPRISE, objectives={"surprise": "minimize"})
    assert made.report.front["aux_weight"].tolist() == [WEIGHTS[-1]]
    tradeoff = draw_tradeoff(made.record, pareto_optimal(as_optuna_study(made.record)))
    assert labels_of(tradeoff) == [(made.record.label_of("aux_weight"), "mean surprise, bits")]
    assert draw_pareto_front(as_optuna_study(made.record)) == []
    assert "With a single objective, or no usable trial, there is no front to draw." in made.page
    assert not (made.report.folder / "pareto.html").exists()


def test_five_objectives_work_everywhere(written: Writer) -> None:
    objectives = {
        "val_accuracy": "maximize",
        "weight_std": "minimize",
        "rlct": "minimize",
        "surprise": "minimize",
        "length": "maximize",
    }
    made = written(SURPRISE, LENGTH, objectives=objectives)
    assert list(made.report.summary.front[0])[3:] == [
        "val_accuracy",
        "weight_std",
        "rlct",
        "rlct_verdict",
        "surprise",
        "length",
    ]
    study = as_optuna_study(made.record)
    optimal = pareto_optimal(study)
    # The first objective against each of the others, in rows of three.
    tradeoff = draw_tradeoff(made.record, optimal)
    assert [x for x, _ in labels_of(tradeoff)] == [made.record.label_of(name) for name in list(objectives)[1:]]
    assert [y for _, y in labels_of(tradeoff)] == [
        made.record.label_of("val_accuracy"),
        "",
        "",
        made.record.label_of("val_accuracy"),
    ]
    pictures = draw_pareto_front(study)
    assert [picture.layout.yaxis.title.text for picture in pictures] == list(objectives)[1:]
    for picture in pictures:
        marked = sum(len(dots.x) for dots in picture.data if dots.marker.colorbar.title.text == "Best Trial")
        assert marked == len(optimal) == len(WEIGHTS)
    assert "val_accuracy is drawn against each of the others" in made.page
    assert made.page.count("Plotly.newPlot") == 4
    assert summary_rows(made.record, made.report.front) == made.report.summary.front


def test_an_objective_that_needs_a_verdict_leaves_out_trials_whose_verdict_is_not_usable(written: Writer) -> None:
    judged = SURPRISE.model_copy(update={"needs_verdict": True})
    made = written(judged, objectives={"val_accuracy": "maximize", "surprise": "minimize"})
    trials = made.record.trials
    trials.loc[trials["aux_weight"] == 20, "rlct_verdict"] = "not_a_minimum"
    study = as_optuna_study(made.record)
    assert [trial.params["aux_weight"] for trial in study.trials] == list(WEIGHTS[:-1])
    assert "rlct_verdict" in summary_rows(made.record, trials)[0]


def test_a_curve_family_is_in_fits_figure_table_and_report(written: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    def line(weight: np.ndarray, start: float, slope: float) -> np.ndarray:
        """start + slope · weight."""
        return start + slope * weight

    monkeypatch.setitem(CURVES, "straight line", Curve(line, {"start": Parameter(1.0), "slope": Parameter(0.0)}))
    made = written(LENGTH)
    (fits,) = (fits for fits in made.report.fits if fits.measure == "length")
    assert fits.best.family == "straight line"
    assert fits.best.parameters["slope"].value == pytest.approx(-0.02)
    rows = made.table("fits").query("measure == 'length' and family == 'straight line'").set_index("parameter")
    assert rows["value"].to_dict() == pytest.approx({"start": 1.005, "slope": -0.02})
    assert rows["best"].all()
    assert "straight line <code>start + slope · weight</code>" in made.page
    assert '<tr class="best"><td>1×16, target 1</td><td>length</td>' in made.page
    figure = draw_against_weight(made.record, find_sweeps(made.record), made.report.fits)
    (axes,) = (axes for axes in figure.axes if axes.get_ylabel() == "description length, kB")
    (drawn,) = (line for line in axes.get_lines() if np.size(line.get_xdata()) > 100)
    expected = 1.005 - 0.02 * np.asarray(drawn.get_xdata(), dtype=float)
    np.testing.assert_allclose(np.asarray(drawn.get_ydata(), dtype=float), expected, atol=1e-6)
