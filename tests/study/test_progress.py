import io
import re

import pytest
from rich.console import Console

from study.plan import Plan
from study.progress import StudyProgress, format_seconds
from study.spec import StudySpec
from tests.study.synthetic import falling, make_outcome, sweep_spec
from trainables.tasks import TaskData
from trainables.trial import TrialConfig


@pytest.fixture
def spec() -> StudySpec:
    return sweep_spec(weights=(0, 1, 2, 5))


def configs(plan: Plan) -> list[tuple[str, TrialConfig]]:
    return [(plan.key(point), plan.config(point)) for point in plan.points]


def test_on_a_terminal_it_shows_counts_running_trials_the_best_and_the_time_left(
    spec: StudySpec, digits: TaskData, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(spec, digits, "digest", {})
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with StudyProgress(plan, console) as progress:
        (first, first_config), (second, second_config), (third, third_config), _ = configs(plan)
        for key, config in ((first, first_config), (second, second_config)):
            progress.started(key, config)
        progress.advanced(second, "epoch 7/60")
        progress.finished(first, first_config, make_outcome(first_config, falling))
        progress.started(third, third_config)
        progress.failed(third, third_config, "Traceback\nMemoryError: no room")
        print("what Ray prints")
    shown = screen.getvalue()
    assert "1 done, 1 running, 1 failed, about" in shown
    assert re.search(r"1x16 aux 1 target 1 +epoch 7/60", shown)
    assert re.search(r"best +val_accuracy +0.97\d* +1x16 aux 0", shown)
    assert "1x16 aux 2 target 1 failed: MemoryError: no room" in shown
    # Not above the display: it belongs to whoever reads stdout, in a study the log.
    assert "what Ray prints" not in shown
    assert "what Ray prints" in capsys.readouterr().out


def test_a_collapsed_trial_is_marked_and_never_the_best(spec: StudySpec, digits: TaskData) -> None:
    plan = Plan(spec, digits, "digest", {})
    lines = io.StringIO()
    with StudyProgress(plan, Console(file=lines)) as progress:
        for (key, config), status in zip(configs(plan), ("collapsed", "ok", "diverged", "ok"), strict=True):
            progress.started(key, config)
            progress.finished(key, config, make_outcome(config, falling, status))
    first, *_, last = lines.getvalue().splitlines()[1:]
    assert "[collapsed]" in first
    assert "best so far" not in first
    # The rlct falls with the weight: 5 has the lowest, and a diverged 2 does not count.
    assert last.startswith("[4/4, 0 running, 0 failed, about 0 s left]")
    assert "best so far: val_accuracy" in last


def test_a_number_that_is_no_rlct_is_never_the_best(spec: StudySpec, digits: TaskData) -> None:
    plan = Plan(spec, digits, "digest", {})
    lines = io.StringIO()

    def values(config: TrialConfig, index: int) -> dict[str, float]:
        return {"rlct": {0: float("nan"), 1: 30.0, 2: -500.0, 5: 20.0}[int(config.self_model.aux_weight)]}

    with StudyProgress(plan, Console(file=lines)) as progress:
        verdicts = ("diverged", "sound", "not_a_minimum", "drifting")
        for (key, config), verdict in zip(configs(plan), verdicts, strict=True):
            progress.started(key, config)
            progress.finished(key, config, make_outcome(config, values, verdict=verdict))
    best = [line.partition("best so far: ")[2] for line in lines.getvalue().splitlines()[1:]]
    found = [re.search(r"rlct (\S+)", text) for text in best]
    assert [match and match[1] for match in found] == [None, "30", "30", "20"]


def test_the_time_left_is_that_of_the_work_left_side_by_side(spec: StudySpec, digits: TaskData) -> None:
    plan = Plan(spec, digits, "digest", {})
    lines = io.StringIO()
    (first, first_config), (second, second_config), *_ = configs(plan)
    with StudyProgress(plan, Console(file=lines)) as progress:
        progress.started(first, first_config)
        progress.finished(first, first_config, make_outcome(first_config, falling))
        progress.started(second, second_config)
        progress.finished(second, second_config, make_outcome(second_config, falling))
    left = [int(text) for text in re.findall(r"about (\d+) s left", lines.getvalue())]
    # Each trial says it took 3 seconds (made-up), and about as much is left for each of the others.
    assert left[0] == pytest.approx(9, abs=2)
    assert left[1] == pytest.approx(6, abs=1)


def test_a_file_hears_of_running_trials_while_none_ends(
    spec: StudySpec, digits: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(spec, digits, "digest", {})
    lines = io.StringIO()
    (first, first_config), (second, second_config), *_ = configs(plan)
    with StudyProgress(plan, Console(file=lines)) as progress:
        progress.started(first, first_config)
        progress.started(second, second_config)
        progress.advanced(first, "epoch 6/60")
        assert lines.getvalue().splitlines() == ["starting Ray …"]
        monkeypatch.setattr("study.progress.LONGEST_SILENCE", 0.0)
        progress.advanced(second, "rlct 8/1000")
    assert lines.getvalue().splitlines()[1:] == [
        "[0/4, 2 running, 0 failed, time left: not known yet] 1x16 aux 0: epoch 6/60; 1x16 aux 1 target 1: rlct 8/1000"
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.6, "5 s"), (200, "3 min 20 s"), (700, "11 min"), (7500, "2 h 05 min"), (6.2e6, "1,722 h")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
