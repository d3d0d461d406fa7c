import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from study.commands.views.durations import format_seconds
from study.commands.views.progress import StudyProgress
from study.engine.plan import Plan
from study.engine.runner import StudyData
from study.record.outcome import Stop
from study.search.search import Suggestion
from study.spec import StudySpec
from tests.study.synthetic import falling, make_outcome, sweep_spec
from trainables.outcomes import STOPPED_EARLY
from trainables.tasks import TaskData
from trainables.trial import TrialConfig


@pytest.fixture
def spec() -> StudySpec:
    return sweep_spec(weights=(0, 1, 2, 5))


def trials_of(plan: Plan) -> list[Suggestion]:
    return [Suggestion(place, trial.key, trial.config, {}) for place, trial in enumerate(plan.listed)]


def test_on_a_terminal_it_shows_counts_running_trials_the_best_and_the_time_left(
    spec: StudySpec, digits: TaskData, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(spec, {"digits": StudyData(digits, "digest")}, {})
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with StudyProgress(plan, console) as progress:
        first, second, third, _ = trials_of(plan)
        for trial in (first, second):
            progress.started(trial)
        progress.advanced(second, "epoch 7/60")
        progress.finished(first, make_outcome(first.config, falling))
        progress.started(third)
        progress.failed(third, "Traceback\nMemoryError: no room")
        print("what Ray prints")
    output = screen.getvalue()
    assert "1 done, 1 running, 1 failed, about" in output
    assert re.search(r"1x16 aux 1 target 1 +epoch 7/60", output)
    assert re.search(r"best +val_accuracy +0.97\d* +1x16 aux 0", output)
    assert "1x16 aux 2 target 1 failed: MemoryError: no room" in output
    # Output of libraries is not above the display: it goes to stdout, in a study to the log.
    assert "what Ray prints" not in output
    assert "what Ray prints" in capsys.readouterr().out


def test_a_trial_that_was_stopped_early_is_counted_and_says_why(spec: StudySpec, digits: TaskData) -> None:
    plan = Plan(spec, {"digits": StudyData(digits, "digest")}, {})
    lines = io.StringIO()
    with StudyProgress(plan, Console(file=lines)) as progress:
        first, second, *_ = trials_of(plan)
        for trial in (first, second):
            progress.started(trial)
        stop = Stop("dominated at epoch 7 by trial 1a2b3c4d", "the rule")
        stopped = make_outcome(first.config, falling, STOPPED_EARLY, measures=("val_accuracy", "weight_std"))
        progress.finished(first, replace(stopped, rlct=None, stop=stop))
        progress.finished(second, make_outcome(second.config, falling))
    _, early, late = lines.getvalue().splitlines()
    assert early == (
        "[1/4, 1 running, 0 failed, 1 stopped early, time left: not known yet] 1x16 aux 0 stopped early: dominated at "
        "epoch 7 by trial 1a2b3c4d"
    )
    assert late.startswith("[2/4, 0 running, 0 failed, 1 stopped early, about ")
    assert "best so far: val_accuracy 0.9" in late


def test_a_collapsed_trial_is_marked_and_never_the_best(spec: StudySpec, digits: TaskData) -> None:
    plan = Plan(spec, {"digits": StudyData(digits, "digest")}, {})
    lines = io.StringIO()
    with StudyProgress(plan, Console(file=lines)) as progress:
        for trial, status in zip(trials_of(plan), ("collapsed", "ok", "diverged", "ok"), strict=True):
            progress.started(trial)
            progress.finished(trial, make_outcome(trial.config, falling, status))
    first, *_, last = lines.getvalue().splitlines()[1:]
    assert "[collapsed]" in first
    assert "best so far" not in first
    # The rlct falls with the weight: 5 has the lowest, and a diverged 2 does not count.
    assert last.startswith("[4/4, 0 running, 0 failed, about 0 s left]")
    assert "best so far: val_accuracy" in last


def test_an_unusable_rlct_is_never_the_best(spec: StudySpec, digits: TaskData) -> None:
    plan = Plan(spec, {"digits": StudyData(digits, "digest")}, {})
    lines = io.StringIO()

    def values(config: TrialConfig, index: int) -> dict[str, float]:
        return {"rlct": {0: float("nan"), 1: 30.0, 2: -500.0, 5: 20.0}[int(config.self_model.aux_weight)]}

    with StudyProgress(plan, Console(file=lines)) as progress:
        verdicts = ("diverged", "sound", "not_a_minimum", "drifting")
        for trial, verdict in zip(trials_of(plan), verdicts, strict=True):
            progress.started(trial)
            progress.finished(trial, make_outcome(trial.config, values, verdict=verdict))
    best = [line.partition("best so far: ")[2] for line in lines.getvalue().splitlines()[1:]]
    found = [re.search(r"rlct (\S+)", text) for text in best]
    assert [match and match[1] for match in found] == [None, "30", "30", "20"]


def test_the_time_left_is_that_of_the_work_left_side_by_side(spec: StudySpec, digits: TaskData) -> None:
    plan = Plan(spec, {"digits": StudyData(digits, "digest")}, {})
    lines = io.StringIO()
    first, second, *_ = trials_of(plan)
    with StudyProgress(plan, Console(file=lines)) as progress:
        for trial in (first, second):
            progress.started(trial)
            progress.finished(trial, make_outcome(trial.config, falling))
    left = [int(text) for text in re.findall(r"about (\d+) s left", lines.getvalue())]
    # Each trial reports 3 seconds (made up), so about as much is left for each of the others.
    assert left[0] == pytest.approx(9, abs=2)
    assert left[1] == pytest.approx(6, abs=1)


def test_a_file_hears_of_running_trials_while_none_ends(
    spec: StudySpec, digits: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(spec, {"digits": StudyData(digits, "digest")}, {})
    lines = io.StringIO()
    first, second, *_ = trials_of(plan)
    with StudyProgress(plan, Console(file=lines), "starting Ray …") as progress:
        progress.started(first)
        progress.started(second)
        progress.advanced(first, "epoch 6/60")
        assert lines.getvalue().splitlines() == ["starting Ray …"]
        monkeypatch.setattr("study.commands.views.progress.LONGEST_SILENCE", 0.0)
        progress.advanced(second, "rlct 8/1000")
    assert lines.getvalue().splitlines()[1:] == [
        "[0/4, 2 running, 0 failed, time left: not known yet] 1x16 aux 0: epoch 6/60; 1x16 aux 1 target 1: rlct 8/1000"
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.6, "5 s"), (200, "3 min 20 s"), (700, "11 min"), (7500, "2 h 05 min"), (6.2e6, "1,722 h")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
