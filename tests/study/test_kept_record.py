"""Results of an earlier version: its trial keys, and a record that is read, resumed and analysed."""

import json
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from optuna.trial import TrialState

from study.commands.main import main as study_command
from study.commands.run import main
from study.engine.plan import make_plan
from study.record.describe import describe_record
from study.record.outcome import describe_trial
from study.record.reader import RecordReader
from study.record.stores import Stores
from study.spec import build_spec, named_studies, read_study
from tests.kept import CONTROLS, GOING_ON, SEARCH, unpack_kept_record
from trainables import run_experiment
from trainables.tasks import TaskData

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """The stores of the earlier version, for reading only."""
    return Stores.under(unpack_kept_record(tmp_path_factory.mktemp("kept"), GOING_ON).folder)


def test_the_trials_of_all_named_studies_have_their_stored_keys() -> None:
    golden = json.loads((FIXTURES / "trial_keys.json").read_text())
    assert sorted(golden) == named_studies()
    for name, trials in golden.items():
        spec = build_spec(read_study(name), name)
        assert [[describe_trial(config), config.key("0" * 64)] for config in spec.listed()] == trials, name


@pytest.mark.parametrize("study", [SEARCH, CONTROLS])
def test_a_study_of_an_earlier_version_is_complete_and_nothing_of_it_runs_again(
    study: str, stores: Stores, digits: TaskData
) -> None:
    reader = RecordReader(stores, study)
    plan = make_plan(reader.spec(), [digits], reader)
    assert (plan.done, plan.remaining) == (7, 0)


def test_a_search_of_an_earlier_version_goes_on_with_one_more_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = unpack_kept_record(tmp_path, GOING_ON).folder
    stores = Stores.under(folder)
    before = RecordReader(stores, SEARCH).finished()
    spec = RecordReader(stores, SEARCH).spec()
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False))
    monkeypatch.chdir(tmp_path)
    assert main(["again.yaml", "--store", str(folder), "--trials", "8", "--runner", "local"]) == 0
    assert "7 of 8 trials are finished, 1 to run" in capfd.readouterr().out
    after = RecordReader(stores, SEARCH).finished()
    assert len(after) == 8
    assert {key: trial.run_id for key, trial in before.items()}.items() <= {
        key: trial.run_id for key, trial in after.items()
    }.items()
    study = optuna.load_study(study_name=SEARCH, storage=stores.optuna_url)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert {trial.user_attrs["trial_key"] for trial in complete} == set(after)


def test_a_trial_of_an_earlier_version_comes_out_the_same_when_it_is_run_again(
    stores: Stores, digits: TaskData, tmp_path: Path
) -> None:
    reader = RecordReader(stores, CONTROLS)
    config = next(trial for trial in reader.spec().listed() if trial.self_model.aux_weight == 2)
    kept = reader.finished()[config.key(digits.digest())]
    outcome = json.loads(reader.download(kept.run_id, "outcome.json", tmp_path).read_text())
    measurements = run_experiment(config, digits).measurements
    for name, values in outcome["measurements"].items():
        # The standard error over chains had another name.
        now = measurements["rlct_chain_se" if name == "rlct_se" else name]
        # Another processor may round differently, and the difference grows in training.
        np.testing.assert_allclose(now, values, rtol=0.02, atol=1e-6, err_msg=name)


def test_the_rlct_of_an_earlier_versions_checkpoint_is_estimated_again_and_is_the_trials_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = unpack_kept_record(tmp_path, GOING_ON).folder
    monkeypatch.chdir(tmp_path)
    assert study_command(["rlct", "estimate", CONTROLS, "--store", str(folder), "--runner", "local"]) == 0
    printed = capfd.readouterr().out
    assert "0 of 7 estimates are there already, 7 to do." in printed
    assert "Kendall's τ 1.00" in printed


def test_the_description_of_older_records_agrees_with_todays_on_common_names() -> None:
    from analysis.description import undescribed

    today, then = describe_record(), undescribed()
    assert {measure.name for measure in then.measures} <= {measure.name for measure in today.measures}
    usable = {status.name: status.usable for status in today.statuses}
    assert {status.name: status.usable for status in then.statuses}.items() <= usable.items()
    verdicts = {verdict.name: verdict.usable for verdict in today.verdicts}
    assert {verdict.name: verdict.usable for verdict in then.verdicts}.items() <= verdicts.items()
    roles, defaults = ({d.name: getattr(d, of) for d in today.dimensions} for of in ("role", "default"))
    assert {d.name: d.role for d in then.dimensions}.items() <= roles.items()
    # Networks had no defaults then.
    assert {d.name: d.default for d in then.dimensions if d.role != "network"}.items() <= defaults.items()
