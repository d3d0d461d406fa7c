"""The lease on a study: one driver at a time, whatever the interleaving, and dead drivers are no obstacle."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from analysis.layout import ExperimentTag
from study.errors import StudyError
from study.record import lease as lease_module
from study.record.lease import ExperimentTags, HeldError, Holder, Lease, LeaseLostError, StopRequest, holders_in
from study.record.writer import RecordWriter
from tests.study.stores import fresh_stores
from tests.study.synthetic import DIGEST, sweep_spec

INTERVAL = 1.0
SILENCE = INTERVAL * lease_module.PATIENCE


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RecordWriter:
    """A study in a real MLflow store; its leases are the tests' own."""
    record = RecordWriter(fresh_stores(tmp_path_factory.mktemp("store")), "made-up")
    record.begin()
    return record


@pytest.fixture(autouse=True)
def _no_leases(record: RecordWriter) -> None:
    _clear(record)


def _clear(record: RecordWriter) -> None:
    for name in record.experiment_tags():
        if name.startswith(("lease", "stop")):
            record.delete_experiment_tag(name)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def take(lease: Lease, clock: Clock, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Go through all steps to the lease, as if they took no time but the waiting."""
    for pause in lease.claiming():
        clock.now += pause
        meanwhile()


def test_a_lease_is_taken_and_given_back(record: RecordWriter) -> None:
    clock = Clock()
    lease = Lease(record, "made-up", INTERVAL, clock=clock)
    take(lease, clock)
    (holder,) = holders_in(record.experiment_tags())
    assert (holder.id, holder.state, holder.pid) == (lease.id, "held", os.getpid())
    lease.release()
    assert holders_in(record.experiment_tags()) == []
    take(Lease(record, "made-up", INTERVAL, clock=clock), clock)
    assert len(holders_in(record.experiment_tags())) == 1


def test_a_second_driver_is_refused_with_who_holds_the_study_and_what_to_do(record: RecordWriter) -> None:
    clock = Clock()
    first, second = (Lease(record, "made-up", INTERVAL, clock=clock) for _ in range(2))
    take(first, clock)
    with pytest.raises(HeldError) as caught:
        take(second, clock, meanwhile=first.beat)
    message = str(caught.value)
    assert f"is held by {first.holder.user} on {first.holder.host} (process {os.getpid()}) since 2" in message
    assert "last heard of 0 s ago" in message
    assert "python -m study stop made-up" in message
    assert [each.id for each in holders_in(record.experiment_tags())] == [first.id], "the second has withdrawn"


@pytest.mark.parametrize("ahead", [-1e6, 0.0, 1e6], ids="holder's clock {} s ahead".format)
def test_a_dead_holder_is_watched_and_then_taken_over_whatever_the_clocks_say(
    ahead: float, record: RecordWriter
) -> None:
    clock = Clock()
    dead = Lease(record, "made-up", INTERVAL, clock=clock)
    take(dead, clock)
    tag = replace(dead.holder, heartbeat=time.time() + ahead, since=time.time() + ahead)
    record.set_experiment_tag(tag.tag, tag.to_json())
    began = clock.now
    taker = Lease(record, "made-up", INTERVAL, clock=clock)
    take(taker, clock)
    assert SILENCE < clock.now - began < SILENCE + 2 * INTERVAL
    assert [each.id for each in taker.taken_over] == [dead.id]
    assert [each.id for each in holders_in(record.experiment_tags())] == [taker.id]


def test_a_dead_claimant_is_no_obstacle_for_long(record: RecordWriter) -> None:
    clock = Clock()
    for _ in range(2):
        next(Lease(record, "made-up", INTERVAL, clock=clock).claiming())
    taker = Lease(record, "made-up", INTERVAL, clock=clock)
    take(taker, clock)
    assert [each.id for each in holders_in(record.experiment_tags())] == [taker.id]


def test_a_driver_that_slept_and_was_taken_over_stops_and_writes_nothing_more(record: RecordWriter) -> None:
    clock = Clock()
    sleeper = Lease(record, "made-up", INTERVAL, clock=clock)
    take(sleeper, clock)
    taker = Lease(record, "made-up", INTERVAL, clock=clock)
    take(taker, clock)
    for _ in range(2):
        with pytest.raises(LeaseLostError, match=r"'made-up' was taken over by .* had not been heard of"):
            sleeper.check()
    taker.beat()
    assert [each.id for each in holders_in(record.experiment_tags())] == [taker.id]


def test_a_driver_that_slept_while_another_came_and_went_knows_it(record: RecordWriter) -> None:
    clock = Clock()
    sleeper, other = (Lease(record, "made-up", INTERVAL, clock=clock) for _ in range(2))
    take(sleeper, clock)
    take(other, clock)
    other.release()
    with pytest.raises(LeaseLostError, match="by another driver"):
        sleeper.check()


def test_a_driver_that_slept_and_was_not_taken_over_goes_on(record: RecordWriter) -> None:
    clock = Clock()
    lease = Lease(record, "made-up", INTERVAL, clock=clock)
    take(lease, clock)
    clock.now += 100 * SILENCE
    lease.check()
    lease.beat()
    assert [each.state for each in holders_in(record.experiment_tags())] == ["held"]


class Driver:
    """A driver whose steps a test interleaves with others' at will."""

    def __init__(self, tags: ExperimentTags, clock: Clock):
        self.lease = Lease(tags, "made-up", INTERVAL, clock=clock)
        self._clock = clock
        self._steps = self.lease.claiming()
        self.state = "claiming"

    def step(self) -> None:
        """The next step to the lease, or the next heartbeat."""
        try:
            if self.state == "claiming":
                self._clock.now += next(self._steps)
            elif self.state == "held":
                self.lease.beat()
        except StopIteration:
            self.state = "held"
        except HeldError:
            self.state = "refused"
        except LeaseLostError:
            self.state = "lost"

    def writes(self) -> bool:
        """Whether it would write to the record now."""
        if self.state == "held":
            try:
                self.lease.check()
            except LeaseLostError:
                self.state = "lost"
        return self.state == "held"

    def release(self) -> None:
        if self.state == "held":
            self.lease.release()
            self.state = "released"


class KeptInMemory:
    """The tags of an experiment, for many interleavings in a second."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}

    def experiment_tags(self) -> dict[str, str]:
        return dict(self.tags)

    def set_experiment_tag(self, name: str, value: str) -> None:
        self.tags[name] = value

    def delete_experiment_tag(self, name: str) -> None:
        self.tags.pop(name, None)


def _some_moves(chance: random.Random) -> list[tuple[int, int | str]]:
    """Who moves, and how: some steps, a write to the record, a pause of everybody, giving the lease back."""

    def move() -> int | str:
        other = chance.choice(("write", "write", "sleep", "release"))
        moves: list[int | str] = [chance.randint(1, 6), chance.randint(1, 20), other]
        return chance.choice(moves)

    return [(chance.randrange(3), move()) for _ in range(chance.randint(8, 25))]


def _interleave(tags: ExperimentTags, moves: Sequence[tuple[int, int | str]]) -> list[Driver]:
    """Let three drivers move in turn. Whoever writes must be the one that took the lease last."""
    clock, ids = Clock(), random.Random(len(moves))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease_module, "_new_id", lambda: f"{ids.getrandbits(48):012x}")
        return _moved(tags, clock, moves)


def _moved(tags: ExperimentTags, clock: Clock, moves: Sequence[tuple[int, int | str]]) -> list[Driver]:
    drivers = [Driver(tags, clock) for _ in range(3)]
    last: Driver | None = None
    for index, move in moves:
        driver = drivers[index]
        if isinstance(move, int):
            for _ in range(move):
                before = driver.state
                driver.step()
                if before == "claiming" and driver.state == "held":
                    last = driver
        elif move == "sleep":
            # Nobody moves meanwhile: whoever holds may be taken for dead.
            clock.now += SILENCE + 0.1
        elif move == "release":
            driver.release()
        elif driver.writes():
            assert driver is last, "a driver writes a study that another has taken over"
    return drivers


def test_in_no_interleaving_of_three_drivers_one_writes_what_another_has_taken() -> None:
    # Some of these let two drivers write if the lease leaves out its second reading, its judgement of lateness after
    # that, either half of what a late heartbeat looks at, or the check before writing.
    chance, held = random.Random(2), 0
    for _ in range(1500):
        drivers = _interleave(KeptInMemory(), _some_moves(chance))
        held += "held" in [driver.state for driver in drivers]
    assert held > 500, "most end with a holder"


def test_every_interleaving_of_two_claims_ends_with_one_holder_at_most(record: RecordWriter) -> None:
    # A claim without a rival takes six steps; all ways to interleave two of them, on the real store for some.
    orders = [order for order in itertools.product((0, 1), repeat=12) if sum(order) == 6]
    holders = []
    for number, order in enumerate(orders):
        tags: ExperimentTags = KeptInMemory()
        if number % 200 == 0:
            _clear(record)
            tags = record
        drivers = _interleave(tags, [(index, 1) for index in order])
        holders.append([driver.state for driver in drivers].count("held"))
    assert set(holders) <= {0, 1}
    assert 1 in holders


def test_of_threads_that_claim_at_once_on_a_real_store_one_holds(record: RecordWriter) -> None:
    together = threading.Barrier(4)
    outcomes: list[str] = []
    over = threading.Event()

    def drive() -> None:
        lease = Lease(RecordWriter(record.stores, "made-up"), "made-up", interval=0.3)
        together.wait()
        try:
            for pause in lease.claiming():
                time.sleep(pause)
        except HeldError:
            outcomes.append("refused")
            return
        outcomes.append("held")
        while not over.wait(0.05):
            lease.beat()

    threads = [threading.Thread(target=drive, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(outcomes) < 4:
        time.sleep(0.02)
    over.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused", "refused", "refused"]


def test_a_heartbeat_survives_an_outage_of_the_record(record: RecordWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    down = threading.Event()

    class Failing(RecordWriter):
        def set_experiment_tag(self, name: str, value: str) -> None:
            if down.is_set():
                raise StudyError("the server is away")
            super().set_experiment_tag(name, value)

    monkeypatch.setattr(lease_module, "LOCAL_INTERVAL", 0.05)
    failing = Failing(record.stores, "made-up")

    def beats() -> int:
        return holders_in(record.experiment_tags())[0].beats

    with failing.held():
        down.set()
        before = beats()
        time.sleep(0.3)
        assert beats() == before
        down.clear()
        while beats() == before:
            time.sleep(0.02)


def test_a_local_study_is_locked_and_the_kernel_frees_the_lock_of_a_killed_driver(
    record: RecordWriter, tmp_path: Path
) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from study.record.stores import Stores\n"
        "from study.record.writer import RecordWriter\n"
        f"with RecordWriter(Stores.under(Path({str(record.stores.root)!r})), 'made-up').held():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        said: list[str] = []
        with (
            pytest.raises(HeldError, match=rf"\(process {driver.pid}\) since .*\n.*python -m study stop"),
            record.held(said.append),
        ):
            pytest.fail("two hold the study")
        seen = record.holder()
        assert seen is not None
        assert seen.pid == driver.pid
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert record.holder() is None, "known at once, without watching"
    with record.held(said.append) as lease:
        assert [each.pid for each in lease.taken_over] == [driver.pid]
        assert len(said) == 1
        assert said[0].startswith("Taken over from ")
        assert f"(process {driver.pid})" in said[0]
    assert record.holder() is None


def test_a_writer_that_lost_its_lease_does_not_write(record: RecordWriter, tmp_path: Path) -> None:
    spec = sweep_spec(weights=(0, 1))
    config = next(config for config in spec.listed())
    with record.held() as lease:
        record.open_study(spec, DIGEST)
        # As another driver does that takes over.
        record.set_experiment_tag(ExperimentTag.LAST_LEASE, "another")
        with contextlib.suppress(LeaseLostError):
            lease.beat()
        with pytest.raises(StudyError, match="was taken over"):
            record.start_trial("key", config)
    runs = MlflowClient(record.stores.tracking_uri).search_runs([record._experiment.experiment_id])  # type: ignore[union-attr]
    assert [run.data.tags["level"] for run in runs] == ["study"]


def test_a_request_to_stop_reaches_the_driver_it_names_and_no_other(record: RecordWriter) -> None:
    clock = Clock()
    lease = Lease(record, "made-up", INTERVAL, clock=clock)
    take(lease, clock)
    record.set_experiment_tag(ExperimentTag.STOP, StopRequest("another", "after running trials", "ada@there").to_json())
    lease.beat()
    assert not any(each.stopping for each in holders_in(record.experiment_tags()))
    record.set_experiment_tag(ExperimentTag.STOP, StopRequest(lease.id, "after running trials", "ada@there").to_json())
    lease.beat()
    assert lease.stop is not None
    assert lease.stop.by == "ada@there"
    assert [each.stopping for each in holders_in(record.experiment_tags())] == ["after running trials"]
    lease.release()
    assert ExperimentTag.STOP not in record.experiment_tags()


def test_a_request_to_stop_now_interrupts_the_main_thread(record: RecordWriter) -> None:
    clock = Clock()
    lease = Lease(record, "made-up", INTERVAL, clock=clock)
    take(lease, clock)
    record.set_experiment_tag(ExperimentTag.STOP, StopRequest(lease.id, "now", "ada@there").to_json())
    threading.Timer(0.2, lease.beat).start()
    with pytest.raises(KeyboardInterrupt):
        time.sleep(60)


def test_what_no_driver_wrote_is_no_holder() -> None:
    tags = {"lease.a": "no JSON", "lease.b": "[1]", "lease.c": '{"id": "c"}', "lease": "d"}
    assert holders_in(tags) == []
    later = Holder("e", "held", "command", "ada", "there", 1, 0.0, 0.0, 1, 5.0)
    text = later.to_json().replace("{", '{"invented_later": 1, ', 1)
    assert holders_in({"lease.e": text}) == [later]


def test_secrets_of_the_command_are_not_in_the_lease(record: RecordWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://ada:hunter2@db/mlflow"
    monkeypatch.setattr(sys, "argv", ["study/run.py", "--tracking-uri", url, f"--optuna-storage={url}"])
    holder = Lease(record, "made-up", INTERVAL).holder
    assert "hunter2" not in holder.to_json()
    assert "--optuna-storage=postgresql://ada:***@db/mlflow" in holder.command.replace("'", "")
