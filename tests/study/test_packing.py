"""Short trials, several to a Ray task: they end as they would alone, whatever becomes of the others in their task."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Run

from study.engine import packing, ray_tune
from study.engine.execute import Execution, execute
from study.engine.packing import MOST_AT_ONCE, SHORT_SECONDS, TASK_SECONDS, Packing
from study.engine.plan import make_plan
from study.engine.resources import Resources
from study.engine.runner import RunTrial
from study.engine.runners import make_runner
from study.record.outcome import Outcome
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.search.search import WAIT
from study.spec import StudySpec, build_spec
from tests.study.conftest import RayCluster
from tests.study.synthetic import runs_of
from trainables.tasks import TaskData

TRIALS = 9
# By their weights: two in the task of the second to the fifth trial, and the first one of the next task.
DIES, FAILS, TAKES_LONG = 2.0, 3.0, 5.0


class Numbers:
    """A ledger that hands out numbers."""

    def __init__(self, limit: int, before_it_waits: int | None = None):
        self.limit = limit
        self.handed_out = 0
        self.stops = False
        self._before_it_waits = limit if before_it_waits is None else before_it_waits

    def next(self) -> Any:
        if self.handed_out == self.limit or self.stops:
            return None
        if self.handed_out == self._before_it_waits:
            return WAIT
        self.handed_out += 1
        return self.handed_out

    def is_stopping(self) -> bool:
        return self.stops


def packing_of(ledger: Any, workers: int = 1) -> Any:
    return Packing(ledger, workers)


def test_trials_are_taken_one_by_one_until_the_time_of_some_is_known_and_in_their_order() -> None:
    packing = packing_of(Numbers(100))
    assert [packing.take(), packing.take()] == [[1], [2]]
    packing.note(0.5)
    assert packing.take() == list(range(3, 11))  # as many as take four seconds


@given(
    limit=st.integers(1, 1000),
    workers=st.integers(1, 50),
    seconds=st.lists(st.floats(0, 2), min_size=1, max_size=packing.LOOKS_BACK),
)
def test_a_task_keeps_its_worker_busy_for_seconds_and_leaves_trials_for_the_others(
    limit: int, workers: int, seconds: list[float]
) -> None:
    packing = packing_of(Numbers(limit), workers)
    for each in seconds:
        packing.note(each)
    taken: list[Any] = []
    while (task := packing.take()) is not None:
        assert task is not WAIT
        if len(task) > 1:
            assert max(seconds) < SHORT_SECONDS
            assert len(task) * max(seconds) <= TASK_SECONDS
            assert len(task) <= MOST_AT_ONCE
            assert len(task) * 2 * workers <= limit - len(taken)
        taken += task
    assert taken == list(range(1, limit + 1))


def test_a_search_that_waits_for_results_hands_out_one_trial_at_a_time_from_then_on() -> None:
    ledger = Numbers(100, before_it_waits=3)
    packing = packing_of(ledger)
    packing.note(0.01)
    assert packing.take() == [1, 2, 3]
    assert packing.take() is WAIT
    ledger._before_it_waits = 100
    assert packing.take() == [4]


def test_trials_that_a_task_has_not_begun_come_next_unless_the_study_is_to_stop() -> None:
    ledger = Numbers(3)
    packing = packing_of(ledger)
    assert [packing.take() for _ in range(3)] == [[1], [2], [3]]
    packing.give_back([2, 3])
    assert packing.take() == [2]
    ledger.stops = True
    assert packing.take() is None


class Counting:
    """A watcher that counts what begins again."""

    def __init__(self) -> None:
        self.again: list[float] = []
        self.failed_at: list[float] = []

    def started(self, item: RunTrial) -> None:
        pass

    def advanced(self, item: RunTrial, stage: str) -> None:
        if stage == "starting again":
            self.again.append(item.config.self_model.aux_weight)

    def finished(self, item: RunTrial, result: Outcome) -> None:
        pass

    def failed(self, item: RunTrial, reason: str) -> None:
        assert "no such weight" in reason
        self.failed_at.append(item.config.self_model.aux_weight)


def with_faults(train: Callable[..., None], marker: Path) -> Callable[..., None]:
    """A task one of whose trials kills its worker the first time, one raises an error, and one takes long."""

    def faulty(handed_out: dict[str, Any], **constants: Any) -> None:
        from study.engine import worker

        run_trial = worker.run_trial

        def run(config: Any, *arguments: Any) -> Any:
            if config.self_model.aux_weight == DIES and not marker.exists():
                marker.touch()
                os._exit(1)
            if config.self_model.aux_weight == FAILS:
                raise ValueError("no such weight")
            return run_trial(config, *arguments)

        first = handed_out["trials"][0]["trial"]["self_model"]["aux_weight"]
        patch = pytest.MonkeyPatch()
        patch.setattr(worker, "run_trial", run)
        # The worker has a copy of the function.
        patch.setitem(train.__globals__, "TASK_SECONDS", 0.0 if first == TAKES_LONG else 1e9)
        try:
            train(handed_out, **constants)
        finally:
            patch.undo()

    return faulty


def short_study(weights: list[float]) -> StudySpec:
    raw = {
        "name": "short",
        "task": "digits",
        "replicates": 1,
        "sampler": "grid",
        "space": {"hidden_layers": 1, "width": 8, "target_depth": 1, "aux_weight": weights},
        "training": {"epochs": 1},
        "rlct": {"draws": 10, "chains": 2, "batch_size": 32},
        "observer": {"epochs": 0},
    }
    return build_spec(raw, "short")


def run_study(
    spec: StudySpec, data: TaskData, stores: Stores, kind: str, resources: Resources, watcher: Counting
) -> Execution:
    runner = make_runner(kind, resources, stores, spec.name, lambda text: None)
    return execute(make_plan(spec, [data], None), RecordWriter(stores, spec.name), runner, watcher)


def results(stores: Stores) -> dict[str, dict[str, float]]:
    """The measures of every finished trial by its key."""

    def measured(run: Run) -> dict[str, float]:
        return {name: value for name, value in run.data.metrics.items() if not name.startswith("seconds")}

    runs = runs_of(stores, "short", "tags.level = 'trial' and attributes.status = 'FINISHED'")
    assert len(runs) == len({run.data.tags["trial_key"] for run in runs})
    return {run.data.tags["trial_key"]: measured(run) for run in runs}


def test_trials_of_one_task_end_as_they_would_alone_although_one_kills_the_worker_and_one_fails(
    digits: TaskData, ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[int] = []
    take = Packing.take

    def noting(self: Packing) -> Any:
        task = take(self)
        if isinstance(task, list):
            tasks.append(len(task))
        return task

    monkeypatch.setattr(Packing, "take", noting)
    # However slow this machine is.
    monkeypatch.setattr(packing, "SHORT_SECONDS", 1e6)
    monkeypatch.setattr(packing, "TASK_SECONDS", 1e9)
    monkeypatch.setattr(ray_tune, "_train", with_faults(ray_tune._train, tmp_path / "died"))
    watcher, packed = Counting(), Stores.under(tmp_path / "packed")
    spec = short_study([*map(float, range(TRIALS))])
    execution = run_study(spec, digits, packed, "ray", Resources(ray_cluster.address, concurrent=1), watcher)
    assert execution == Execution(finished=TRIALS - 1, failed=1, interrupted=False)
    assert (watcher.again, watcher.failed_at) == ([DIES], [FAILS])
    # After the one that takes long, its task ends; the next one begins in another task.
    assert tasks == [1, 4, 2, 1, 1, 1]
    # Its worker's death ends no task, and no other trial of it is run again.
    states = [run.info.status for run in runs_of(packed, "short", "tags.level = 'trial'")]
    assert sorted(states) == ["FAILED", *["FINISHED"] * (TRIALS - 1)]
    monkeypatch.undo()
    alone = Stores.under(tmp_path / "alone")
    run_study(short_study([1.0, DIES, 4.0, TAKES_LONG]), digits, alone, "local", Resources(), Counting())
    found, expected = results(packed), results(alone)
    assert len(expected) == 4
    assert {key: found[key] for key in expected} == expected
    left = [path for path in (tmp_path / "packed/ray/short").rglob("*") if path.is_file() and path.name != "ray.log"]
    assert [path.name for path in left if "checkpoint" in str(path) or "snapshot" in str(path)] == []
