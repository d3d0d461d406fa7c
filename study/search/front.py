"""The best trials that a search knows at each of its places: those that its next trial is compared with."""

from collections.abc import Sequence
from typing import NamedTuple

from optuna.trial import TrialState

from study.search.view import Ending


class _Member(NamedTuple):
    """A trial on the front, by its place."""

    place: int
    key: str
    losses: tuple[float, ...]  # the values of the objectives, turned so that less is better


class KnownFront:
    """The Pareto front of the trials whose endings a sampler knows; of a single objective, the best trial.

    At place n these are the trials up to place n − lag, as for the sampler. Trials without a value, and those whose
    constraints are violated, are not on it. A trial that has left the front is forgotten.

    Args:
        directions: of the objectives, in their order.
        lag: by how many places the endings lie behind.
    """

    def __init__(self, directions: Sequence[str], lag: int):
        self._signs = [-1 if direction == "maximize" else 1 for direction in directions]
        self._lag = lag
        self._front: list[_Member] = []
        self._ahead: list[_Member] = []  # have ended, and are not known at the last place that was asked for

    @property
    def candidates(self) -> set[str]:
        """Keys of the trials that have ended and can still be among those of a later place."""
        return {member.key for member in (*self._front, *self._ahead)}

    def end(self, place: int, key: str, ending: Ending) -> None:
        """The trial at this place has ended."""
        if ending.state != TrialState.COMPLETE or any(value > 0 for value in ending.constraints.values()):
            return
        assert ending.values is not None
        losses = tuple(sign * value for sign, value in zip(self._signs, ending.values, strict=True))
        self._ahead.append(_Member(place, key, losses))

    def at(self, place: int) -> tuple[str, ...]:
        """The keys of the trials on the front at a place, in the order of their places; the places asked for rise."""
        known = [member for member in self._ahead if member.place <= place - self._lag]
        self._ahead = [member for member in self._ahead if member.place > place - self._lag]
        for member in known:
            if not any(_dominates(other, member) for other in self._front):
                self._front = [other for other in self._front if not _dominates(member, other)] + [member]
        self._front.sort()
        # Of several best trials with the same value, the first.
        return tuple(member.key for member in self._front)[: 1 if len(self._signs) == 1 else None]


def _dominates(one: _Member, other: _Member) -> bool:
    pairs = list(zip(one.losses, other.losses, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
