"""A search whose trials are stopped early: its record, Optuna's study, the analysis, and after interruptions."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from analysis import read_record, write_report
from analysis.comparison import compare_with_baseline
from analysis.fits import fit_curve
from analysis.joined import join_records
from analysis.pareto import as_optuna_study, pareto_optimal
from analysis.sweeps import find_sweeps
from study.commands.main import main as study_command
from study.commands.run import main as run_command
from study.engine.execute import Execution, execute
from study.engine.plan import make_plan
from study.engine.resources import Resources
from study.engine.rivals import Rivals
from study.engine.runner import RunTrial
from study.engine.runners import make_runner
from study.record.outcome import Outcome, epochs_of
from study.record.overview import overview
from study.record.reader import FinishedTrial, RecordReader
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.search.stopping import Direction, is_dominated
from study.spec import StudySpec, build_spec
from tests.study.conftest import RayCluster
from tests.study.synthetic import runs_of
from tests.study.test_runners import Heard
from trainables.outcomes import STATUSES, STOPPED_EARLY
from trainables.tasks import TaskData

# Small learning rates learn next to nothing in so few epochs.
STUDY: dict[str, Any] = {
    "name": "early",
    "question": "Which learning rates are worth it?",
    "task": "digits",
    "trials": 8,
    "replicates": 3,
    "sampler": {"name": "tpe", "n_startup_trials": 4},
    "space": {
        "hidden_layers": 1,
        "width": 8,
        "aux_weight": {"low": 0.1, "high": 20},
        "target_depth": 1,
        "learning_rate": [0.0001, 0.001, 0.01, 0.03],
    },
    # The first learns nothing, and runs to its end all the same: it is listed.
    "design": [{"aux_weight": 0, "learning_rate": [0.03, 0.0001]}],
    "objectives": {"val_accuracy": "maximize", "train_loss": "minimize"},
    "training": {"epochs": 5},
    "rlct": {"draws": 10, "chains": 2, "batch_size": 32},
    "observer": {"epochs": 0},
    "stopping": {"rule": "dominated", "from_epoch": 2},
}
WILCOXON: dict[str, Any] = {
    "trials": 4,
    "replicates": 4,
    "objectives": {"train_loss": "minimize"},
    "sampler": "random",
    "stopping": {"rule": "wilcoxon", "from_epoch": 3},
}


class Story(NamedTuple):
    """A study and its record."""

    spec: StudySpec
    stores: Stores

    @property
    def finished(self) -> dict[str, FinishedTrial]:
        return RecordReader(self.stores, self.spec.name).finished()

    @property
    def stopped(self) -> dict[str, FinishedTrial]:
        return {key: trial for key, trial in self.finished.items() if trial.status == STOPPED_EARLY}

    @property
    def endings(self) -> dict[int | None, tuple[str, str, str, float]]:
        """Key, status, reason and last training loss of every trial, by its place."""
        return {
            trial.place: (key, trial.status, trial.reason, trial.metrics["train_loss"])
            for key, trial in self.finished.items()
        }

    def run(self, data: TaskData, watcher: Heard | None = None, **resources: Any) -> Execution:
        """Run it as a command does."""
        record = RecordWriter(self.stores, self.spec.name)
        plan = make_plan(self.spec, [data], record)
        kind = "ray" if resources else "local"
        runner = make_runner(kind, Resources(**resources), self.stores, self.spec.name)
        return execute(plan, record, runner, watcher or Heard())

    def optuna_trials(self) -> dict[str, FrozenTrial]:
        """The trials of Optuna's stored study by key, without those that have no result."""
        trials = optuna.load_study(study_name=self.spec.name, storage=self.stores.optuna_url).trials
        trials = [trial for trial in trials if trial.state != TrialState.FAIL]
        by_key = {trial.user_attrs["trial_key"]: trial for trial in trials}
        assert len(by_key) == len(trials)
        return by_key

    def run_of(self, key: str) -> Run:
        """The trial's run."""
        (run,) = runs_of(self.stores, self.spec.name, f"tags.level = 'trial' and tags.trial_key = '{key}'")
        return run


def story(stores: Stores, name: str = "early", **changes: Any) -> Story:
    return Story(build_spec(STUDY | {"name": name} | changes, name), stores)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """One store for all studies: to make its tables takes seconds."""
    return Stores.under(tmp_path_factory.mktemp("runs"))


def history_of(told: Story, trial: FinishedTrial) -> list[dict[str, list[float]]]:
    """A trial's measures of every epoch, from the record."""
    file = MlflowClient(told.stores.tracking_uri).download_artifacts(trial.run_id, "history.parquet")
    return epochs_of(pd.read_parquet(file))


@pytest.fixture(scope="module")
def told(digits: TaskData, stores: Stores) -> Story:
    """A study that ran undisturbed."""
    told = story(stores)
    assert told.run(digits) == Execution(finished=8, failed=0, interrupted=False)
    return told


def test_bad_trials_are_stopped_and_the_listed_ones_are_not(told: Story) -> None:
    assert 2 <= len(told.stopped) <= 5
    assert [trial.status for trial in told.finished.values() if trial.place in (0, 1)] == ["ok", "collapsed"]


def test_the_record_has_a_stopped_trial_as_far_as_it_came_and_names_the_better_one(told: Story) -> None:
    client = MlflowClient(told.stores.tracking_uri)
    for key, trial in told.stopped.items():
        run = told.run_of(key)
        found = re.fullmatch(r"dominated at epoch (\d+) by trial (\w{8})", run.data.tags["reason"])
        assert found is not None
        epoch = int(found[1])
        (better,) = [each for other, each in told.finished.items() if other.startswith(found[2])]
        assert better.status == "ok"
        assert better.place is not None
        assert trial.place is not None
        assert better.place < trial.place
        names: dict[str, Direction] = {"val_accuracy": "maximize", "train_loss": "minimize"}
        ours, theirs = (history_of(told, each) for each in (trial, better))
        dominated = [is_dominated(a, b, names, 2.58) for a, b in zip(ours, theirs, strict=False)]
        assert dominated[-1]
        assert not any(dominated[1:-1]), "it is stopped at the first such epoch"
        assert run.info.status == "FINISHED"
        assert run.data.tags["status_detail"] == "stopped_early"
        assert run.data.tags["rlct_verdict"] == "not_estimated"
        assert not {"rlct", "observer_r2", "rlct_se"} & run.data.metrics.keys()
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "val_accuracy")]
        assert sorted(steps) == list(range(1, epoch + 1))
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert files == {"history.parquet", "outcome.json"}
        replicates = runs_of(told.stores, "early", f"tags.level = 'replicate' and tags.trial_key = '{key}'")
        assert len(replicates) == 3
        assert {each.data.tags["status_detail"] for each in replicates} == {"stopped_early"}
        outcome = RecordReader(told.stores, "early").outcome(trial)
        assert outcome is not None
        assert outcome.rlct is None
        assert outcome.measurements["epochs_trained"] == [epoch] * 3


def test_optuna_has_it_as_pruned_with_its_attributes_and_a_study_built_again_is_equal(
    told: Story, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = told.optuna_trials()
    assert {key for key, trial in before.items() if trial.state == TrialState.PRUNED} == set(told.stopped)
    for key in told.stopped:
        trial = before[key]
        assert trial.values is None
        assert trial.user_attrs["status_detail"] == "stopped_early"
        assert trial.user_attrs["reason"] == told.finished[key].reason
        assert trial.user_attrs["val_accuracy"] == pytest.approx(told.finished[key].metrics["val_accuracy"], rel=1e-12)
        assert trial.constraints["learned"] > 0, "no sampler takes it for good"
        assert "learning_rate" in trial.params
    anew = f"sqlite:///{tmp_path / 'anew.db'}"
    store = str(told.stores.root)
    assert study_command(["optuna", "rebuild", "early", "--store", store, "--optuna-storage", anew]) == 0
    assert "rebuilt: 8 finished trials, 0 failed" in capfd.readouterr().out
    rebuilt = optuna.load_study(study_name="early", storage=anew).trials
    assert {trial.user_attrs["trial_key"] for trial in rebuilt} == before.keys()
    for trial in rebuilt:
        stored = before[trial.user_attrs["trial_key"]]
        assert trial.state == stored.state
        assert trial.params == stored.params
        assert trial.constraints == stored.constraints
        assert trial.user_attrs.keys() == stored.user_attrs.keys()
        for name, value in trial.user_attrs.items():
            # The record may round the last digit.
            expected = stored.user_attrs[name]
            assert value == (pytest.approx(expected, rel=1e-12) if isinstance(expected, float) else expected), name


def test_it_is_on_no_front_in_no_curve_and_in_no_comparison(told: Story, tmp_path: Path) -> None:
    record = read_record(told.stores.tracking_uri, "early")
    trials = record.trials.set_index("trial_key")
    assert set(trials.index) == set(told.finished), "it is listed"
    assert trials.loc[list(told.stopped), record.measures].isna().all(axis=None)
    front = as_optuna_study(record)
    assert not {trial.user_attrs["trial_key"] for trial in front.trials} & told.stopped.keys()
    assert pareto_optimal(front)
    for sweep in find_sweeps(record):
        assert not set(sweep.included("weight_std")["trial_key"]) & told.stopped.keys()
        fit_curve(sweep, "weight_std")
    compared = compare_with_baseline(record)
    assert not set(compared["status_detail"]) & {STOPPED_EARLY}
    page = write_report(record, tmp_path, "the command").page.read_text()
    assert f"{len(told.stopped)} stopped early" in page
    assert f"<li>{STOPPED_EARLY}: {STATUSES[STOPPED_EARLY].meaning}</li>" in page


def test_a_trial_that_another_study_has_trained_to_its_end_counts_as_there(told: Story) -> None:
    record = read_record(told.stores.tracking_uri, "early")
    stopped = record.replicates["status_detail"] == STOPPED_EARLY
    values = record.replicates["weight_std"].where(~stopped, 0.25)
    other = replace(
        record,
        study="other",
        replicates=record.replicates.assign(study="other", status_detail="ok", weight_std=values),
        trials=record.trials.assign(status_detail="ok"),
    )
    for records in ([record, other], [other, record]):
        trials = join_records(records).trials.set_index("trial_key")
        assert set(trials.loc[list(told.stopped), "status_detail"]) == {"ok"}
        assert set(trials.loc[list(told.stopped), "weight_std"]) == {0.25}
    alone = join_records([record, replace(record, study="again", replicates=record.replicates.assign(study="again"))])
    assert set(alone.trials.set_index("trial_key").loc[list(told.stopped), "status_detail"]) == {STOPPED_EARLY}


def test_the_same_command_runs_nothing_and_status_counts_the_stopped_ones(
    told: Story, digits: TaskData, capfd: pytest.CaptureFixture[str]
) -> None:
    heard = Heard()
    assert told.run(digits, heard) == Execution(finished=0, failed=0, interrupted=False)
    assert heard.events == []
    counts = overview(RecordReader(told.stores, "early")).trials
    assert (counts.total, counts.finished, counts.stopped_early, counts.to_run) == (8, 8, len(told.stopped), 0)
    assert study_command(["status", "early", "--store", str(told.stores.root)]) == 0
    assert f"8 of 8 finished ({len(told.stopped)} stopped early), 0 failed" in capfd.readouterr().out
    place = next(trial.place for trial in told.stopped.values())
    assert place is not None
    assert study_command(["why", "early", str(place + 1), "--store", str(told.stores.root)]) == 0
    assert ": dominated at epoch" in capfd.readouterr().out


def test_after_interruptions_the_same_trials_are_stopped(told: Story, digits: TaskData) -> None:
    class Interrupting(Heard):
        """Ends the study at the eighth event, in the middle of a trial or after one."""

        def advanced(self, trial: RunTrial, stage: str) -> None:
            super().advanced(trial, stage)
            self._interrupt()

        def finished(self, trial: RunTrial, outcome: Outcome) -> None:
            super().finished(trial, outcome)
            self._interrupt()

        def _interrupt(self) -> None:
            if len(self.events) >= 8:
                raise KeyboardInterrupt

    disturbed, times = story(told.stores, "disturbed"), 0
    while disturbed.run(digits, Interrupting()).interrupted:
        times += 1
        optuna.delete_study(study_name="disturbed", storage=told.stores.optuna_url)
    assert times >= 2
    assert disturbed.endings == told.endings


def test_with_wilcoxons_test_trials_are_stopped_that_are_worse_than_the_best(digits: TaskData, stores: Stores) -> None:
    told = story(stores, "paired", **WILCOXON)
    told.run(digits)
    assert told.stopped
    best = min((trial for trial in told.finished.values() if trial.status == "ok"), key=lambda each: each.ended)
    keys = {trial.run_id: key for key, trial in told.finished.items()}
    reasons = {trial.reason for trial in told.stopped.values()}
    assert reasons == {f"worse by Wilcoxon's test at epoch 3 than trial {keys[best.run_id][:8]}"}


def test_with_the_rule_changed_or_removed_the_stopped_trials_run_again_in_the_place_of_the_former(
    digits: TaskData, stores: Stores
) -> None:
    first = story(stores, "changed", trials=4, sampler="random")
    first.run(digits)
    places, stopped = {trial.place: key for key, trial in first.finished.items()}, first.stopped
    assert stopped
    without = story(stores, "changed", trials=4, sampler="random", stopping=None)
    assert without.run(digits) == Execution(finished=len(stopped), failed=0, interrupted=False)
    assert not without.stopped
    assert all(math.isfinite(trial.metrics["rlct"]) for trial in without.finished.values())
    assert {trial.place: key for key, trial in without.finished.items()} == places
    assert len(runs_of(without.stores, "changed", "tags.level = 'trial'")) == 4
    assert {trial.state for trial in without.optuna_trials().values()} == {TrialState.COMPLETE}
    assert without.optuna_trials().keys() == without.finished.keys()


@pytest.mark.parametrize("damage", ["deleted", "damaged"])
def test_nothing_is_compared_with_a_trial_whose_history_the_record_has_lost(
    damage: str, told: Story, tmp_path: Path
) -> None:
    record = RecordReader(told.stores, "early")
    key = next(key for key, trial in told.finished.items() if trial.status == "ok")
    rivals = Rivals(told.spec, record, told.finished)
    assert rivals.lacks([key])
    rivals.fetch([key])
    assert not rivals.lacks([key])
    whole = rivals.rule([key])
    assert whole is not None
    assert len(whole.rivals[0].epochs) == 5

    class Damaged(RecordReader):
        def has_artifact(self, run_id: str, artifact: str) -> bool:
            return damage != "deleted"

        def download(self, run_id: str, artifact: str, folder: Path) -> Path:
            (folder / artifact).write_bytes(b"no table")
            return folder / artifact

    rivals = Rivals(told.spec, Damaged(told.stores, "early"), told.finished)
    rivals.fetch([key])
    rule = rivals.rule([key])
    assert rule is not None
    nothing_learned = {"val_accuracy": [0.1, 0.1, 0.1], "train_loss": [9.0, 9.1, 9.2]}
    assert rule.reason(3, told.spec.seeds, nothing_learned) is None
    assert whole.reason(3, told.spec.seeds, nothing_learned) is not None


def test_the_plan_says_which_objectives_are_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    objectives = {"val_accuracy": "maximize", "rlct": "minimize"}
    (tmp_path / "early.yaml").write_text(str(STUDY | {"objectives": objectives}))
    assert run_command([str(tmp_path / "early.yaml"), "--plan", "--store", str(tmp_path / "runs")]) == 0
    output = " ".join(capfd.readouterr().out.split())
    assert "stopped early from epoch 2 on, where another trial is better in val_accuracy by more than 2.58" in output
    assert "not compared, as it is measured at the end alone: rlct" in output


def test_a_stopped_trial_gets_no_further_replicates(told: Story, digits: TaskData) -> None:
    more = make_plan(told.spec.model_copy(update={"replicates": 4}), [digits], RecordReader(told.stores, "early"))
    assert {growth.key for growth in more.growing} == told.finished.keys() - told.stopped.keys()


@pytest.mark.services
def test_on_ray_with_two_workers_the_same_trials_are_stopped_whatever_ends_first(
    digits: TaskData, ray_cluster: RayCluster, stores: Stores
) -> None:
    stories = [story(stores, name) for name in ("first", "second")]
    for each in stories:
        execution = each.run(digits, address=ray_cluster.address, concurrent=2)
        assert execution == Execution(finished=8, failed=0, interrupted=False)
        assert {key for key, trial in each.optuna_trials().items() if trial.state == TrialState.PRUNED} == set(
            each.stopped
        )
    first, second = stories
    assert len(first.stopped) >= 2
    assert first.endings == second.endings
