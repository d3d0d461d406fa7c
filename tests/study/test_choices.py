"""What a search chooses depends on its seed and on the number of trials side by side, not on when they end."""

import random
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from study.engine.execute import note_on_workers
from study.record.outcome import Outcome, Stop
from study.search.choices import lag_of
from study.search.search import WAIT, Suggestion
from study.spec import StudySpec, build_spec
from tests.study.memory import MemoryRecord
from tests.study.searching import RUN, drive_side_by_side, take_up
from tests.study.synthetic import DIGEST, falling, make_outcome
from trainables.outcomes import STOPPED_EARLY
from trainables.trial import TrialConfig

MEASURES = ("val_accuracy", "weight_std", "rlct", "rlct_chain_se")
# Conditions, repeated choices, targets with two names.
WITH_CONDITIONS: dict[str, Any] = {
    "hidden_layers": {"low": 1, "high": 2},
    "width": [8, 16],
    "target_depth": [1, "last"],
    "aux_weight": {"low": 0.1, "high": 20},
}
NUMBERS: dict[str, Any] = {
    "hidden_layers": 1,
    "width": {"low": 8, "high": 64},
    "learning_rate": {"low": 0.0001, "high": 0.01, "log": True},
    "aux_weight": {"low": 0.1, "high": 20, "baseline": False},
    "target_depth": 1,
}
FEW: dict[str, Any] = WITH_CONDITIONS | {"aux_weight": [0, 1, 5]}
SAMPLERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": "tpe", "n_startup_trials": 4}, WITH_CONDITIONS),
    ({"name": "tpe", "n_startup_trials": 4}, FEW),
    ({"name": "tpe", "n_startup_trials": 4, "multivariate": True, "group": True}, WITH_CONDITIONS),
    ({"name": "nsga2", "population_size": 4}, WITH_CONDITIONS),
    ({"name": "nsga3", "population_size": 4}, WITH_CONDITIONS),
    ({"name": "random"}, WITH_CONDITIONS),
    ({"name": "qmc"}, WITH_CONDITIONS),
    ({"name": "optuna.samplers:TPESampler", "n_startup_trials": 4}, WITH_CONDITIONS),
]
CMAES = pytest.param(
    {"name": "cmaes", "popsize": 4},
    NUMBERS,
    marks=pytest.mark.skipif(find_spec("cmaes") is None, reason="the extra 'samplers' is not installed"),
)
TRIALS = 14


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Optuna's, of samplers that it calls experimental, and of CMA-ES, which does not heed constraints.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Constraints have been set")
        yield


def name_of(value: Any) -> str | None:
    if not isinstance(value, dict) or "name" not in value:
        return "few" if value is FEW else ""
    return str(value["name"]) + ("-group" if "group" in value else "")


def make_spec(sampler: dict[str, Any], space: dict[str, Any], **changes: Any) -> StudySpec:
    objectives = {"weight_std": "minimize"} | ({} if sampler["name"] in ("cmaes", "gp") else {"rlct": "minimize"})
    raw: dict[str, Any] = {
        "name": "chosen",
        "task": "digits",
        "trials": TRIALS,
        "replicates": 2,
        "sampler": sampler,
        "space": space,
        "objectives": objectives,
        "design": [{"hidden_layers": 1, "width": 8, "aux_weight": [1, 5], "target_depth": 1}]
        if space is not NUMBERS
        else [],
    }
    return build_spec(raw | changes, "chosen")


def outcome(config: TrialConfig) -> Outcome:
    """Of these trials, the wide ones with a large weight have learned nothing."""
    collapsed = config.self_model.aux_weight > 4 and config.network.width > 8
    return make_outcome(config, falling, "collapsed" if collapsed else "ok", measures=MEASURES)


def keys_of(
    spec: StudySpec, workers: int, seed: int, dies_after: int | None = None, optuna_is_lost: bool = False
) -> list[str]:
    """The keys of a search by place; `seed` is of the order in which things happen, a death among them."""
    chance, record, storage = random.Random(seed), MemoryRecord(), InMemoryStorage()
    if dies_after is not None:
        assert drive_side_by_side(spec, storage, record, workers, chance, outcome, dies_after) == {}
    if optuna_is_lost:
        storage = InMemoryStorage()
    keys = drive_side_by_side(spec, storage, record, workers, chance, outcome)
    return [keys[place] for place in range(len(keys))]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("sampler", "space"), [*SAMPLERS, CMAES], ids=name_of)
def test_a_search_is_the_same_whatever_ends_first_and_wherever_it_died(
    sampler: dict[str, Any], space: dict[str, Any], workers: int
) -> None:
    spec = make_spec(sampler, space)
    undisturbed = keys_of(spec, workers, seed=0)
    assert len(set(undisturbed)) == len(undisturbed) == TRIALS
    for seed in range(1, 4):
        assert keys_of(spec, workers, seed) == undisturbed
    for dies_after in (1, 5, 9, 12):
        for lost in (False, True):
            again = keys_of(spec, workers, dies_after, dies_after, optuna_is_lost=lost)
            assert again == undisturbed, f"dead after {dies_after} trials, Optuna's study {'lost' if lost else 'kept'}"


def test_a_search_with_gaussian_processes_is_the_same_whatever_ends_first_and_wherever_it_died() -> None:
    spec = make_spec({"name": "gp", "n_startup_trials": 3}, NUMBERS, trials=8)
    undisturbed = keys_of(spec, 2, seed=0)
    assert keys_of(spec, 2, seed=1) == keys_of(spec, 2, 2, dies_after=5, optuna_is_lost=True) == undisturbed


@settings(max_examples=25, deadline=None)
@given(
    workers=st.integers(1, 5),
    deaths=st.lists(st.integers(1, 6), max_size=3),
    seed=st.integers(0, 2**20),
    sampler=st.sampled_from([sampler for sampler, _ in SAMPLERS if sampler["name"] in ("tpe", "nsga2")]),
)
def test_a_search_that_dies_again_and_again_is_the_undisturbed_one(
    workers: int, deaths: list[int], seed: int, sampler: dict[str, Any]
) -> None:
    spec = make_spec(sampler, WITH_CONDITIONS)
    chance, record = random.Random(seed), MemoryRecord()
    for dies_after in deaths:
        drive_side_by_side(spec, InMemoryStorage(), record, workers, chance, outcome, dies_after)
    keys = drive_side_by_side(spec, InMemoryStorage(), record, workers, chance, outcome)
    assert [keys[place] for place in range(TRIALS)] == keys_of(spec, workers, seed=0)


@pytest.mark.parametrize(("sampler", "space"), [*SAMPLERS, CMAES], ids=name_of)
def test_every_sampler_goes_on_where_most_trials_are_stopped_early(
    sampler: dict[str, Any], space: dict[str, Any]
) -> None:
    def mostly_stopped(config: TrialConfig) -> Outcome:
        if config.self_model.aux_weight < 1:
            return outcome(config)
        stopped = make_outcome(config, falling, STOPPED_EARLY, measures=("val_accuracy", "weight_std"))
        return replace(stopped, rlct=None, stop=Stop("dominated at epoch 1 by trial 1a2b3c4d", ""))

    spec, storage, record = make_spec(sampler, space), InMemoryStorage(), MemoryRecord()
    chance = random.Random(0)
    drive_side_by_side(spec, storage, record, 2, chance, mostly_stopped, dies_after=6)
    keys = drive_side_by_side(spec, storage, record, 2, chance, mostly_stopped)
    assert len(set(keys.values())) == TRIALS
    states = [trial.state for trial in optuna.load_study(study_name="chosen", storage=storage).trials]
    assert states.count(TrialState.PRUNED) > 1
    assert states.count(TrialState.PRUNED) + states.count(TrialState.COMPLETE) == TRIALS


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", ["random", "tpe"])
def test_a_trial_has_the_same_rivals_whatever_ends_first_and_wherever_the_search_died(name: str, workers: int) -> None:
    spec = make_spec({"name": name}, WITH_CONDITIONS, stopping={"rule": "dominated", "from_epoch": 1})

    def rivals_of(seed: int, dies_after: int | None = None) -> dict[int, tuple[str, ...]]:
        chance, record, storage = random.Random(seed), MemoryRecord(), InMemoryStorage()
        rivals: dict[int, tuple[str, ...]] = {}

        def hear(suggestion: Suggestion) -> None:
            assert rivals.setdefault(suggestion.place, suggestion.rivals) == suggestion.rivals, "it began again"

        if dies_after is not None:
            drive_side_by_side(spec, storage, record, workers, chance, outcome, dies_after, hear)
        drive_side_by_side(spec, InMemoryStorage(), record, workers, chance, outcome, hear=hear)
        return rivals

    undisturbed = rivals_of(seed=0)
    assert undisturbed.keys() == set(range(TRIALS))
    listed = range(len(list(spec.listed())))
    assert not any(undisturbed[place] for place in listed), "listed trials run to their end"
    assert [bool(undisturbed[place]) for place in range(len(listed), TRIALS)] == [
        place >= lag_of(workers) for place in range(len(listed), TRIALS)
    ]
    for seed in range(1, 4):
        assert rivals_of(seed) == undisturbed
    for dies_after in (1, 5, 9, 12):
        assert rivals_of(dies_after, dies_after) == undisturbed


def test_a_random_search_with_early_stopping_waits_as_others_do() -> None:
    stopping = {"rule": "dominated", "from_epoch": 1}
    _, given_out = ask(make_spec({"name": "random"}, WITH_CONDITIONS, trials=40, stopping=stopping), workers=2)
    assert len(given_out) == lag_of(2)


def ask(spec: StudySpec, workers: int) -> tuple[Any, list[Suggestion]]:
    """A search, and the trials that it gives before one has ended, the study's trials at most."""
    search = take_up(spec, InMemoryStorage(), MemoryRecord(), workers)
    given_out: list[Suggestion] = []
    while len(given_out) < (spec.trials or 0) and isinstance(suggestion := search.ask(), Suggestion):
        given_out.append(suggestion)
    return search, given_out


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_search_waits_for_a_trial_that_lies_twice_the_workers_less_one_behind(workers: int) -> None:
    spec = make_spec({"name": "tpe", "n_startup_trials": 1}, WITH_CONDITIONS, design=[], trials=40)
    search, given_out = ask(spec, workers)
    assert len(given_out) == lag_of(workers)
    slow, *others = given_out
    for each in others:
        search.tell(each, outcome(each.config))
    assert search.ask() is WAIT, "the slow one has not ended"
    search.tell(slow, outcome(slow.config))
    for _ in given_out:
        assert isinstance(search.ask(), Suggestion)
    assert search.ask() is WAIT


def test_a_random_search_waits_for_nothing() -> None:
    _, given_out = ask(make_spec({"name": "random"}, WITH_CONDITIONS, trials=40), workers=1)
    assert len(given_out) == 40


def test_a_trial_that_failed_is_waited_for_no_longer() -> None:
    search, given_out = ask(make_spec({"name": "tpe"}, WITH_CONDITIONS, design=[]), workers=2)
    search.fail(given_out[0])
    assert isinstance(search.ask(), Suggestion)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_result_changes_the_choices_from_its_lag_on_and_none_before(workers: int) -> None:
    sampler = {"name": "tpe", "n_startup_trials": 1}
    spec = make_spec(sampler, NUMBERS, objectives={"weight_std": "minimize"}, trials=9)
    changed_at = 3

    def choices(value: float) -> list[TrialConfig]:
        def of(config: TrialConfig) -> Outcome:
            changed = len(configs) == changed_at

            return make_outcome(config, (lambda *_: {"weight_std": value}) if changed else falling, measures=MEASURES)

        configs: list[TrialConfig] = []
        search = take_up(spec, InMemoryStorage(), MemoryRecord(), workers)
        while len(configs) < 9:
            suggestion = search.ask()
            assert isinstance(suggestion, Suggestion)
            search.tell(suggestion, of(suggestion.config))
            configs.append(suggestion.config)
        return configs

    good, bad = choices(0.0), choices(9.0)
    first = changed_at + lag_of(workers)
    assert good[:first] == bad[:first]
    assert good[first:] != bad[first:]


@pytest.mark.parametrize(
    ("sampler", "workers", "before", "note"),
    [
        ("tpe", 2, None, None),
        ("tpe", 2, 2, None),
        ("tpe", 4, None, "With 4 trials side by side, tpe chooses 7 of 12 trials before it looks at a result."),
        ("tpe", 9, 9, "With 9 trials side by side, tpe chooses 12 of 12 trials before it looks at a result."),
        ("tpe", 2, 3, "last run with 3 trials side by side, and now with 2: tpe will choose other trials"),
        ("random", 9, 2, None),
    ],
)
def test_a_search_that_learns_little_or_goes_on_with_other_workers_says_so(
    sampler: str, workers: int, before: int | None, note: str | None
) -> None:
    said = note_on_workers(make_spec({"name": sampler}, WITH_CONDITIONS, trials=12), workers, before)
    assert (said is None) if note is None else (said is not None and note in said)


def test_a_search_without_regard_to_results_says_that_stopping_depends_on_the_workers() -> None:
    stopping = {"rule": "dominated", "from_epoch": 1}
    objectives = {"val_accuracy": "maximize", "weight_std": "minimize"}
    spec = make_spec({"name": "random"}, WITH_CONDITIONS, trials=12, stopping=stopping, objectives=objectives)
    said = note_on_workers(spec, 2, 3)
    assert said is not None
    assert "with 3 trials side by side, and now with 2: other trials will be stopped early than before" in said
    assert note_on_workers(spec, 9, None) is None, "it never looks at a result"


def test_a_study_that_is_stored_has_the_places_and_no_trial_that_was_not_begun() -> None:
    storage, record = InMemoryStorage(), MemoryRecord()
    spec = make_spec({"name": "tpe", "n_startup_trials": 4}, FEW)
    keys = drive_side_by_side(spec, storage, record, 3, random.Random(3), outcome)
    stored = optuna.load_study(study_name="chosen", storage=storage).trials
    assert {trial.user_attrs["place"]: trial.user_attrs["trial_key"] for trial in stored} == keys
    assert {trial.state for trial in stored} == {TrialState.COMPLETE}
    assert optuna.load_study(study_name="chosen", storage=storage).user_attrs["record"] == RUN
    assert {config.key(DIGEST) for config in spec.listed()} == {keys[0], keys[1]}
