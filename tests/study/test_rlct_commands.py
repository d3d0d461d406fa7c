"""`python -m study rlct …` as a user runs it: a real Ray, a real record of networks that were really trained."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from analysis import AnalysisError, read_record
from analysis.__main__ import main as analyse
from study.commands.main import main
from study.record.stores import Stores
from study.record.writer import RecordWriter
from tests.study.conftest import RayCluster
from tests.study.synthetic import DIGEST, falling, runs_of, sweep_spec, write_study
from tests.study.trained import trained_spec, write_trained_study
from trainables.checkpoint import FILE_NAME
from trainables.tasks import TaskData

GRID = ["--step_size", "1e-3,2e-3", "--localization", "30,100", "--draws", "60", "--trials", "5"]


@dataclass
class Story:
    """Five trained trials: calibrated with one damaged checkpoint; then, with it restored, estimated again."""

    stores: Stores
    before: pd.DataFrame  # replicates after the study
    calibrated: tuple[int, str]  # exit code and output
    estimated: tuple[int, str]
    again: tuple[int, str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, digits: TaskData, ray_cluster: RayCluster) -> Story:
    folder = tmp_path_factory.mktemp("trained")
    stores = Stores.under(folder / "runs")
    write_trained_study(stores, trained_spec("small"), digits, folder / "files")
    before = read_record(stores.tracking_uri, "small").replicates

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.MonkeyPatch.context() as patch, (folder / "output").open("w") as output:
            patch.chdir(folder)
            patch.setattr("sys.stdout", output)
            code = main(["rlct", *arguments, "--address", ray_cluster.address])
        return code, (folder / "output").read_text()

    weights = _checkpoint(stores, aux_weight="5.0")
    kept = shutil.copy(weights, folder / "kept")
    weights.write_bytes(weights.read_bytes()[:1000])
    calibrated = run("calibrate", "small", *GRID)
    shutil.copy(kept, weights)
    estimated = run("estimate", "small", "--step_size", "2e-3", "--draws", "60")
    return Story(
        stores, before, calibrated, estimated, run("estimate", "small", "--step_size", "2e-3", "--draws", "60")
    )


def _checkpoint(stores: Stores, aux_weight: str) -> Path:
    (run,) = runs_of(stores, "small", f"tags.level = 'trial' and params.aux_weight = '{aux_weight}'")
    return Path(run.info.artifact_uri.removeprefix("file://")) / "checkpoint" / FILE_NAME


def _key_of(printed: str) -> str:
    return printed.rstrip().splitlines()[-1].split("--rlct ")[1]


def test_a_calibration_judges_every_settings_of_the_grid(story: Story) -> None:
    _, printed = story.calibrated
    table = pd.read_csv(story.stores.report_folder("small") / "rlct-calibration" / "settings.csv")
    assert sorted(zip(table["step_size"], table["localization"], strict=True)) == [
        (1e-3, 30.0),
        (1e-3, 100.0),
        (2e-3, 30.0),
        (2e-3, 100.0),
    ]
    # The study's own settings are the reference, and agree with themselves.
    reference = table[(table["step_size"] == 1e-3) & (table["localization"] == 30.0)].iloc[0]
    assert reference["tau"] == 1.0
    assert (table["networks"] == 8).all()
    assert "of 4 settings are stable." in printed
    assert "Kendall's τ" in printed or "another seed" in printed


def test_a_calibration_leaves_a_page_with_the_grid_of_traces(story: Story) -> None:
    folder = story.stores.report_folder("small") / "rlct-calibration"
    page = (folder / "calibration.html").read_text()
    assert "Thick frame: proposed" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    for name in ("grid.png", "grid.pdf", "order.png", "order.pdf", "estimates.csv"):
        assert (folder / name).stat().st_size > 500, name
    (study,) = runs_of(story.stores, "small", "tags.level = 'study'")
    artifacts = MlflowClient(story.stores.tracking_uri).list_artifacts(study.info.run_id, "rlct-calibration")
    assert "rlct-calibration/calibration.html" in {artifact.path for artifact in artifacts}


def test_a_damaged_checkpoint_fails_its_own_estimates_and_no_others(story: Story) -> None:
    code, printed = story.calibrated
    assert code == 1
    failed = [line for line in printed.splitlines() if "failed" in line]
    assert len(failed) == 5
    assert all("1x16 aux 5 target 1" in line and "is not a readable checkpoint" in line for line in failed)


def test_what_is_estimated_already_is_not_estimated_again(story: Story) -> None:
    code, printed = story.estimated
    assert code == 0, printed
    # The calibration made four of the estimates; the fifth trial's checkpoint is restored.
    assert "4 of 5 estimates are there already, 1 to do." in printed
    code, printed = story.again
    assert code == 0
    assert "5 of 5 estimates are there already, 0 to do." in printed


def test_estimates_stand_beside_the_trials_own_which_stay_as_they_are(story: Story) -> None:
    uri = story.stores.tracking_uri
    pd.testing.assert_frame_equal(read_record(uri, "small").replicates, story.before)
    again = read_record(uri, "small", _key_of(story.estimated[1]))
    assert again.rlct_settings["step_size"] == "0.002"
    assert again.replicates["rlct"].notna().all()
    assert not np.isclose(again.replicates["rlct"], story.before["rlct"]).any()
    other = ["rlct", "rlct_chain_se", "rlct_verdict"]
    pd.testing.assert_frame_equal(again.replicates.drop(columns=other), story.before.drop(columns=other))


def test_an_estimate_is_a_run_of_its_own_under_its_trial(story: Story) -> None:
    key = _key_of(story.estimated[1])
    runs = runs_of(story.stores, "small", f"tags.rlct_settings = '{key}'")
    trials = {run.info.run_id: run for run in runs_of(story.stores, "small", "tags.level = 'trial'")}
    assert len(runs) == 5
    for run in runs:
        trial = trials[run.data.tags["mlflow.parentRunId"]]
        assert run.data.tags["level"] == "estimate"
        assert run.data.tags["trial_key"] == trial.data.tags["trial_key"]
        assert run.data.params["aux_weight"] == trial.data.params["aux_weight"]
        assert (run.data.params["rlct_step_size"], run.data.params["rlct_draws"]) == ("0.002", "60")
        assert {"rlct_verdict", "rlct_reason", "rlct_advice", "git_commit", "version.torch"} <= run.data.tags.keys()
        local = Path(MlflowClient(story.stores.tracking_uri).download_artifacts(run.info.run_id, ""))
        estimate = json.loads((local / "estimate.json").read_text())
        assert run.data.metrics["rlct"] == pytest.approx(np.mean(estimate["rlct"]))
        assert len(pd.read_parquet(local / "rlct" / "trace.parquet")) == 60 * 2 * 2
        assert (local / "rlct" / "trace.png").read_bytes().startswith(b"\x89PNG")


def test_the_estimates_are_compared_with_the_trials_own(story: Story) -> None:
    _, printed = story.estimated
    assert "Order of the trials: Kendall's τ" in printed
    assert printed.count("1x16 aux") >= 5


def test_the_analysis_uses_them_and_keeps_its_own_report(story: Story, tmp_path: Path) -> None:
    root, key = str(story.stores.root), _key_of(story.estimated[1])
    assert analyse(["small", "--store", root, "--rlct", key]) == 0
    page = (story.stores.report_folder("small") / f"rlct-{key}" / "report.html").read_text()
    assert "step_size 0.002" in page
    assert not (story.stores.report_folder("small") / "report.html").exists()
    with pytest.raises(AnalysisError, match=r"with the settings 'nothing'; there are:\n.* step_size 0"):
        read_record(story.stores.tracking_uri, "small", "nothing")


def test_a_plan_estimates_nothing(
    story: Story, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = len(runs_of(story.stores, "small"))
    assert main(["rlct", "estimate", "small", "--store", str(story.stores.root), "--draws", "80", "--plan"]) == 0
    assert "Nothing was estimated" in capfd.readouterr().out
    assert len(runs_of(story.stores, "small")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rlct"], "unknown command 'rlct': did you mean 'rlct calibrate' or 'rlct estimate'?"),
        (["rlct", "calibrat", "small"], "did you mean 'rlct calibrate'?"),
        (["rlct", "estimate", "other"], "has no study 'other'"),
        (["rlct", "estimate", "small", "--draws", "4"], "draws: should be greater than or equal to 8, got '4'"),
        (["rlct", "estimate", "small", "--drafts", "4"], "unknown option --drafts; did you mean '--draws'?"),
        (
            ["rlct", "calibrate", "small", "--localization", "1,-1"],
            "localization: should be greater than or equal to 0",
        ),
        (
            ["rlct", "estimate", "small", "--batch_size", "5000"],
            "rlct.batch_size 5000 exceeds the 1150 training samples",
        ),
    ],
)
def test_a_mistake_is_one_message_before_ray_starts(
    story: Story, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("study.engine.ray_cluster.ray.init", lambda **_: pytest.fail("Ray was started"))
    locations = ["--store", str(story.stores.root)] if len(arguments) > 2 else []
    assert main([*arguments, *locations]) == 2
    printed = capfd.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed


def test_checkpoints_of_other_code_are_refused_with_what_differs(
    story: Story, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainables.checkpoint.code_digest", lambda architecture, network: "f" * 64)
    arguments = ["--store", str(story.stores.root), "--seed", "5", "--runner", "local"]
    assert main(["rlct", "estimate", "small", *arguments]) == 2
    assert "does not fit the code and data here (code of the network: " in capfd.readouterr().err


def test_a_study_of_other_data_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stores = Stores.under(tmp_path / "runs")
    spec = sweep_spec(weights=(0,), replicates=1)
    write_study(stores, spec, falling, tmp_path / "files")
    assert RecordWriter(stores, "made-up").spec() == spec
    assert main(["rlct", "estimate", "made-up", "--store", str(stores.root)]) == 2
    assert f"data_digest: '{DIGEST}' then" in capfd.readouterr().err
