"""Controls and variants beside self-modeling: sweeps of their own, and the same baseline for all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import StudyRecord, read_record, write_report
from analysis.comparison import compare_with_baseline
from analysis.fits import fit_curve
from analysis.pareto import as_optuna_study
from analysis.sweeps import find_sweeps
from analysis.text import summary_rows, trial_rows
from study.record.stores import Stores
from tests.study.stores import fresh_stores
from tests.study.synthetic import sweep_spec, write_study
from trainables.trial import TrialConfig

WEIGHTS = (0.0, 1.0, 2.0, 5.0, 10.0)
CONTROLS = ("none", "weight_decay", "activation_penalty", "extra_outputs")
# Exponents of the curves that the rlct follows.
ALPHA = {"none": 0.4, "weight_decay": 0.8, "activation_penalty": 0.1}
EXTRA_OUTPUTS = 1.5  # their effect on the rlct


def by_control(config: TrialConfig, index: int) -> dict[str, float]:
    """The rlct is 30·(1 + w/5)^−α with the control's α; every replicate has its own level and some noise."""
    model, level = config.self_model, 0.5 * index
    noise = np.random.default_rng([index, int(model.aux_weight * 10)]).normal(scale=0.01)
    rlct = 30 * (1 + model.aux_weight / 5) ** -ALPHA.get(model.control, 0)
    rlct += EXTRA_OUTPUTS * (model.control == "extra_outputs")
    if model.head == "separate":
        rlct += 2
    return {"rlct": rlct + level + noise, "weight_std": 0.3, "val_accuracy": 0.9, "weight_std_hidden1": 0.1 * index}


def written(stores: Stores, folder: Path, name: str, **space: object) -> StudyRecord:
    spec = sweep_spec(name=name, weights=WEIGHTS, replicates=3, space=space)
    write_study(stores, spec, by_control, folder)
    return read_record(stores.tracking_uri, name)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return fresh_stores(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def controls(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    return written(stores, tmp_path_factory.mktemp("files"), "controls", control=list(CONTROLS))


@pytest.fixture(scope="module")
def variants(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    return written(stores, tmp_path_factory.mktemp("files"), "variants", head=["widened", "separate"])


def test_every_control_is_a_sweep_of_its_own_from_the_one_baseline(controls: StudyRecord) -> None:
    sweeps = {sweep.label: sweep.trials for sweep in find_sweeps(controls)}
    assert set(sweeps) == {"1×16, target 1", "1×16, weight_decay", "1×16, activation_penalty, target 1"}
    for label, trials in sweeps.items():
        assert trials["aux_weight"].tolist() == list(WEIGHTS), label
        assert trials["control"].tolist()[0] == "none"
        assert trials["control"].iloc[1:].nunique() == 1
    # Extra outputs have no weight, and are a point of no curve.
    assert not any((trials["control"] == "extra_outputs").any() for trials in sweeps.values())


def test_every_control_has_its_own_curve(controls: StudyRecord) -> None:
    for sweep in find_sweeps(controls):
        fits = fit_curve(sweep, "rlct")
        assert fits is not None
        alpha = fits.fit_of("shifted power law").parameters["alpha"]
        assert abs(alpha.value - ALPHA[sweep.trials["control"].iloc[-1]]) < 3 * alpha.se, sweep.label


def test_every_control_is_compared_with_the_baseline_of_its_network(controls: StudyRecord) -> None:
    table = compare_with_baseline(controls)
    assert set(table["trial"]) == {
        "1×16, target 1",
        "1×16, weight_decay",
        "1×16, activation_penalty, target 1",
        "1×16, extra_outputs, target 1",
    }
    rlct = table[table["measure"] == "rlct"].set_index(["trial", "aux_weight"])
    assert len(rlct) == 3 * (len(WEIGHTS) - 1) + 1
    # Compared seed by seed, since the levels of the replicates differ far more than the noise.
    assert (rlct["high"] - rlct["low"]).max() < 0.3
    difference = rlct["difference"].to_dict()
    assert difference["1×16, extra_outputs, target 1", 0] == pytest.approx(EXTRA_OUTPUTS)
    assert difference["1×16, weight_decay", 10] == pytest.approx(30 * 3**-0.8 - 30, abs=0.1)
    assert (rlct["baseline"].nunique(), rlct["pairs"].unique().tolist()) == (1, [3])


def test_a_comparison_says_what_became_of_the_trial(controls: StudyRecord) -> None:
    trials = controls.trials.copy()
    broken = (trials["control"] == "weight_decay") & (trials["aux_weight"] == 10)
    trials.loc[broken, "status_detail"] = "collapsed"
    changed = replace(controls, trials=trials)
    table = compare_with_baseline(changed)
    collapsed = table[table["status_detail"] == "collapsed"]
    assert set(zip(collapsed["trial"], collapsed["aux_weight"], strict=True)) == {("1×16, weight_decay", 10.0)}
    (sweep,) = (sweep for sweep in find_sweeps(changed) if sweep.label == "1×16, weight_decay")
    assert 10 in sweep.trials["aux_weight"].tolist()
    assert 10 not in sweep.included("weight_std")["aux_weight"].tolist()


def test_without_a_baseline_that_learned_something_nothing_is_compared(controls: StudyRecord) -> None:
    is_baseline = (controls.trials["aux_weight"] == 0) & (controls.trials["control"] == "none")
    assert compare_with_baseline(replace(controls, trials=controls.trials[~is_baseline])).empty
    broken = controls.trials.copy()
    broken.loc[is_baseline, "status_detail"] = "collapsed"
    assert compare_with_baseline(replace(controls, trials=broken)).empty


def test_ways_of_predicting_are_sweeps_and_comparisons_of_their_own(variants: StudyRecord) -> None:
    separate = "1×16, target 1, head separate"
    assert [sweep.label for sweep in find_sweeps(variants)] == [separate, "1×16, target 1"]
    table = compare_with_baseline(variants)
    rlct = table[table["measure"] == "rlct"].pivot(index="aux_weight", columns="trial", values="difference")
    assert (rlct[separate] - rlct["1×16, target 1"]).tolist() == pytest.approx([2.0] * 4, abs=1e-9)


def test_a_measure_that_does_not_count_for_the_baseline_is_not_compared(controls: StudyRecord) -> None:
    trials = controls.trials.copy()
    trials.loc[(trials["aux_weight"] == 0) & (trials["control"] == "none"), "rlct_verdict"] = "not_a_minimum"
    compared = set(compare_with_baseline(replace(controls, trials=trials))["measure"])
    assert compared == set(compare_with_baseline(controls)["measure"]) - {"rlct"}


def test_the_dimensions_of_a_study_are_those_that_differ_in_it(controls: StudyRecord, variants: StudyRecord) -> None:
    always = ["hidden_layers", "width", "target", "aux_weight"]
    assert sorted(controls.dimensions) == sorted([*always, "control"])
    assert sorted(variants.dimensions) == sorted([*always, "head"])
    rows = trial_rows(controls, controls.trials)
    assert {row["control"] for row in rows} == set(CONTROLS)
    assert all("control" not in row for row in trial_rows(variants, variants.trials))
    assert len({tuple(row[name] for name in controls.dimensions) for row in rows}) == len(rows)


def test_a_summary_names_the_network_by_its_dimensions(variants: StudyRecord) -> None:
    rows = summary_rows(variants, variants.trials)
    assert {row["network"] for row in rows} == {"1×16"}
    assert list(rows[0])[:4] == ["network", "aux_weight", "target", "head"]
    assert {"hidden_layers", "width"}.isdisjoint(rows[0])


def test_the_spread_of_the_hidden_layers_weights_is_a_measure_of_the_study(controls: StudyRecord) -> None:
    assert "weight_std_hidden1" in controls.measures
    assert controls.trials["weight_std_hidden1"].tolist() == pytest.approx([0.1] * len(controls.trials))
    assert controls.trials["weight_std_hidden1_se"].tolist() == pytest.approx([0.1 / 3**0.5] * len(controls.trials))


def test_the_front_says_which_control_a_trial_has(controls: StudyRecord) -> None:
    study = as_optuna_study(controls)
    assert {trial.params["control"] for trial in study.trials} == set(CONTROLS)


def test_the_report_of_a_study_of_controls_names_them(controls: StudyRecord, tmp_path: Path) -> None:
    report = write_report(controls, tmp_path, "python -m analysis controls")
    page = report.page.read_text()
    for expected in ("1×16, extra_outputs, target 1", ">control</th>", "weight_std_hidden1", "observer_r2"):
        assert expected in page
    assert set(pd.read_csv(tmp_path / "comparisons.csv")["trial"]) == set(report.comparisons["trial"])
    # Three sweeps.
    assert len(report.fits) == 3 * len(controls.complexities)
