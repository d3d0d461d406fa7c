"""The account of a study's budget: what trials use, and when a limit is reached. Time is a clock that the test sets."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.engine.budget import Account, Reached, spent
from study.errors import StudyError
from study.record.usage import Allotment, Machine, Share, Usage, shares, total
from study.spec import StudySpec, build_spec
from study.spec.budget import BudgetConfig

HOUR = 3600.0
BASE = {"name": "limited", "task": "digits", "sampler": "grid", "space": {"aux_weight": [0, 1]}}
SIXTEEN_CPUS = Machine(16, 0, "c7i.4xlarge")


@dataclass
class Clock:
    """A clock that stands still until it is set."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


def account_of(clock: Clock, cpus: float = 1, gpus: float = 0, **limits: object) -> Account:
    return Account(BudgetConfig(**limits), Allotment(cpus, gpus), clock)


def name_of(reached: Reached | None) -> str | None:
    return reached and reached.name


def test_a_study_without_a_budget_is_never_stopped() -> None:
    clock = Clock()
    account = account_of(clock)
    for key in "abcdef":
        account.hand_out(key)
        account.begin(key)
        clock.seconds += 1e6 * HOUR
        account.end(key, failed=True)
    assert account.reached() is None


def test_cpu_hours_are_of_all_trials_side_by_side_also_of_those_that_run_and_those_that_failed() -> None:
    clock = Clock()
    account = account_of(clock, cpus=4, cpu_hours=20)
    for key in ("a", "b"):
        account.hand_out(key)
        account.begin(key)
    clock.seconds += HOUR
    account.end("a", failed=True)
    assert account.used.cpu_hours == pytest.approx(8)
    clock.seconds += 2.9 * HOUR
    assert account.used.cpu_hours == pytest.approx(4 + 15.6)
    assert account.reached() is None
    clock.seconds += 0.1 * HOUR
    assert name_of(account.reached()) == "cpu_hours"
    account.end("b")
    assert str(account.reached()) == "budget.cpu_hours: 20 of 20 CPU-hours used"


def test_gpu_hours_are_by_the_trials_share_of_a_gpu() -> None:
    clock = Clock()
    account = account_of(clock, gpus=0.25, gpu_hours=1)
    account.hand_out("a")
    account.begin("a")
    clock.seconds += 3.99 * HOUR
    assert account.reached() is None
    clock.seconds += 0.02 * HOUR
    assert name_of(account.reached()) == "gpu_hours"


def test_what_earlier_runs_of_the_command_have_used_counts_but_not_their_wall_time_nor_their_failures() -> None:
    clock = Clock()
    account = account_of(clock, trials=3, hours=2, max_failed_trials=0)
    account.carry_over(Usage(trials=2, cpu_hours=100, node_hours={"": 100}))
    assert account.reached() is None
    account.hand_out("a")
    assert name_of(account.reached()) == "trials", "a trial counts as soon as it is handed out"
    clock.seconds += 2 * HOUR
    account.begin("a")
    account.end("a", failed=True)
    reached = account.reached()
    assert name_of(reached) == "max_failed_trials", "the most urgent reason is named"


def test_a_trial_that_begins_again_after_its_worker_died_counts_again() -> None:
    account = account_of(Clock(), trials=2)
    account.hand_out("a")
    account.begin("a")
    account.end("a")
    assert account.reached() is None
    account.begin("a")
    assert account.used.trials == 2
    assert name_of(account.reached()) == "trials"


def test_wall_time_is_of_this_run_of_the_command() -> None:
    clock = Clock()
    account = account_of(clock, hours=1.5)
    clock.seconds += 1.49 * HOUR
    assert account.reached() is None
    clock.seconds += 0.01 * HOUR
    assert str(account.reached()) == "budget.hours: this run of the command has begun trials for 1.5 hours"


def test_one_failure_more_than_may_be_stops_the_study_and_names_the_trials() -> None:
    account = account_of(Clock(), max_failed_trials=2)
    for key in ("aaaaaaaabbbbbbbb", "cccccccccc", "dddddddddd"):
        assert account.reached() is None
        account.hand_out(key)
        account.begin(key)
        account.end(key, failed=True)
    reached = account.reached()
    assert reached is not None
    assert str(reached) == "budget.max_failed_trials: 3 trial(s) failed, and 2 may: aaaaaaaa, cccccccc, dddddddd"
    assert reached.failed[0] == "aaaaaaaabbbbbbbb"


def test_a_trial_that_fails_before_it_begins_is_a_failure_that_used_nothing() -> None:
    account = account_of(Clock(), max_failed_trials=0)
    account.hand_out("a")
    account.end("a", failed=True)
    assert account.used == Usage()
    assert name_of(account.reached()) == "max_failed_trials"


def test_money_is_the_price_of_the_trials_share_of_its_node() -> None:
    clock = Clock()
    prices = {"c7i.4xlarge": 0.71, "default": 2.0}
    account = account_of(clock, cpus=4, money=1, prices=prices)
    account.hand_out("a")
    account.begin("a")
    account.place("a", SIXTEEN_CPUS)
    assert account.is_placed("a")
    clock.seconds += 2 * HOUR
    (money,) = [share for share in shares(BudgetConfig(prices=prices), account.used) if share.name == "money"]
    assert money.used == pytest.approx(0.71 * 2 * 4 / 16)
    account.end("a")
    account.begin("b")
    assert not account.is_placed("b")
    clock.seconds += HOUR
    reached = account.reached()
    assert name_of(reached) == "money", "as long as nobody knows where it runs, it has a whole node of the default type"
    assert "2.355 of 1 units of money used" in str(reached)


@pytest.mark.parametrize(
    ("allotment", "machine", "share"),
    [
        (Allotment(1, 0), Machine(16, 0), 1 / 16),
        (Allotment(1, 1), Machine(4, 1), 1.0),  # who has the only GPU has the machine
        (Allotment(1, 0.25), Machine(4, 1), 0.25),
        (Allotment(4, 0.25), Machine(4, 1), 1.0),
        (Allotment(8, 0), Machine(4, 0), 1.0),  # more threads than CPUs
        (Allotment(1, 0), Machine(0, 0), 1.0),  # a machine of unknown size
    ],
)
def test_the_share_of_a_node_is_that_of_its_cpus_or_gpus_whichever_is_larger(
    allotment: Allotment, machine: Machine, share: float
) -> None:
    assert allotment.on(machine).node_share == pytest.approx(share)


@pytest.mark.parametrize(
    ("prices", "price"),
    [
        ({"a": 1, "b": 5, "default": 2}, 2),
        ({"a": 1, "b": 5}, 5),  # nobody knows which: the highest
        ({}, 0),
    ],
)
def test_a_node_of_another_type_has_the_default_price_and_without_one_the_highest(
    prices: dict[str, float], price: float
) -> None:
    assert BudgetConfig(prices=prices).price("c") == price
    assert BudgetConfig(prices=prices | {"c": 0}).price("c") == 0


amounts = st.floats(0, 1e6, allow_nan=False)
usages = st.builds(
    Usage,
    trials=st.integers(0, 1000),
    cpu_hours=amounts,
    gpu_hours=amounts,
    node_hours=st.dictionaries(st.sampled_from(["", "a", "b"]), amounts),
)


@given(usages)
def test_usage_comes_back_from_the_record_as_it_was(used: Usage) -> None:
    assert Usage.from_json(used.to_json()) == used


@given(st.lists(usages, max_size=5))
def test_the_cost_of_all_is_the_sum_of_the_costs(parts: list[Usage]) -> None:
    budget = BudgetConfig(prices={"a": 0.5, "default": 2})
    assert budget.cost(total(parts).node_hours) == pytest.approx(sum(budget.cost(part.node_hours) for part in parts))


@given(st.builds(Allotment, st.integers(1, 64), st.sampled_from([0.0, 0.25, 1.0, 2.0]), st.sampled_from(["", "gpu"])))
def test_an_allotment_comes_back_from_the_tags_of_its_run(allotment: Allotment) -> None:
    assert Allotment.from_tags(allotment.tags()) == allotment
    (share,) = {on.node_share for on in [allotment.on(Machine(64, 2))]}
    assert Allotment.from_tags(allotment.on(Machine(64, 2)).tags()).node_share == pytest.approx(share, rel=1e-5)


@given(
    st.lists(st.tuples(st.sampled_from(["begin", "end", "fail", "wait"]), st.floats(0, HOUR)), max_size=40),
    st.floats(0.1, 20),
)
def test_no_more_is_used_than_the_limit_and_what_the_running_trials_still_needed(
    steps: list[tuple[str, float]], limit: float
) -> None:
    clock = Clock()
    account = account_of(clock, cpus=2, cpu_hours=limit)
    running: list[str] = []
    for number, (step, seconds) in enumerate(steps):
        clock.seconds += seconds
        if step == "begin" and account.reached() is None:
            assert account.used.cpu_hours < limit
            running.append(str(number))
            account.hand_out(running[-1])
            account.begin(running[-1])
        elif step in ("end", "fail") and running:
            account.end(running.pop(), failed=step == "fail")
        if account.used.cpu_hours >= limit:
            assert name_of(account.reached()) == "cpu_hours"
    for key in running:
        account.end(key)
    assert (spent(BudgetConfig(cpu_hours=limit), account.used) is not None) == (account.used.cpu_hours >= limit)


def test_a_share_says_what_is_used_and_of_how_much() -> None:
    assert str(Share("cpu_hours", 3.21987, 64)) == "3.22 of 64 CPU-hours"
    assert str(Share("trials", 12345, None)) == "12,345 trials"
    assert not Share("trials", 99, 100).spent
    assert Share("trials", 100, 100).spent


def spec_with(**budget: object) -> StudySpec:
    return build_spec(BASE | {"budget": budget}, "limited")


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"money": 5}, r"budget: money needs prices: add the price of an hour .* prices: \{default: 0.5\}"),
        ({"hours": 0}, r"budget.hours: should be greater than 0, got 0"),
        ({"cpu_hours": -1}, r"budget.cpu_hours: should be greater than 0"),
        ({"trials": 0}, r"budget.trials: should be greater than or equal to 1"),
        ({"max_failed_trials": -1}, r"budget.max_failed_trials: should be greater than or equal to 0"),
        ({"prices": {"default": -0.5}}, r"budget.prices.default: should be greater than or equal to 0"),
        ({"cpu_hour": 3}, r"budget.cpu_hour: no such field .*did you mean 'budget.cpu_hours'\?"),
        ({"gpu_hours": float("inf")}, r"budget.gpu_hours: should be"),
    ],
)
def test_an_impossible_budget_is_refused_and_the_field_is_named(budget: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        spec_with(**budget)


def test_a_study_with_another_budget_has_the_same_trials_and_protocol() -> None:
    plain, limited = build_spec(BASE, "limited"), spec_with(trials=1, money=2, prices={"default": 1})
    digest = "0" * 64
    assert [trial.key(digest) for trial in plain.listed()] == [trial.key(digest) for trial in limited.listed()]
    assert plain.protocol("digits") == limited.protocol("digits")


def test_a_budget_is_written_with_what_it_limits_alone() -> None:
    assert spec_with(trials=5, max_failed_trials=0).model_dump(mode="json")["budget"] == {
        "trials": 5,
        "max_failed_trials": 0,
    }
