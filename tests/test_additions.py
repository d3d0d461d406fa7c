"""Additions are found everywhere, with no file of the project edited.

A task, an architecture, a control, a measure of every epoch, an objective and a family of curves are put into their
tables at run time; then a study is run with all of them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from analysis import read_record
from analysis.curves import CURVES, Curve, Parameter
from analysis.description import Description
from analysis.layout import Artifact
from study.commands.main import main as study_command
from study.commands.options import parse_options
from study.commands.run import main
from study.errors import StudyError
from study.spec import build_spec
from trainables import NetworkConfig, RlctConfig, TrainingConfig
from trainables.auxiliary import AUXILIARY_TASKS, AuxiliaryTask
from trainables.measures import MEASURES, Measure
from trainables.networks import ARCHITECTURES
from trainables.networks.architectures.mlp import MLP
from trainables.tasks import TASKS, DataShape, InputSpec, Recipe, Task, TaskData

STUDY = """
name: additions
question: Is what was added found everywhere?
task: rings
architecture: narrow
replicates: 3
sampler: design
space: {hidden_layers: 1, width: 8, target_depth: last}
design:
  - {aux_weight: [0, 0.1, 0.5, 1, 2, 5]}
  - {control: small_weights, aux_weight: [0.01, 0.1, 0.3]}
rlct: {draws: 40, chains: 2, batch_size: 32, step_size: 0.001}
observer: {epochs: 0}
objectives: {val_accuracy: maximize, largest_weight: minimize}
"""


class Rings(Task):
    """Two rings around the origin, which a line cannot tell apart."""

    name = "rings"
    summary = "two rings of points in a plane"
    needs_data_root = False
    shape = DataShape(InputSpec((2,)), 2, 400, 100)
    recipe = Recipe(
        TrainingConfig(batch_size=32, epochs=20, learning_rate=0.1, validation_fraction=0.2),
        RlctConfig(draws=20, batch_size=32, step_size=1e-3),
        NetworkConfig(width=8),
    )

    def load(self, root: Path | None) -> TaskData:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, size=500)
        angle, radius = rng.uniform(0, 2 * np.pi, size=500), 1 + labels + rng.normal(scale=0.1, size=500)
        inputs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
        return TaskData(self.name, 2, inputs[:400], labels[:400], inputs[400:], labels[400:])


class Narrow(MLP):
    """An added architecture: a perceptron by another name."""

    name = "narrow"
    summary = "perceptron of one's own"


class SmallWeights(AuxiliaryTask):
    """An added control: the mean length of all parameters."""

    name = "small_weights"
    summary = "penalty on the length of the weights"
    strength = "weight of the penalty"
    has_targets = False
    predicts = False
    predicts_itself = False
    options = ()

    def loss(self, network: Any, activations: Any, inputs: Any) -> Any:
        return sum(parameter.flatten(1).norm(dim=1) for parameter in network.parameters())


LARGEST_WEIGHT = Measure(
    name="largest_weight",
    label="largest weight of the head",
    unit="",
    meaning="The largest absolute weight of the final layer's class rows.",
    simpler="lower",
    sees="weights",
    moment="epoch",
    compute=lambda view: view.network.head.weight[:, : view.network.classes].flatten(1).abs().amax(dim=1),
)


def straight_line(weight: np.ndarray, height: float, slope: float) -> np.ndarray:
    """height + slope · weight."""
    return np.asarray(height + slope * weight)


STRAIGHT_LINE = Curve(
    straight_line, {"height": Parameter(lambda weight, value: float(value.mean())), "slope": Parameter(0.0)}
)


@pytest.fixture(scope="module")
def tables() -> Iterator[None]:
    """The tables of the project, each with one more entry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "rings", Rings())
        patch.setitem(ARCHITECTURES, "narrow", Narrow())
        patch.setitem(AUXILIARY_TASKS, "small_weights", SmallWeights)
        patch.setitem(MEASURES, "largest_weight", LARGEST_WEIGHT)
        patch.setitem(CURVES, "straight_line", STRAIGHT_LINE)
        yield


@pytest.fixture(scope="module")
def folder(tables: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study file, and the results of running it in this process in ./runs."""
    folder = tmp_path_factory.mktemp("additions")
    (folder / "additions.yaml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["additions.yaml", "--runner", "local"]) == 0
    return folder


@pytest.fixture
def report(folder: Path) -> Path:
    return folder / "runs" / "reports" / "additions"


def uri(folder: Path) -> str:
    return f"sqlite:///{folder}/runs/mlflow.db"


def test_additions_are_on_the_command_line(tables: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "rings: two rings of points in a plane" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help", "values"])
    printed = " ".join(capfd.readouterr().out.split())
    for heading, name in (
        ("task", "rings"),
        ("architecture", "narrow"),
        ("control", "small_weights"),
        ("objective", "largest_weight"),
    ):
        assert re.search(rf"{heading}: [^:]*\b{name}\b", printed), heading
    options = parse_options(
        [
            *("quickstart", "--task", "rings", "--architecture", "narrow", "--space.control", "small_weights"),
            *("--objectives", "largest_weight=minimize", "--design", "[]"),
            *("--space.hidden_layers", "1", "--space.target_depth", "1"),
        ]
    )
    assert options is not None
    assert options.spec.objectives == {"largest_weight": "minimize"}
    assert study_command(["layers", "rings", "narrow"]) == 0
    assert re.search(r"1 +hidden1 +64", capfd.readouterr().out)
    with pytest.raises(SystemExit):
        study_command(["layers", "--help"])
    printed = capfd.readouterr().out
    assert "two rings of points in a plane" in printed
    assert "perceptron of one's own" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "ring"}, "did you mean 'rings'"),
        ({"architecture": "narow"}, "did you mean 'narrow'"),
        ({"space": {"control": "small_weight"}}, "did you mean 'small_weights'"),
        ({"objectives": {"largest_wait": "minimize"}}, "did you mean 'largest_weight'"),
    ],
    ids=str,
)
def test_the_name_of_an_addition_is_suggested_for_a_misspelt_one(
    changes: dict[str, Any], message: str, tables: None
) -> None:
    with pytest.raises(StudyError, match=message):
        build_spec({"name": "misspelt", "task": "rings", "trials": 3} | changes, "misspelt")


def test_additions_are_in_the_record(folder: Path) -> None:
    client = MlflowClient(uri(folder))
    experiment = client.get_experiment_by_name("additions")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (study,) = [run for run in runs if run.data.tags["level"] == "study"]
    description = Description.model_validate_json(
        Path(client.download_artifacts(study.info.run_id, Artifact.DESCRIPTION)).read_text()
    )
    (measure,) = [measure for measure in description.measures if measure.name == "largest_weight"]
    assert (measure.label, measure.simpler) == ("largest weight of the head", "lower")
    trials = [run for run in runs if run.data.tags["level"] == "trial"]
    assert {run.data.params["control"] for run in trials} == {"none", "small_weights"}
    for run in trials:
        assert (run.data.tags["task"], run.data.params["architecture"]) == ("rings", "narrow")
        assert len(client.get_metric_history(run.info.run_id, "largest_weight")) == 20
        history = pd.read_parquet(client.download_artifacts(run.info.run_id, Artifact.HISTORY))
        final = history[history["epoch"] == 20]["largest_weight"]
        assert run.data.metrics["largest_weight"] == pytest.approx(final.mean())


def test_additions_are_in_the_search(folder: Path) -> None:
    study = optuna.load_study(study_name="additions", storage=f"sqlite:///{folder}/runs/optuna.db")
    assert study.metric_names == ["val_accuracy", "largest_weight"]
    assert "small_weights" in {trial.user_attrs["control"] for trial in study.trials}
    assert all(len(trial.values) == 2 for trial in study.trials)


def test_additions_are_in_the_tables(folder: Path, report: Path) -> None:
    record = read_record(uri(folder), "additions")
    assert record.replicates["largest_weight"].notna().all()
    trials = pd.read_csv(report / "trials.csv")
    assert {"largest_weight", "largest_weight_se", "largest_weight_ci95"} <= set(trials.columns)
    assert "largest_weight" in set(pd.read_csv(report / "comparisons.csv")["measure"])
    fits = pd.read_csv(report / "fits.csv")
    assert "straight_line" in set(fits["family"])
    assert "largest_weight" in set(fits["measure"])


def test_additions_are_in_the_figures_and_the_report(report: Path) -> None:
    page = (report / "report.html").read_text()
    for text in ("largest_weight", "largest weight of the head", "small_weights", "straight_line", "rings"):
        assert text in page, text
    for name in ("complexity", "tradeoff"):
        assert (report / f"{name}.png").stat().st_size > 10_000
