"""Further estimates and named protocols of the rlct, from a study file to its record and report."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run

from analysis import StudyRecord, read_record
from study.commands.main import main as study_command
from study.commands.run import main
from study.errors import StudyError
from study.record.reader import RecordReader
from study.record.stores import Stores
from study.spec import build_spec
from tests.study.synthetic import runs_of
from trainables import RlctConfig
from trainables.tasks import get_task

SPEC = """
question: Which layer becomes simpler?
task: digits
replicates: 2
sampler: grid
space: {hidden_layers: 1, width: 12, aux_weight: [0, 2], target_depth: 1}
training: {epochs: 30}
rlct: {draws: 300, with_balanced: true, with_layers: true, with_epochs: 10+30}
observer: {epochs: 0}
"""
FURTHER = ("rlct_balanced", "rlct_of_hidden1", "rlct_of_head")


@dataclass
class Recorded:
    """The study, in its folder."""

    folder: Path
    stores: Stores

    @property
    def record(self) -> StudyRecord:
        return read_record(self.stores.tracking_uri, "layers")

    def runs(self, level: str) -> list[Run]:
        return runs_of(self.stores, "layers", f"tags.level = '{level}'")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("layers")
    (folder / "layers.yaml").write_text(SPEC)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["layers.yaml", "--runner", "local"]) == 0
    return Recorded(folder, Stores.under(folder / "runs"))


def test_trials_and_replicates_have_every_estimate_with_its_verdict(recorded: Recorded) -> None:
    for run in recorded.runs("replicate"):
        for name in FURTHER:
            verdict = run.data.tags[f"{name}_verdict"]
            assert run.data.tags[f"{name}_reason"]
            assert run.data.metrics[f"{name}_chain_se"] > 0
            assert (name in run.data.metrics) == (verdict in ("sound", "drifting", "chains_disagree")), name
        assert run.data.tags["rlct_verdict"]
    for run in recorded.runs("trial"):
        assert {f"{name}_verdict" for name in FURTHER} < set(run.data.tags)


def test_an_estimate_that_goes_far_from_the_trained_weights_has_a_caveat(recorded: Recorded) -> None:
    for run in recorded.runs("replicate"):
        assert (run.data.metrics["rlct_relative_distance"] > 1) == (run.data.tags.get("rlct_caveats") == "not_local")


def test_estimates_in_training_are_points_of_the_trials_curve(recorded: Recorded) -> None:
    for trial in RecordReader(recorded.stores, "layers").finished().values():
        folder = recorded.folder / trial.run_id
        folder.mkdir()
        history = pd.read_parquet(
            RecordReader(recorded.stores, "layers").download(trial.run_id, "history.parquet", folder)
        )
        # Others may have a verdict that is not usable.
        assert set(history.loc[history["rlct_in_training"].notna(), "epoch"]) <= {10, 30}
        assert {30} <= set(history.loc[history["rlct_in_training"].notna(), "epoch"])


def test_the_analysis_compares_them_as_any_measure(recorded: Recorded) -> None:
    record = recorded.record
    assert set(FURTHER) < set(record.measures)
    assert "rlct_balanced" in record.complexities
    assert record.label_of("rlct_of_hidden1") == "rlct of hidden1"
    page = (recorded.folder / "runs" / "reports" / "layers" / "report.html").read_text()
    assert "it tends to the real log canonical threshold as nβ grows" in page
    assert "rlct of the balanced network" in page
    caveats = sum("rlct_caveats" in run.data.tags for run in recorded.runs("trial"))
    assert ("not_local (" in page) == (caveats > 0)
    assert not caveats or f"not_local ({caveats} of 2 trials): The chains went further" in page


def test_further_replicates_get_further_estimates_too(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {run.data.tags["trial_key"]: run.data.metrics for run in recorded.runs("trial")}
    monkeypatch.chdir(recorded.folder)
    assert main(["layers.yaml", "--runner", "local", "--replicates", "3"]) == 0
    reader = RecordReader(recorded.stores, "layers")
    assert reader.finished().keys() == before.keys()
    for trial in reader.finished().values():
        outcome = reader.outcome(trial)
        assert outcome is not None
        assert tuple(outcome.further_rlcts) == FURTHER
        for name, estimate in outcome.further_rlcts.items():
            assert len(estimate.verdicts) == len(estimate.per_chain) == len(estimate.caveats) == 3
            usable = np.array(outcome.measurements[name])
            np.testing.assert_allclose(usable[np.isfinite(usable)], np.array(estimate.estimates)[np.isfinite(usable)])


def test_estimates_are_made_again_by_the_local_protocol(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(recorded.folder)
    command = ["rlct", "estimate", "layers", "--protocol", "local", "--draws", "20", "--runner", "local"]
    assert study_command(command) == 0
    assert "2 to do" in capfd.readouterr().out
    local = get_task("digits").recipe.rlct_settings("local").model_copy(update={"draws": 20})
    for run in recorded.runs("estimate"):
        assert run.data.tags["rlct_settings"] == local.key()
        assert (run.data.params["rlct_nbeta"], run.data.params["rlct_localization"]) == ("dataset", "200.0")
        assert run.data.metrics["rlct"] != 0


def spec_of(rlct: object, task: object = "mnist") -> RlctConfig:
    space = {"hidden_layers": 1, "width": 8, "aux_weight": [0, 1]}
    return build_spec(
        {"name": "made-up", "task": task, "sampler": "grid", "space": space, "rlct": rlct}, "made-up"
    ).rlct


def test_a_study_may_name_the_protocol_and_change_some_of_it() -> None:
    local = get_task("mnist").recipe.local_rlct
    assert local is not None
    assert spec_of({"protocol": "local"}) == local
    assert spec_of({"protocol": "local", "draws": 50}) == local.model_copy(update={"draws": 50})
    assert spec_of({"protocol": "published"}) == spec_of({}) == get_task("mnist").recipe.rlct


def test_by_the_published_protocol_each_of_several_tasks_has_its_own_recipe() -> None:
    space = {"hidden_layers": 1, "width": 8, "aux_weight": [0, 1]}
    raw = {"task": ["digits", "mnist"], "sampler": "grid", "space": space, "rlct": {"protocol": "published"}}
    spec = build_spec(raw | {"name": "made-up"}, "made-up")
    for task in ("digits", "mnist"):
        assert spec.rlct_of(task) == get_task(task).recipe.rlct


@pytest.mark.parametrize(
    ("rlct", "task", "message"),
    [
        ({"protocol": "global"}, "mnist", "no rlct settings 'global'; it has published, local"),
        ({"protocol": "local"}, "imdb", "no rlct settings 'local'; it has published"),
        ({"protocol": "local"}, ["digits", "mnist"], "rlct.protocol: its settings differ between tasks"),
    ],
)
def test_a_protocol_that_there_is_not_is_one_error(rlct: object, task: object, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        spec_of(rlct, task)


@pytest.mark.parametrize(
    ("objective", "field"),
    [
        ("rlct_balanced", "rlct.with_balanced"),
        ("rlct_of_hidden1", "rlct.with_layers"),
        ("rlct_in_training", "rlct.with_epochs"),
    ],
)
def test_an_objective_that_no_trial_would_have_is_refused(objective: str, field: str) -> None:
    raw = {"name": "made-up", "task": "digits", "sampler": "grid", "objectives": {objective: "minimize"}}
    raw |= {"space": {"hidden_layers": 1, "width": 8, "aux_weight": [0, 1]}}
    with pytest.raises(StudyError, match=f"objectives: {objective} is measured only where {field} asks for it"):
        build_spec(raw, "made-up")
    asked = {field.partition(".")[2]: "1" if field.endswith("epochs") else True}
    assert build_spec(raw | {"rlct": asked}, "made-up").objectives == {objective: "minimize"}
