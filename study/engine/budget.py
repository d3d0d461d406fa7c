"""The budget of a study while it runs: what its trials have used, and whether another one may begin."""

import time
from collections.abc import Callable
from typing import NamedTuple

from study.record.usage import SECONDS_PER_HOUR, Allotment, Machine, Usage, amount, shares, total
from study.shown import short_key
from study.spec.budget import BudgetConfig

# Failed trials that are named.
MOST_NAMED = 3


class Reached(NamedTuple):
    """A limit that stops a study."""

    name: str  # of the budget's field
    text: str
    failed: tuple[str, ...] = ()  # keys of the trials whose failures count, if this is the limit on these

    def __str__(self) -> str:
        return f"budget.{self.name}: {self.text}"


def spent(budget: BudgetConfig, used: Usage) -> Reached | None:
    """The first limit on the study's whole life of which nothing is left."""
    share = next((share for share in shares(budget, used) if share.spent), None)
    return None if share is None else Reached(share.name, f"{share} used")


class Account:
    """Keeps account of a study's trials, those of earlier runs of the command and those of this one.

    A limit is looked at before a trial begins, and trials that run count as far as they have come. What is used can
    exceed a limit by what the running trials still need, and no more.
    """

    def __init__(self, budget: BudgetConfig, allotment: Allotment, clock: Callable[[], float] = time.monotonic):
        self._budget = budget
        self._clock = clock
        self._opened = clock()
        self._ended = Usage()
        self._waiting: set[str] = set()  # handed out, but not begun
        self._running: dict[str, tuple[float, Allotment]] = {}  # since when, and with what
        self._failed: list[str] = []
        self.allotment = allotment  # of a trial that begins

    def carry_over(self, used: Usage) -> None:
        """Count what earlier runs of the command have used."""
        self._ended += used

    def hand_out(self, key: str) -> None:
        """A trial will begin."""
        self._waiting.add(key)

    def begin(self, key: str) -> None:
        """A trial begins, or begins again."""
        self._waiting.discard(key)
        self._running[key] = (self._clock(), self.allotment)

    def place(self, key: str, machine: Machine) -> Allotment:
        """A trial runs on this machine, since it began; return its share of it."""
        began, allotment = self._running[key]
        self._running[key] = (began, allotment.on(machine))
        return self._running[key][1]

    def is_placed(self, key: str) -> bool:
        """Whether the machine of a running trial is known."""
        return self._running[key][1] is not self.allotment

    def end(self, key: str, failed: bool = False) -> None:
        """A trial has ended, however it did; perhaps it had not begun."""
        self._waiting.discard(key)
        if key in self._running:
            self._ended += self._used_by(*self._running.pop(key))
        if failed:
            self._failed.append(key)

    @property
    def used(self) -> Usage:
        """What all trials have used so far; one that has been handed out and has not begun counts as a trial."""
        running = total(self._used_by(*each) for each in self._running.values())
        return self._ended + running + Usage(trials=len(self._waiting))

    def reached(self) -> Reached | None:
        """The limit because of which no other trial may begin; None if none is reached."""
        most_failed, hours = self._budget.max_failed_trials, self._budget.hours
        if most_failed is not None and len(self._failed) > most_failed:
            return Reached("max_failed_trials", self._failures(most_failed), tuple(self._failed))
        if (found := spent(self._budget, self.used)) is not None:
            return found
        if hours is not None and self._clock() - self._opened >= hours * SECONDS_PER_HOUR:
            return Reached("hours", f"this run of the command has begun trials for {amount(hours)} hours")
        return None

    def _failures(self, most: int) -> str:
        keys = [short_key(key) for key in self._failed]
        others = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
        return f"{len(keys)} trial(s) failed, and {most} may: {', '.join(keys[:MOST_NAMED])}{others}"

    def _used_by(self, began: float, allotment: Allotment) -> Usage:
        return allotment.used(self._clock() - began)
