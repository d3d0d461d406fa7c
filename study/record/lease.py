"""The lease on a study: one driver at a time writes its record.

A driver keeps a heartbeat among the tags of the study's experiment. MLflow has no compare-and-swap, so nobody writes
another's heartbeat: a claimant writes that it claims, then reads all, and holds the lease only if a reading after that
shows nobody else alive. Of two that claim at once, at least one sees the other. Whether another is alive is judged by
whether its heartbeat counts on while one watches: no two machines' clocks are compared.
"""

import contextlib
import getpass
import json
import os
import secrets
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from filelock import FileLock, Timeout

from analysis.layout import ExperimentTag
from study.errors import StudyError, without_secrets
from study.record.stores import Stores

# A heartbeat that has not counted on for so many of its intervals is that of a dead driver.
PATIENCE = 6
# Seconds between two heartbeats, if the record is in a local folder and if it is on a server.
LOCAL_INTERVAL, SERVER_INTERVAL = 2.0, 5.0

HowToStop = Literal["", "after running trials", "now"]


class HeldError(StudyError):
    """Another driver holds the study."""


class LeaseLostError(StudyError):
    """Another driver has taken the study over."""


class ReadableTags(Protocol):
    """The tags of a study's experiment, as `RecordReader` has them."""

    def experiment_tags(self) -> dict[str, str]:
        """All tags as they are now."""


class ExperimentTags(ReadableTags, Protocol):
    """The tags of a study's experiment, as `RecordWriter` has them."""

    def set_experiment_tag(self, name: str, value: str) -> None:
        """Write a tag."""

    def delete_experiment_tag(self, name: str) -> None:
        """Remove a tag, if it is there."""


@dataclass(frozen=True)
class Holder:
    """A driver that holds a study, or claims it."""

    id: str
    state: Literal["claiming", "held"]
    command: str
    user: str
    host: str
    pid: int
    since: float  # seconds since 1970, by the holder's clock
    heartbeat: float  # when it was last written, by the same clock
    beats: int  # counts the heartbeats
    interval: float  # seconds between two of them
    stopping: HowToStop = ""  # how it was asked to stop, once it has taken notice

    @property
    def tag(self) -> str:
        """The name of its tag."""
        return f"{ExperimentTag.LEASES}{self.id}"

    @property
    def silence(self) -> float:
        """Seconds without a heartbeat after which it is dead."""
        return PATIENCE * self.interval

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (process {self.pid}) since {_in_words(self.since)}"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Holder":
        """The holder that wrote this; fields of later versions are left out.

        Raises:
            ValueError: nobody wrote this.
        """
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{name: value for name, value in json.loads(text).items() if name in known})
        except (TypeError, AttributeError) as error:
            raise ValueError(f"no holder of a lease: {text!r}") from error


@dataclass(frozen=True)
class StopRequest:
    """A request that a driver stop."""

    lease: str  # the id of the driver's lease
    how: HowToStop
    by: str  # who asked

    @classmethod
    def in_tags(cls, tags: Mapping[str, str]) -> "StopRequest | None":
        text = tags.get(ExperimentTag.STOP)
        return None if text is None else cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def holders_in(tags: Mapping[str, str]) -> list[Holder]:
    """All who hold or claim, dead ones among them."""
    holders = []
    for name, text in tags.items():
        if name.startswith(ExperimentTag.LEASES):
            with contextlib.suppress(ValueError):
                holders.append(Holder.from_json(text))
    return holders


def boot_time() -> float:
    """Seconds on a clock that nobody sets and that also runs while the machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Watch:
    """Judges whether drivers live, by their heartbeats and the time on the watcher's own clock."""

    def __init__(self, clock: Callable[[], float] = boot_time):
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}  # beats, and when they were first seen
        self._alive: set[str] = set()

    def look(self, holders: Iterable[Holder]) -> None:
        """Take note of the heartbeats as they are now."""
        for holder in holders:
            beats, _ = self._seen.setdefault(holder.id, (holder.beats, self._clock()))
            if holder.beats != beats:
                self._seen[holder.id] = (holder.beats, self._clock())
                self._alive.add(holder.id)

    def is_alive(self, holder: Holder) -> bool:
        """Whether its heartbeat has counted on while we watched."""
        return holder.id in self._alive and not self.is_dead(holder)

    def is_dead(self, holder: Holder) -> bool:
        """Whether it has been silent for too long."""
        beats, when = self._seen[holder.id]
        return holder.beats == beats and self._clock() - when > holder.silence


class Lease:
    """One driver's lease on a study. `dead` are ids of holders that are known to be dead.

    Raises (all methods):
        StudyError: the record cannot be reached.
    """

    def __init__(
        self,
        tags: ExperimentTags,
        study: str,
        interval: float,
        dead: Iterable[str] = (),
        clock: Callable[[], float] = boot_time,
    ):
        self._tags, self._study, self._clock = tags, study, clock
        self._dead = set(dead)
        self._watch = Watch(clock)
        self._me = _this_process(interval)
        self._written = clock()  # when the last heartbeat that arrived was begun
        self._writing = threading.RLock()
        self._lost: str | None = None
        self.taken_over: list[Holder] = []
        self.stop: StopRequest | None = None

    @property
    def id(self) -> str:
        return self._me.id

    @property
    def holder(self) -> Holder:
        """This driver as others see it."""
        return self._me

    def claiming(self) -> Iterator[float]:
        """The steps to the lease, which is held after the last; yields the seconds to wait before the next.

        Raises:
            HeldError: another driver holds the study, or is about to.
        """
        while True:
            self._write("claiming")
            yield 0.0
            tags = self._tags.experiment_tags()
            others = self._others(tags)
            rival = next((each for each in others if self._gives_way_to(each)), None)
            if rival is not None:
                self.release()
                raise HeldError(_refusal(self._study, rival, time.time() - rival.heartbeat))
            if others:
                yield min(self._me.interval, *(each.interval for each in others)) / 2
                continue
            yield 0.0
            if (yield from self._holding()):
                return

    def beat(self) -> None:
        """Write the next heartbeat; see whether somebody has taken over, and whether somebody asks to stop.

        Raises:
            LeaseLostError: somebody has taken over.
        """
        with self._writing:
            before = self._written
            self._write("held")
            on_time = self._is_recent(before)
            tags = self._tags.experiment_tags()
            # While heartbeats arrive in time nobody can take this driver for dead. After a pause of the process or of
            # the network somebody may have, and may have finished since.
            others = [] if on_time else self._others(tags, only_held=True)
            if tags.get(ExperimentTag.LAST_LEASE) != self.id or others:
                taker = next(iter(others), None)
                self._lost = (
                    f"the study {self._study!r} was taken over"
                    f"{f' by {taker}' if taker else ' by another driver'}, because this one had not been heard of for "
                    "too long (a machine that slept, or a network that failed). It writes nothing more; what it had "
                    f"recorded before is kept. Look with: python -m study status {self._study}"
                )
                with contextlib.suppress(StudyError):
                    self._tags.delete_experiment_tag(self._me.tag)
            else:
                self._heed(StopRequest.in_tags(tags))
        self._raise_if_lost()

    def check(self) -> None:
        """Make sure, before something is written to the record, that the study is still this driver's.

        Raises:
            LeaseLostError: somebody has taken over.
        """
        self._raise_if_lost()
        if self._clock() - self._written > self._me.silence / 2:
            self.beat()

    def release(self) -> None:
        """Give the lease back, or withdraw the claim."""
        with self._writing:
            self._tags.delete_experiment_tag(self._me.tag)
            if self.stop is not None:
                self._tags.delete_experiment_tag(ExperimentTag.STOP)

    def _holding(self) -> Generator[float, None, bool]:
        """The steps from claim to lease; False if somebody could have taken this claimant for dead meanwhile."""
        claimed = self._written
        self._write("held")
        yield 0.0
        # Somebody taken for dead may be back.
        others = self._others(self._tags.experiment_tags(), only_held=True)
        yield 0.0
        if not others and self._is_recent(claimed):
            self._tags.set_experiment_tag(ExperimentTag.LAST_LEASE, self.id)
            yield 0.0
            if self._is_recent(claimed):
                for holder in self.taken_over:
                    self._tags.delete_experiment_tag(holder.tag)
                return True
        self._tags.delete_experiment_tag(self._me.tag)
        self._me = replace(self._me, id=_new_id(), beats=0)
        return False

    def _is_recent(self, heartbeat: float) -> bool:
        """Whether nobody can have taken this driver for dead since it wrote a heartbeat."""
        return self._clock() - heartbeat < self._me.silence

    def _others(self, tags: Mapping[str, str], only_held: bool = False) -> list[Holder]:
        """Who else claims or holds, and is not dead."""
        everybody = [each for each in holders_in(tags) if each.id != self.id]
        self._watch.look(everybody)
        self.taken_over = [each for each in everybody if each.id in self._dead or self._watch.is_dead(each)]
        return [each for each in everybody if each not in self.taken_over and (each.state == "held" or not only_held)]

    def _gives_way_to(self, other: Holder) -> bool:
        """Whether this claimant withdraws. Of two that claim, the one with the larger id does; the other waits."""
        return self._watch.is_alive(other) and (other.state == "held" or other.id < self.id)

    def _write(self, state: Literal["claiming", "held"]) -> None:
        """Write the next heartbeat."""
        begun = self._clock()
        stopping: HowToStop = self.stop.how if self.stop else ""
        self._me = replace(self._me, state=state, beats=self._me.beats + 1, heartbeat=time.time(), stopping=stopping)
        self._tags.set_experiment_tag(self._me.tag, self._me.to_json())
        self._written = begun

    def _heed(self, request: StopRequest | None) -> None:
        if request is None or request.lease != self.id or request == self.stop:
            return
        self.stop = request
        self._write("held")
        if request.how == "now":
            # To the main thread, so that it also ends a call that waits.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise LeaseLostError(self._lost)


@contextlib.contextmanager
def held_study(
    tags: ExperimentTags, stores: Stores, study: str, say: Callable[[str], None] = lambda text: None
) -> Iterator[Lease]:
    """Hold the lease on a study, whose experiment exists; `say` is told of waiting and of taking over.

    Raises:
        HeldError: another driver holds the study.
        StudyError: the record cannot be reached.
    """
    with _local_lock(stores, study) as note:
        interval = LOCAL_INTERVAL if stores.tracking_is_local else SERVER_INTERVAL
        lease = Lease(tags, study, interval, dead=_dead_by_lock(note))
        try:
            _note_holder(note, lease)
            _claim(lease, say)
            _note_holder(note, lease)
            with _heartbeat(lease):
                yield lease
        finally:
            # A record that cannot be reached cannot be told. Others see that the heartbeat has ended; the note and the
            # free lock say so at once.
            with contextlib.suppress(StudyError):
                lease.release()
                if note:
                    note.unlink(missing_ok=True)


def living_holder(tags: ReadableTags, stores: Stores, study: str, patiently: bool = True) -> Holder | None:
    """Who holds a study now; None if nobody does. Impatiently, a heartbeat that is recent by this clock is believed,
    and an old one is not; patiently, an old one is watched first.

    Raises:
        StudyError: the record cannot be reached.
    """
    lock = _lock_file(stores, study)
    dead = _dead_by_lock(_note_of(lock)) if lock.exists() and _is_free(lock) else ()
    watch = Watch()
    while True:
        holders = [each for each in holders_in(tags.experiment_tags()) if each.state == "held" and each.id not in dead]
        watch.look(holders)
        for holder in holders:
            if abs(time.time() - holder.heartbeat) < holder.silence or watch.is_alive(holder):
                return holder
        unknown = [each for each in holders if not watch.is_dead(each)]
        if not unknown or not patiently:
            return None
        time.sleep(min(each.interval for each in unknown) / 2)


def _claim(lease: Lease, say: Callable[[str], None]) -> None:
    said = False
    for pause in lease.claiming():
        if pause and not said:
            say("Another driver had this study and may be dead: watching its heartbeat …")
            said = True
        time.sleep(pause)
    for holder in lease.taken_over:
        say(f"Taken over from {holder}, which died: last heard of {_in_words(holder.heartbeat)}.")


@contextlib.contextmanager
def _heartbeat(lease: Lease) -> Iterator[None]:
    """Beat in a thread until the end of the block."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(lease.holder.interval):
            try:
                lease.beat()
            except LeaseLostError:
                return  # The driver meets the error at its next write.
            except StudyError:
                continue  # The record may come back.

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(lease.holder.interval)


@contextlib.contextmanager
def _local_lock(stores: Stores, study: str) -> Iterator[Path | None]:
    """Lock a study in the folder of the store; yields the file beside the lock that says who holds it.

    The kernel releases the lock when the driver dies. Where the record is on a server, the lock guards the results that
    wait for it, and shows drivers on this machine who lives when the server cannot. None if that folder has no locks.
    """
    file = _lock_file(stores, study)
    note = _note_of(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # A moment's patience: `status` looks at the lock by taking it.
        lock = FileLock(file, timeout=1)
        lock.acquire()
    except Timeout:
        raise HeldError(_refusal(study, *_noted(note))) from None
    except OSError as error:
        if stores.tracking_is_local:
            raise StudyError(f"the lock {file} cannot be taken: {error}. Make its folder writable.") from error
        yield None
        return
    try:
        yield note
    finally:
        lock.release()


def _lock_file(stores: Stores, study: str) -> Path:
    return stores.root / "locks" / f"{study}.lock"


def _note_of(lock: Path) -> Path:
    """The file beside a lock that says who holds it."""
    return lock.with_suffix(".json")


def _is_free(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, OSError):
        return False


def _dead_by_lock(note: Path | None) -> tuple[str, ...]:
    """The holder in the note, when the lock is free or ours: dead for certain, if it ran on this machine."""
    holder, _ = _noted(note) if note else (None, 0.0)
    return (holder.id,) if holder and holder.host == socket.gethostname() else ()


def _noted(note: Path) -> tuple[Holder | None, float]:
    """Who holds the lock, and seconds since its last heartbeat: none, because the kernel says that it lives."""
    try:
        return Holder.from_json(note.read_text()), 0.0
    except (OSError, ValueError):
        return None, 0.0


def _note_holder(note: Path | None, lease: Lease) -> None:
    if note:
        note.write_text(lease.holder.to_json())


def _refusal(study: str, holder: Holder | None, silence: float) -> str:
    who = f"{holder}, last heard of {max(0, round(silence))} s ago" if holder else "another driver"
    command = f", with the command: {holder.command}" if holder and holder.command else ""
    return (
        f"the study {study!r} is held by {who}{command}\nTwo drivers would ruin its record. Wait until that one ends "
        f"(python -m study status {study}), or stop it (python -m study stop {study}), both with this --store and "
        "--tracking-uri; then run the same command again."
    )


def _this_process(interval: float) -> Holder:
    now = time.time()
    return Holder(
        id=_new_id(),
        state="claiming",
        command=shlex.join(_without_secrets(word) for word in sys.argv),
        user=this_user(),
        host=socket.gethostname(),
        pid=os.getpid(),
        since=now,
        heartbeat=now,
        beats=0,
        interval=interval,
    )


def this_user() -> str:
    """The name of the user, or the number of one without a name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def _without_secrets(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + without_secrets(value)


def _new_id() -> str:
    return secrets.token_hex(6)


def _in_words(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
