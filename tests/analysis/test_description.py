"""A record's description alone decides what the analysis shows."""

import ast
import math
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from mlflow.tracking import MlflowClient
from pydantic import ValidationError

import analysis
from analysis import AnalysisError, read_record
from analysis.description import Description, Dimension, Measure, Outcome, undescribed
from analysis.layout import Artifact
from study.record.stores import Stores
from tests.analysis.described import describe, description_with
from tests.study.stores import fresh_stores
from tests.study.synthetic import falling, runs_of, sweep_spec, write_study

# A later step than any in the record.
LAST = 10_000


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """A study that every test here describes anew."""
    stores = fresh_stores(tmp_path_factory.mktemp("store"))
    write_study(stores, sweep_spec(weights=(0, 1, 2), replicates=2), falling, tmp_path_factory.mktemp("files"))
    return stores


def few_words(**changes: object) -> Description:
    words: dict[str, object] = {
        "measures": (
            Measure(name="rlct", label="the rlct", unit="", meaning="The rlct.", simpler="lower", needs_verdict=True),
            Measure(name="train_loss", label="loss", unit="nats", meaning="The loss.", performance=True),
            Measure(name="val_accuracy", label="accuracy", unit="", meaning="A share."),
            Measure(name="weight_std_", label="spread", unit="", meaning="A spread.", per_layer=True),
            Measure(name="weight_std", label="final spread", unit="", meaning="A spread."),
            Measure(name="weight_std_balanced", label="its other spread", unit="", meaning="A spread."),
            Measure(name="nowhere", label="nowhere", unit="", meaning="No run has it."),
        ),
        "dimensions": (
            Dimension(name="width", meaning="Units.", role="network"),
            Dimension(name="control", meaning="The task.", role="auxiliary", default="none"),
            Dimension(name="aux_weight", meaning="Its weight.", role="weight", default=0),
            Dimension(name="target", meaning="Its target.", role="target"),
        ),
        "statuses": (Outcome(name="ok", meaning="Fine.", usable=True),),
        "verdicts": (Outcome(name="sound", meaning="Fine.", usable=True),),
    }
    return Description.model_validate(words | changes)


def test_no_code_of_the_analysis_names_a_measure_dimension_status_or_verdict() -> None:
    words = undescribed()
    names = {measure.name for measure in words.measures} | {dimension.name for dimension in words.dimensions}
    names |= {each.name for each in (*words.statuses, *words.verdicts)}
    # The measure that can be estimated again has tags and artifacts; "target" is also the name of a role.
    names -= {"rlct", "target"}
    files = list(Path(str(analysis.__file__)).parent.glob("*.py"))
    assert len(files) > 10
    for file in files:
        literals = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert names & {text for text in literals if isinstance(text, str)} == set(), file.name


def test_a_record_without_a_description_has_the_words_of_its_time(stores: Stores) -> None:
    (run,) = runs_of(stores, "made-up", "tags.level = 'study'")
    (Path(urlsplit(run.info.artifact_uri).path) / Artifact.DESCRIPTION).unlink()
    record = read_record(stores.tracking_uri, "made-up")
    assert record.description == undescribed()
    assert record.measures[:4] == ["val_accuracy", "test_accuracy", "weight_std", "rlct"]
    assert record.dimensions == ["hidden_layers", "width", "aux_weight", "target"]
    assert record.complexities == ["weight_std", "rlct", "effective_rank"]


def test_measures_are_those_that_are_described_and_measured_in_the_described_order(stores: Stores) -> None:
    describe(stores, "made-up", few_words())
    record = read_record(stores.tracking_uri, "made-up")
    assert record.description == few_words()
    assert record.measures == [
        *("rlct", "train_loss", "val_accuracy", "weight_std_hidden1", "weight_std", "weight_std_balanced")
    ]
    assert {"observer_r2", "effective_rank", "nowhere"}.isdisjoint(record.trials.columns)
    assert record.performance == "train_loss"
    assert record.complexities == ["rlct"]


def test_axes_have_the_described_labels_units_and_layers(stores: Stores) -> None:
    describe(stores, "made-up", few_words())
    record = read_record(stores.tracking_uri, "made-up")
    names = ("rlct", "train_loss", "weight_std_hidden1", "aux_weight")
    assert [record.label_of(name) for name in names] == ["the rlct", "loss, nats", "spread hidden1", "aux_weight"]


def test_trials_are_told_apart_by_the_described_dimensions_alone(stores: Stores) -> None:
    describe(stores, "made-up", few_words())
    record = read_record(stores.tracking_uri, "made-up")
    assert record.dimensions == ["width", "aux_weight", "target"]
    assert record.network_of(record.trials.iloc[0].to_dict()) == "16"


def test_a_dimension_that_the_runs_do_not_have_is_at_its_default(stores: Stores) -> None:
    later = Dimension(name="rotation", meaning="How far inputs turn.", role="option", default=0.5)
    describe(stores, "made-up", few_words(dimensions=(*few_words().dimensions, later)))
    record = read_record(stores.tracking_uri, "made-up")
    assert set(record.trials["rotation"]) == {0.5}
    assert "rotation" not in record.dimensions


@pytest.mark.parametrize("usable", [True, False])
def test_the_description_says_which_statuses_and_verdicts_count(stores: Stores, usable: bool) -> None:
    words = {
        "statuses": (Outcome(name="ok", meaning="Fine.", usable=True),),
        "verdicts": (Outcome(name="sound", meaning="Not fine, here.", usable=usable),),
    }
    describe(stores, "made-up", few_words(**words))
    record = read_record(stores.tracking_uri, "made-up")
    assert len(record.usable(record.trials, "train_loss")) == 3
    assert len(record.usable(record.trials, "rlct")) == (3 if usable else 0)
    assert len(record.usable(record.trials, "train_loss", "rlct")) == (3 if usable else 0)
    describe(stores, "made-up", few_words(statuses=(Outcome(name="ok", meaning="Not fine.", usable=False),)))
    record = read_record(stores.tracking_uri, "made-up")
    assert record.usable(record.trials).empty


def test_the_error_over_chains_has_one_name_whatever_the_runs_call_it(stores: Stores) -> None:
    error = Measure(name="rlct", label="rlct", unit="", meaning="The rlct.", error="rlct_error")
    describe(stores, "made-up", few_words(measures=(error, *few_words().measures[1:])))
    # In older runs `rlct_se` on a replicate's run was over chains. New runs use the described name.
    client = MlflowClient(stores.tracking_uri)
    before, now, *_ = runs_of(stores, "made-up", "tags.level = 'replicate'")
    client.log_metric(before.info.run_id, "rlct_se", 0.25, step=LAST)
    client.log_metric(now.info.run_id, "rlct_se", 0.25, step=LAST)
    client.log_metric(now.info.run_id, "rlct_error", 0.75, step=LAST)
    record = read_record(stores.tracking_uri, "made-up")
    by_run = record.replicates.set_index("run_id")["rlct_chain_se"]
    assert (by_run[before.info.run_id], by_run[now.info.run_id]) == (0.25, 0.75)
    # On a trial the error is over replicates.
    trial = record.trials.iloc[0]
    values = record.replicates.loc[record.replicates["trial_key"] == trial["trial_key"], "rlct"]
    assert trial["rlct_se"] == pytest.approx(values.std() / 2**0.5)
    assert "rlct_se" not in record.replicates
    assert "rlct_chain_se" not in record.trials


def test_an_objective_that_is_described_nowhere_is_a_clear_error(stores: Stores) -> None:
    without = tuple(measure for measure in few_words().measures if measure.name != "rlct")
    describe(stores, "made-up", few_words(measures=without))
    with pytest.raises(AnalysisError, match="does not describe its objective 'rlct'; it describes train_loss"):
        read_record(stores.tracking_uri, "made-up")


def test_a_description_that_cannot_be_read_is_a_clear_error(stores: Stores) -> None:
    (run,) = runs_of(stores, "made-up", "tags.level = 'study'")
    MlflowClient(stores.tracking_uri).log_text(run.info.run_id, '{"measures": 3}', Artifact.DESCRIPTION)
    with pytest.raises(AnalysisError, match=r"description\.json of the study's run cannot be read"):
        read_record(stores.tracking_uri, "made-up")


@pytest.mark.parametrize("missing", ["auxiliary", "target", "weight", "network"])
def test_a_description_has_one_dimension_of_each_role_that_a_trial_needs(missing: str) -> None:
    others = tuple(dimension for dimension in few_words().dimensions if dimension.role != missing)
    with pytest.raises(ValidationError, match=f"role '{missing}'"):
        few_words(dimensions=others)


@pytest.mark.parametrize("role", ["auxiliary", "weight"])
def test_a_description_says_what_the_baseline_is(role: str) -> None:
    without = tuple(
        dimension.model_copy(update={"default": None}) if dimension.role == role else dimension
        for dimension in few_words().dimensions
    )
    with pytest.raises(ValidationError, match="has no default"):
        few_words(dimensions=without)


def test_a_metric_of_one_layer_belongs_to_the_measure_of_each_layer_unless_it_is_described_itself() -> None:
    words = description_with(Measure(name="weight_std_total", label="all", unit="", meaning="Of all layers."))
    of_layer, total, unknown = (words.measure(name) for name in ("weight_std_block2", "weight_std_total", "other"))
    assert of_layer is not None
    assert total is not None
    assert (of_layer.name, total.label, unknown) == ("weight_std_", "all", None)
    names = ["weight_std_total", "weight_std_b", "rlct", "weight_std_a", "other"]
    assert words.measures_among(names) == ["rlct", "weight_std_b", "weight_std_a", "weight_std_total"]


def test_a_measure_that_one_replicate_lacks_is_missing_in_its_trial(stores: Stores) -> None:
    describe(stores, "made-up", description_with(Measure(name="late", label="late", unit="s", meaning="Late.")))
    runs = runs_of(stores, "made-up", "tags.level = 'replicate'")
    lacking = next(run for run in runs if run.data.params["aux_weight"] == "2.0")
    for run in runs:
        if run is not lacking:
            value = float(run.data.params["aux_weight"]) + int(run.data.tags["replicate"])
            MlflowClient(stores.tracking_uri).log_metric(run.info.run_id, "late", value)
    trials = read_record(stores.tracking_uri, "made-up").trials
    # A mean over some of the replicates would look like a mean over all.
    assert trials["late"].tolist() == pytest.approx([0.5, 1.5, math.nan], nan_ok=True)
    assert trials["late_se"].tolist() == pytest.approx([0.5, 0.5, math.nan], nan_ok=True)
