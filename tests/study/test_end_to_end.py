"""Whole studies as a user runs them: the command line, a real Ray, SQLite stores, real (small) data."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from rich.console import Console

from study.commands.run import main
from study.commands.views.progress import StudyProgress
from study.engine.execute import Execution, execute
from study.engine.plan import make_plan
from study.engine.resources import Resources
from study.engine.runner import Runner, StudyData
from study.engine.runners import RUNNERS, make_runner
from study.errors import StudyError
from study.record.reader import RecordReader
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.spec import build_spec, read_study
from tests.study.conftest import RayCluster
from trainables.checkpoint import load_checkpoint
from trainables.measures import epoch_measures
from trainables.tasks import TaskData

RUN = Path(__file__).parents[2] / "study" / "run.py"
STUDY = """
question: Does it run?
task: digits
replicates: 2
trials: {trials}
sampler: random
space:
  hidden_layers: {{low: 1, high: 2}}
  width: 8
  aux_weight: {{low: 0.1, high: 10}}
  target_depth: any
design:
  - {{hidden_layers: 1, aux_weight: [0, 1, 2, 5, 10], target_depth: 1}}
training: {{epochs: {epochs}}}
rlct: {{draws: 10, chains: 2, batch_size: 32}}
observer: {{epochs: 1, width: 8}}
"""
TRIALS, EPOCHS = 8, 12


class Ran(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


@dataclass
class Folder:
    """A working directory with only a study file and the entry point, and the results of running it in ./runs."""

    path: Path

    def write(self) -> None:
        (self.path / "small.yaml").write_text(STUDY.format(trials=TRIALS, epochs=EPOCHS))
        shutil.copy(RUN, self.path / "run.py")

    def run(self, *arguments: str) -> Ran:
        done = subprocess.run(self._command(*arguments), cwd=self.path, capture_output=True, text=True, timeout=300)
        return Ran(done.returncode, done.stdout, done.stderr)

    def run_and_kill(self, *arguments: str, at: str) -> int:
        """Run until a line of output begins like this, then kill the study and Ray, as if the machine died."""
        process = subprocess.Popen(
            self._command(*arguments),
            cwd=self.path,
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(at):
                break
        else:
            pytest.fail(f"no line began with {at!r}")
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.read()
        return process.wait(timeout=60)

    def run_here(self, *arguments: str, interrupt_at: str | None = None) -> Ran:
        """Run the study in this process, and press Ctrl-C when a line begins like this."""
        files = [self.path / "stdout", self.path / "stderr"]
        with ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.chdir(self.path)
            for file in files:
                patch.setattr(sys, file.name, stack.enter_context(file.open("w")))
            if interrupt_at is not None:
                stack.enter_context(ctrl_c_when(files[0], interrupt_at))
            code = main(["small.yaml", *arguments])
        return Ran(code, *(file.read_text() for file in files))

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "run.py", "small.yaml", *arguments]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.path}/runs/mlflow.db")

    def runs(self, condition: str) -> list[Run]:
        experiment = self.client.get_experiment_by_name("small")
        assert experiment is not None
        return list(self.client.search_runs([experiment.experiment_id], condition))

    def finished(self) -> dict[str, str]:
        """Trial key to run id of the finished trials."""
        runs = self.runs("tags.level = 'trial' and attributes.status = 'FINISHED'")
        assert len({run.data.tags["trial_key"] for run in runs}) == len(runs)
        return {run.data.tags["trial_key"]: run.info.run_id for run in runs}

    def optuna_study(self) -> optuna.Study:
        return optuna.load_study(study_name="small", storage=f"sqlite:///{self.path}/runs/optuna.db")


@contextmanager
def ctrl_c_when(file: Path, line_start: str) -> Iterator[None]:
    """Interrupt this process's main thread, as a terminal would, when a line of the file begins like this."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if any(line.startswith(line_start) for line in file.read_text().splitlines()):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@dataclass
class Story:
    """A study of TRIALS trials: planned, killed after 2, interrupted after 1 more, run to its end."""

    folder: Folder
    planned: str
    killed: int
    interrupted: Ran
    finished_after: tuple[dict[str, str], dict[str, str]]  # the kill, and the interrupt
    open_after_interrupt: int
    at_last: Ran


def runner_of(kind: str, stores: Stores, study: str, ray_cluster: RayCluster) -> Runner:
    """A runner of this kind, one trial at a time; Ray's runner uses the shared cluster."""
    address = ray_cluster.address if kind == "ray" else None
    return make_runner(kind, Resources(address, concurrent=1), stores, study)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, ray_cluster: RayCluster) -> Story:
    folder = Folder(tmp_path_factory.mktemp("story"))
    folder.write()
    planned = folder.run_here("--plan")
    assert planned.code == 0, planned.err
    assert not (folder.path / "runs").exists(), "a plan leaves nothing behind"
    one_by_one = ("--concurrent", "1")
    killed = folder.run_and_kill(*one_by_one, at=f"[2/{TRIALS}")
    after_kill = folder.finished()
    interrupted = folder.run_here("--address", ray_cluster.address, *one_by_one, interrupt_at="[1/")
    after_interrupt, still_open = folder.finished(), len(folder.runs("attributes.status = 'RUNNING'"))
    # Another driver, with another Ray.
    done = folder.run()
    assert done.code == 0, done.out + done.err
    return Story(folder, planned.out, killed, interrupted, (after_kill, after_interrupt), still_open, done)


def test_the_plan_says_what_would_run(story: Story) -> None:
    lines = [" ".join(line.split()) for line in story.planned.splitlines()]
    for expected in (
        "task digits: 1,150 training, 287 validation, 360 test samples",
        "trials 8: 5 design points, then sampler random",
        "replicates 2 per trial, 16 networks",
        "epochs 12 per network, 192 in all",
        "done already 0 trials",
        "to run 8 trials",
        "Nothing was run. Leave out --plan to run it.",
    ):
        assert expected in lines
    assert re.search(r"estimated time +\d+ (s|min)", story.planned)


def test_a_killed_and_an_interrupted_study_go_on_where_they_were(story: Story) -> None:
    folder, (after_kill, after_interrupt) = story.folder, story.finished_after
    assert (story.killed, story.interrupted.code) == (-signal.SIGKILL, 130)
    assert 2 <= len(after_kill) < len(after_interrupt) < TRIALS
    assert story.open_after_interrupt == 0
    finished = folder.finished()
    assert len(finished) == TRIALS
    # Finished trials did not run again and were not changed.
    assert after_kill.items() <= after_interrupt.items() <= finished.items()
    assert folder.runs("attributes.status = 'RUNNING'") == []
    assert TrialState.RUNNING not in [trial.state for trial in folder.optuna_study().trials]
    replicates = folder.runs("tags.level = 'replicate'")
    parents = [run.data.tags["mlflow.parentRunId"] for run in replicates]
    assert [parents.count(run_id) for run_id in finished.values()] == [2] * TRIALS


def test_an_interrupt_is_no_error_and_says_how_to_go_on(story: Story) -> None:
    assert re.search(
        r"Interrupted\. Everything finished is kept; the same command does the rest: python study/run.py small.yaml",
        " ".join(story.interrupted.out.split()),
    )
    assert story.interrupted.err == ""


def test_a_run_shows_progress_then_a_summary_locations_and_the_next_commands(story: Story) -> None:
    printed = story.at_last.out
    done = len(story.finished_after[1])
    remaining = TRIALS - done
    assert f"{done} of {TRIALS} trials are finished, {remaining} to run, 2 replicates each" in printed
    progress = re.findall(
        rf"^\[\d/{remaining}, \d running, 0 failed, .*\] \dx8 aux .*: val_accuracy .*; best so far: val_",
        printed,
        re.MULTILINE,
    )
    assert len(progress) == remaining
    assert f"{TRIALS} trials; on the Pareto front" in printed
    for expected in (
        "runs/reports/small/report.html",
        "runs/mlflow.db",
        "sqlite:///runs/optuna.db",
        "runs/ray/small",
        "mlflow ui --backend-store-uri sqlite:///runs/mlflow.db",
        "optuna-dashboard sqlite:///runs/optuna.db",
        "-m analysis small",
    ):
        assert expected in printed, expected


def test_rays_chatter_is_in_the_log_alone(story: Story) -> None:
    folder, printed = story.folder, story.at_last.out
    assert story.at_last.err == ""
    log = (folder.path / "runs" / "ray" / "small" / "ray.log").read_text()
    assert "Configuration for experiment" in log
    assert not re.search(r"\(pid=|raylet|INFO|WARNING|SearchGenerator", printed)


def test_every_trial_leaves_its_artifacts(story: Story) -> None:
    folder = story.folder
    assert len(folder.finished()) == TRIALS
    for key, run_id in folder.finished().items():
        local = Path(folder.client.download_artifacts(run_id, ""))
        history = pd.read_parquet(local / "history.parquet")
        assert len(history) == EPOCHS * 2
        names = {measure.name for measure in epoch_measures() if not measure.per_layer}
        assert {"epoch", "replicate", "seed"} | names <= set(history.columns)
        trace = pd.read_parquet(local / "rlct" / "trace.parquet")
        assert len(trace) == 10 * 2 * 2
        assert trace["kept"].sum() == len(trace) / 2
        assert (local / "rlct" / "trace.png").read_bytes().startswith(b"\x89PNG")
        checkpoint = load_checkpoint(local / "checkpoint" / "weights.safetensors")
        assert checkpoint.config.key(checkpoint.data_digest) == key
        run = folder.client.get_run(run_id)
        final = history[history["epoch"] == EPOCHS]
        assert run.data.metrics["weight_std"] == pytest.approx(final["weight_std"].mean())
        # The value measured in training equals that of the weights in the checkpoint.
        head = checkpoint.network.head.weight.detach().numpy()[:, :10].reshape(2, -1)
        np.testing.assert_allclose(head.std(axis=1, ddof=1), final["weight_std"], rtol=1e-5)
        steps = [metric.step for metric in folder.client.get_metric_history(run_id, "val_accuracy")]
        assert steps == list(range(1, EPOCHS + 1))


def test_mlflow_and_optuna_tell_the_same_story(story: Story) -> None:
    folder = story.folder
    complete = folder.optuna_study().get_trials(states=(TrialState.COMPLETE,))
    assert {trial.user_attrs["trial_key"] for trial in complete} == set(folder.finished())
    for trial in complete:
        metrics = folder.client.get_run(folder.finished()[trial.user_attrs["trial_key"]]).data.metrics
        assert trial.values == pytest.approx([metrics["val_accuracy"], metrics["weight_std"], metrics["rlct"]])


def test_the_study_run_holds_the_spec_and_the_report(story: Story) -> None:
    folder = story.folder
    (study,) = folder.runs("tags.level = 'study'")
    assert study.info.status == "FINISHED"
    local = Path(folder.client.download_artifacts(study.info.run_id, ""))
    assert (local / "report" / "report.html").stat().st_size > 10_000
    assert "hidden_layers" in (local / "spec.yaml").read_text()


def test_the_resolved_spec_is_a_study_file_for_the_same_trials(story: Story, digits: TaskData) -> None:
    folder = story.folder
    (study,) = folder.runs("tags.level = 'study'")
    spec_file = Path(folder.client.download_artifacts(study.info.run_id, "spec.yaml"))
    spec = build_spec(read_study(str(spec_file)), str(spec_file))
    plan = make_plan(spec, [digits], RecordWriter(Stores.under(folder.path / "runs"), spec.name))
    assert (plan.done, plan.remaining) == (TRIALS, 0)


def test_the_same_command_runs_nothing_and_more_trials_run_only_the_new_ones(
    story: Story, ray_cluster: RayCluster
) -> None:
    folder = story.folder
    before = folder.finished()
    again = folder.run_here()
    assert again.code == 0, again.err
    assert f"All {TRIALS} trials are finished already: nothing to run." in again.out
    assert folder.finished() == before

    more = folder.run_here("--trials", str(TRIALS + 1), "--address", ray_cluster.address)
    assert more.code == 0, more.out + more.err
    assert f"{TRIALS} of {TRIALS + 1} trials are finished, 1 to run" in more.out
    after = folder.finished()
    assert len(after) == TRIALS + 1
    assert before.items() <= after.items()
    assert len(folder.runs("tags.level = 'study'")) == 1


def test_other_settings_under_the_same_name_are_refused_before_ray_starts(
    story: Story,
) -> None:
    refused = story.folder.run_here("--training.batch_size", "31")
    assert refused.code == 2
    assert re.search(r"training.batch_size: \d+ then, 31 now", refused.err)
    assert "starting Ray" not in refused.out


@pytest.mark.parametrize("kind", RUNNERS)
def test_failed_trials_are_reported_recorded_and_do_not_stop_the_others(
    kind: str, tmp_path: Path, digits: TaskData, ray_cluster: RayCluster
) -> None:
    raw = {"task": "digits", "trials": 2, "name": "failing", "replicates": 1, "sampler": "random"}
    spec = build_spec(raw | {"space": {"aux_weight": [0, 1]}}, "failing")
    # Workers refuse data of another task: every trial fails there, with an exception of its own.
    other = TaskData("other", 10, digits.train_inputs, digits.train_labels, digits.test_inputs, digits.test_labels)
    stores = Stores.under(tmp_path / "runs")
    record = RecordWriter(stores, spec.name)
    plan = replace(make_plan(spec, [digits], None), data={"digits": StudyData(other, other.digest())})
    runner = runner_of(kind, stores, spec.name, ray_cluster)
    with StudyProgress(plan, Console(file=io.StringIO())) as progress:
        assert execute(plan, record, runner, progress) == Execution(finished=0, failed=2, interrupted=False)
    client = MlflowClient(stores.tracking_uri)
    experiment = client.get_experiment_by_name("failing")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.level = 'trial'")
    assert [(run.info.status, run.data.tags["status_detail"]) for run in runs] == [("FAILED", "failed")] * 2
    reason = Path(client.download_artifacts(runs[0].info.run_id, "error.txt")).read_text()
    assert "the trial's task is 'digits', the data's 'other'" in reason
    study = optuna.load_study(study_name="failing", storage=stores.optuna_url)
    assert {trial.state for trial in study.trials} == {TrialState.FAIL}
    # In a space of two trials the sampler may choose one twice, which does not run again.
    assert [trial.user_attrs["status_detail"] for trial in study.trials].count("failed") == 2
    assert RecordWriter(stores, spec.name).finished() == {}


class _RecordThatFailsOnce(RecordWriter):
    def finish_trial(self, *arguments: Any) -> None:
        raise StudyError("the record is gone")


@pytest.mark.parametrize("kind", RUNNERS)
def test_a_record_that_fails_stops_the_study_and_loses_nothing(
    kind: str, tmp_path: Path, digits: TaskData, ray_cluster: RayCluster
) -> None:
    raw = {"task": "digits", "name": "lost", "replicates": 1, "sampler": "grid", "space": {"width": 8}}
    spec = build_spec(raw | {"training": {"epochs": 1}, "rlct": {"draws": 8}, "observer": {"epochs": 0}}, "lost")
    stores = Stores.under(tmp_path / "runs")
    plan = make_plan(spec, [digits], None)
    runner = runner_of(kind, stores, spec.name, ray_cluster)
    with (
        pytest.raises(StudyError, match="the record is gone"),
        StudyProgress(plan, Console(file=io.StringIO())) as progress,
    ):
        execute(plan, _RecordThatFailsOnce(stores, spec.name), runner, progress)
    client = MlflowClient(stores.tracking_uri)
    experiment = client.get_experiment_by_name("lost")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["level"]: run.info.status for run in runs}["study"] == "FAILED"
    assert "RUNNING" not in {run.info.status for run in runs}
    # Every trial complete in Optuna is in the record.
    study = optuna.load_study(study_name="lost", storage=stores.optuna_url)
    assert TrialState.COMPLETE not in {trial.state for trial in study.trials}
    again = {trial.key for trial in RecordReader(stores, spec.name).trials()}
    assert len(again) > 0
    assert again <= {trial.key for trial in plan.listed}


def test_the_entry_point_works_by_itself_in_another_folder(story: Story) -> None:
    # `ray submit` uploads only this script: a copy ran, without other files of this project beside it.
    folder = story.folder.path
    assert (folder / "run.py").read_bytes() == RUN.read_bytes()
    assert not (folder / "study").exists()
    assert story.at_last.code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstart", "--learning_rate", "3"], "error: unknown option --learning_rate; did you mean"),
        (["quickstart", "--training.epochs", "0"], "training.epochs: should be greater than or equal to 1, got '0'"),
        (["mnist", "--data", "nowhere"], "MNIST is not in"),
        (["quickstart", "--tracking-uri", "http://127.0.0.1:9"], "the MLflow record at http://127.0.0.1:9 cannot be"),
    ],
)
def test_errors_come_before_ray_starts_and_are_one_message(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    no_network: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capfd.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert "starting Ray" not in printed.out
