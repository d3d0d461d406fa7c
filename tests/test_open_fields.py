"""A field that is added to the configuration of a trial is everywhere, with no other file edited.

The project is copied, one line is added to trainables/config.py in each of two classes, and a study is run that
searches the new fields.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

PROJECT = Path(__file__).parent.parent
ADDED = {
    "class TrainingConfig(Section):": '    warmup: int = Field(0, ge=0, le=100, description="Epochs of warming up.")',
    "class SelfModelConfig(Section):": (
        '    echo: Literal["faint", "loud"] = Field("faint", description="Loudness of the echo.")'
    ),
}
STUDY = """
task: digits
replicates: 2
trials: 6
sampler: random
training: {epochs: 2}
rlct: {draws: 8, chains: 2}
observer: {epochs: 0}
space:
  width: 8
  aux_weight: [0, 1]
  warmup: [0, 3]
  echo: [faint, loud]
design:
  - {aux_weight: [0, 1], warmup: 3, echo: loud}
objectives: {val_accuracy: maximize, weight_std: minimize}
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with two more fields."""
    folder = tmp_path_factory.mktemp("copy")
    for package in ("trainables", "study", "analysis"):
        shutil.copytree(PROJECT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    config = folder / "trainables" / "config.py"
    lines = config.read_text().splitlines()
    for heading, field in ADDED.items():
        begin = lines.index(heading)
        first_field = next(n for n in range(begin, len(lines)) if "Field(" in lines[n])
        lines.insert(first_field, field)
    config.write_text("\n".join(lines) + "\n")
    (folder / "open.yaml").write_text(STUDY)
    return folder


def run(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(copy), "COLUMNS": "160"}
    command = [sys.executable, "study/run.py", *words]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(copy: Path) -> Path:
    """The copy's folder with the results of a study over the new fields."""
    ran = run(copy, "open.yaml", "--runner", "local")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return copy


def test_it_is_in_the_help_with_its_description_and_default(copy: Path) -> None:
    section = " ".join(run(copy, "mnist", "--help", "training").stdout.split())
    assert re.search(r"--training.warmup int Epochs of warming up. \(mnist: 0\)", section)
    space = " ".join(run(copy, "mnist", "--help", "space").stdout.split())
    assert "--space.warmup VALUE|LIST|RANGE Epochs of warming up." in space
    assert re.search(r'--space.echo VALUE\|LIST Loudness of the echo. \(mnist: "faint"\)', space)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space.warmup", "0,101"], r"space.warmup\[1\]: should be less than or equal to 100, got '101'"),
        (["--training.warmup", "-1"], r"training.warmup: should be greater than or equal to 0"),
        (["--space.warmpu", "1"], r"unknown option --space.warmpu; did you mean '--space.warmup'"),
        (["--space.echo", "soft"], r"space.echo: should be 'faint' or 'loud', got 'soft'"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_its_name_and_bounds(copy: Path, words: list[str], message: str) -> None:
    ran = run(copy, "mnist", "--plan", *words)
    assert ran.returncode == 2
    assert re.search(message, ran.stderr), ran.stderr


def test_it_is_fixed_listed_and_searched_in_a_plan(copy: Path) -> None:
    words = ("digits.yaml", "--plan", "--store", "planned")
    (copy / "digits.yaml").write_text("task: digits\nsampler: grid\nspace: {aux_weight: 0}\n")
    assert re.search(r"trials +1,", run(copy, *words, "--training.warmup", "5").stdout)
    assert re.search(r"trials +3,", run(copy, *words, "--space.warmup", "0,5,9").stdout)
    search = ("--sampler", "random", "--trials", "4", "--space.training.warmup", "{low: 0, high: 50, step: 10}")
    planned = " ".join(run(copy, *words, *search).stdout.split())
    assert "warmup 0 to 50, in steps of 10" in planned
    assert "space 6 different trials" in planned
    assert "asked for warmup (0 to 50)" in planned


def test_it_is_in_the_record_of_every_trial(finished: Path) -> None:
    client = MlflowClient(f"sqlite:///{finished}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("open")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.level = 'trial'")
    assert {(run.data.params["warmup"], run.data.params["echo"]) for run in runs} >= {("0", "faint"), ("3", "loud")}


def test_it_is_a_parameter_of_the_search(finished: Path) -> None:
    study = optuna.load_study(study_name="open", storage=f"sqlite:///{finished}/runs/optuna.db")
    trials = [trial for trial in study.trials if trial.values]
    assert {trial.params["warmup"] for trial in trials} == {0, 3}
    # An option of the self-model is chosen only where something is predicted.
    assert {trial.params.get("echo") for trial in trials if trial.params["aux_weight"] == 1} == {"faint", "loud"}
    assert {trial.params.get("echo") for trial in trials if trial.params["aux_weight"] == 0} == {None}


def test_the_analysis_groups_by_it(finished: Path) -> None:
    report = finished / "runs" / "reports" / "open"
    trials: Any = pd.read_csv(report / "trials.csv")
    assert len(trials) == 6
    assert set(trials["warmup"]) == {0, 3}
    assert set(trials["echo"]) == {"faint", "loud"}
    # Each warm-up has a baseline of its own, with which its trials are compared.
    comparisons = pd.read_csv(report / "comparisons.csv")
    compared = comparisons[comparisons["measure"] == "weight_std"]
    baselines = trials[trials["aux_weight"] == 0].set_index("warmup")["weight_std"]
    assert len(compared) == 4
    for warmup in (0, 3):
        of_warmup = compared[compared["trial"].str.contains(f"warmup {warmup}")]
        assert len(of_warmup) == 2
        assert of_warmup["baseline"].tolist() == pytest.approx([baselines[warmup]] * 2)
