"""Short trials, several to a task: how many a worker is handed at once."""

from collections import deque
from collections.abc import Iterable
from typing import Any

from study.engine.ledger import Ledger
from study.engine.runner import RunTrial
from study.search.search import WAIT, Wait

# Trials that take less than this are handed out several at once.
SHORT_SECONDS = 1.0
# What a worker is to be busy with what it is handed, in seconds. It begins no other trial after that time.
TASK_SECONDS = 4.0
# Most trials at once: the last ones begin late, however short they are.
MOST_AT_ONCE = 64
# As many of the last trials say how long the next ones take.
LOOKS_BACK = 20


class Packing:
    """Takes trials from a ledger, several at once as long as they are short.

    A search that waits for results hands out few trials at once, which all workers are to share: from the first time
    that it waits, trials are taken one by one. Towards the end, fewer are taken, so that no worker is without one.
    """

    def __init__(self, ledger: Ledger[Any], workers: int):
        self._ledger = ledger
        self._workers = workers
        self._seconds: deque[float] = deque(maxlen=LOOKS_BACK)  # that the last trials took
        self._returned: deque[RunTrial] = deque()
        self._waits = False

    def take(self) -> list[RunTrial] | Wait | None:
        """The trials of the next task; WAIT if none is known before another ends, None when nothing is left."""
        task: list[RunTrial] = []
        found: RunTrial | Wait | None = None
        for _ in range(self.size()):
            found = self._next()
            if found is None or found is WAIT:
                break
            task.append(found)
        self._waits = self._waits or found is WAIT
        return task or (WAIT if found is WAIT else None)

    def note(self, seconds: float) -> None:
        """A trial has ended that took this long."""
        self._seconds.append(seconds)

    def give_back(self, trials: Iterable[RunTrial]) -> None:
        """Trials of a task that have not begun: they come next."""
        self._returned.extend(trials)

    def size(self) -> int:
        """The number of trials of the next task, if there are as many."""
        if self._waits or not self._seconds or (longest := max(self._seconds)) >= SHORT_SECONDS:
            return 1
        left = len(self._returned) + self._ledger.limit - self._ledger.handed_out
        fitting = MOST_AT_ONCE if longest * MOST_AT_ONCE <= TASK_SECONDS else int(TASK_SECONDS / longest)
        return max(1, min(fitting, left // (2 * self._workers)))

    def _next(self) -> RunTrial | Wait | None:
        if self._returned and not self._ledger.is_stopping():
            return self._returned.popleft()
        found: RunTrial | Wait | None = self._ledger.next()
        return found
