"""Driving a search without trials that train: one trial after the other, or several side by side."""

import random
from collections.abc import Callable

from optuna.storages import BaseStorage

from study.record.outcome import Outcome
from study.search.parameters import offers
from study.search.search import WAIT, Search, Suggestion
from study.search.store import reconcile
from study.search.view import view_of
from study.spec import StudySpec
from tests.study.memory import MemoryRecord
from tests.study.synthetic import DIGEST
from trainables.trial import TrialConfig

RUN = "run-of-the-study"


def ask_for_one(search: Search) -> Suggestion | None:
    """The next suggestion of a search whose trials have all ended."""
    suggestion = search.ask()
    assert suggestion is not WAIT
    return suggestion


def take_up(spec: StudySpec, storage: BaseStorage, record: MemoryRecord, workers: int = 1) -> Search:
    """The search as the next driver begins it: the stored study as the record has it, unfinished trials first."""
    view = view_of(spec, record.finished(), record.trials())
    reconcile(spec, storage, view, RUN)
    again = [config for config in record.unfinished() if offers(spec, config)]
    listed = [config for config in spec.listed() if config.key(DIGEST) not in record.finished()]
    return Search(spec, DIGEST, storage, [*again, *listed], view, RUN, workers)


def drive_side_by_side(
    spec: StudySpec,
    storage: BaseStorage,
    record: MemoryRecord,
    workers: int,
    chance: random.Random,
    outcome: Callable[[TrialConfig], Outcome],
    dies_after: int | None = None,
    hear: Callable[[Suggestion], None] = lambda suggestion: None,
) -> dict[int, str]:
    """Drive a search from whatever an earlier driver left, several trials side by side; return the keys by place.

    By chance, trials take their turn in beginning and in ending, fail to begin, or are told to Optuna too late. The
    driver dies when so many trials have ended. `hear` is given every trial that begins.
    """
    search = take_up(spec, storage, record, workers)
    suggested: list[Suggestion] = []  # not begun yet
    running: list[Suggestion] = []
    ended = 0
    while True:
        while len(suggested) + len(running) < workers and len(record.finished()) + len(suggested) + len(running) < (
            spec.trials or 0
        ):
            suggestion = search.ask()
            if suggestion is WAIT or suggestion is None:
                assert suggestion is not WAIT or suggested or running, "it waits for trials that run"
                break
            suggested.append(suggestion)
        if not suggested and not running:
            return {trial.place: trial.key for trial in record.trials() if trial.place is not None}
        if suggested and (not running or chance.random() < 0.6):
            begins = suggested.pop(chance.randrange(len(suggested)))
            hear(begins)
            search.start(begins, record.start_trial(begins.key, begins.config, begins.place))
            running.append(begins)
            continue
        ends = running.pop(chance.randrange(len(running)))
        ended += 1
        result = outcome(ends.config)
        if ended == dies_after and chance.random() < 0.3:
            return {}
        record.finish_trial(ends.key, result)
        if ended == dies_after:
            return {}
        search.tell(ends, result)
