"""Samplers made anew for every suggestion: going on, constraints, running trials, and options that are wrong."""

import sys
import types
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import GPSampler, NSGAIISampler, RandomSampler
from optuna.trial import create_trial
from scipy.stats import qmc

from study.errors import StudyError
from study.search.samplers import check_sampler, draws_at_random, make_sampler
from study.spec.sampler import CHOOSING, SamplerConfig

# Samplers that soon draw no longer at random, with the number of trials after which they have searched for a while.
SHORT: list[tuple[dict[str, Any], int]] = [
    ({"name": "tpe", "n_startup_trials": 4}, 9),
    ({"name": "tpe", "n_startup_trials": 4, "multivariate": True, "group": True}, 9),
    ({"name": "nsga2", "population_size": 4}, 13),
    ({"name": "nsga3", "population_size": 4}, 13),
    ({"name": "gp", "n_startup_trials": 3}, 5),
    ({"name": "random"}, 5),
    ({"name": "qmc"}, 9),
]
SEED = 3


def sampler_of(raw: Any) -> SamplerConfig:
    return SamplerConfig.model_validate(raw)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        # Optuna's, of samplers that it calls experimental, and of CMA-ES, which does not heed constraints.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Constraints have been set")
        yield


def name_of(value: Any) -> str | None:
    return value["name"] + ("-group" if "group" in value else "") if isinstance(value, dict) else None


def test_a_design_point_can_be_a_parent() -> None:
    study = optuna.create_study()
    for number in range(3):
        study.enqueue_trial({"x": 0.123})
        study.sampler = make_sampler(sampler_of({"name": "nsga2", "population_size": 3}), SEED, number, attempt=0)
        study.tell(study.ask({"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}), 0.0)
    children = []
    for seed in range(20):
        study.sampler = make_sampler(sampler_of({"name": "nsga2", "population_size": 3}), seed, 3, attempt=0)
        children.append(study.ask({"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}).params["x"])
    assert children.count(0.123) > 5


@pytest.mark.parametrize("raw", [raw for raw, _ in SHORT], ids=name_of)
def test_another_seed_of_the_study_draws_other_points(raw: dict[str, Any]) -> None:
    def second_point(seed: int) -> dict[str, Any]:
        study = optuna.create_study()
        study.add_trial(create_trial(params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}, value=0))
        study.sampler = make_sampler(sampler_of(raw), seed, trial=1, attempt=0)
        return study.ask({"x": FloatDistribution(0, 1)}).params

    assert second_point(0) == second_point(0)
    assert second_point(0) != second_point(1)


@pytest.mark.parametrize(
    "raw",
    [{"name": "tpe"}, {"name": "nsga2", "population_size": 8}, {"name": "nsga3", "population_size": 8}, {"name": "gp"}],
    ids=name_of,
)
def test_constraints_of_a_trial_keep_the_search_out_of_a_region_with_good_values(raw: dict[str, Any]) -> None:
    def suggestions(constrained: bool) -> list[float]:
        # Best is x = 0.1; among the feasible points, x = 0.9.
        study = finished_study(
            raw,
            lambda x, y: [abs(x - 0.1 if x < 0.5 else 1.9 - x) + part for part in (0.1 * y, 0.1 - 0.1 * y)],
            lambda x, y: constrained and x < 0.5,
        )
        return [suggested(study, raw, 16 + number)["x"] for number in range(2 if raw["name"] == "gp" else 15)]

    assert np.median(suggestions(constrained=False)) < 0.4
    assert np.median(suggestions(constrained=True)) > 0.6


@pytest.mark.parametrize("raw", [{"name": "tpe"}, {"name": "gp"}], ids=name_of)
def test_a_running_trial_changes_the_next_suggestion(raw: dict[str, Any]) -> None:
    assert two_suggestions_with_the_same_numbers(raw)[0] != two_suggestions_with_the_same_numbers(raw)[1]


@pytest.mark.parametrize(
    "raw",
    [{"name": "tpe", "constant_liar": False}, {"name": "nsga2", "population_size": 8}, {"name": "random"}],
    ids=name_of,
)
def test_a_sampler_that_does_not_see_running_trials_suggests_the_same_for_the_same_numbers(raw: dict[str, Any]) -> None:
    first, second = two_suggestions_with_the_same_numbers(raw)
    assert first == second


def two_suggestions_with_the_same_numbers(raw: dict[str, Any]) -> list[list[float]]:
    """Suggestions with the same random numbers, first with no running trial and then with the first one running."""
    pairs = []
    for number in range(16, 19):
        study = finished_study(raw, lambda x, y: [(x - 0.4) ** 2 + y])
        # Genetic samplers choose the parents of a generation in its first trial.
        suggested(study, raw, 15)
        pairs.append([suggested(study, raw, number)["x"] for _ in range(2)])
    first, second = zip(*pairs, strict=True)
    return [list(first), list(second)]


def finished_study(
    raw: dict[str, Any],
    values_of: Callable[[float, float], list[float]],
    is_infeasible: Callable[[float, float], bool] = lambda x, y: False,
    has_y: Callable[[int], bool] = lambda number: True,
) -> optuna.Study:
    """A study with sixteen finished trials."""
    points = np.random.default_rng(0).random((16, 2)).tolist()
    study = optuna.create_study(directions=["minimize"] * len(values_of(0, 0)))
    for number, (x, y) in enumerate(points):
        params = {"x": x, "y": y} if has_y(number) else {"x": x}
        study.sampler = make_sampler(sampler_of(raw), SEED, number, attempt=0)
        study.enqueue_trial(params)
        trial = study.ask({name: FloatDistribution(0, 1) for name in params})
        trial.set_constraint("learned", float(is_infeasible(x, y)))
        study.tell(trial, values_of(x, y))
    return study


def suggested(study: optuna.Study, raw: dict[str, Any], number: int) -> dict[str, Any]:
    """The parameters of the next trial, which stays open."""
    study.sampler = make_sampler(sampler_of(raw), SEED, number, attempt=0)
    return study.ask({"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}).params


@pytest.mark.parametrize(
    "raw",
    [
        {"name": "tpe"},
        {"name": "tpe", "multivariate": True, "group": True},
        {"name": "tpe", "multivariate": True},
        {"name": "nsga2", "population_size": 8},
        {"name": "nsga3", "population_size": 8},
        {"name": "gp"},
        {"name": "qmc"},
        {"name": "cmaes"},
    ],
    ids=str,
)
def test_a_sampler_handles_conditions_if_results_change_how_a_parameter_of_some_trials_is_drawn(
    raw: dict[str, Any],
) -> None:
    def drawn_after(sign: int) -> list[float]:
        # Every third trial is a baseline, which has no y.
        study = finished_study(raw, lambda x, y: [sign * (y + 0.1 * x)], has_y=lambda number: number % 3 > 0)
        return [suggested(study, raw, number)["y"] for number in range(16, 20)]

    learns = drawn_after(1) != drawn_after(-1)
    assert learns != draws_at_random(sampler_of(raw))


def test_points_of_a_quasi_random_search_lie_more_evenly_than_random_ones() -> None:
    def points(name: str) -> np.ndarray:
        study = optuna.create_study()
        for number in range(33):
            study.sampler = make_sampler(sampler_of(name), SEED, number, attempt=0)
            trial = study.ask({"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)})
            study.tell(trial, 0.0)
        # The first one is drawn at random: Optuna learns of the parameters from it.
        return np.array([[trial.params["x"], trial.params["y"]] for trial in study.trials[1:]])

    assert qmc.discrepancy(points("qmc")) < 0.3 * qmc.discrepancy(points("random"))


def test_a_second_try_of_a_quasi_random_trial_and_any_at_random_are_random() -> None:
    for sampler in (make_sampler(sampler_of("qmc"), SEED, 5, 1), make_sampler(sampler_of("gp"), SEED, 5, 0, True)):
        assert type(sampler) is RandomSampler


def test_options_reach_the_sampler() -> None:
    sampler = make_sampler(sampler_of({"name": "nsga2", "population_size": 7}), SEED, 0, 0)
    assert isinstance(sampler, NSGAIISampler)
    assert sampler.population_size == 7
    assert isinstance(make_sampler(sampler_of("optuna.samplers:GPSampler"), SEED, 0, 0), GPSampler)


@pytest.mark.parametrize("name", [name for name in CHOOSING if name not in ("cmaes", "gp")])
@pytest.mark.parametrize("objectives", [1, 3])
def test_every_sampler_passes_the_check_with_one_and_three_objectives(name: str, objectives: int) -> None:
    check_sampler(sampler_of(name), objectives, numeric_only=False)


def test_the_gp_passes_the_check_with_constraints_choices_and_three_objectives() -> None:
    check_sampler(sampler_of({"name": "gp", "n_startup_trials": 2}), objectives=3, numeric_only=False)


@pytest.mark.parametrize(
    ("raw", "objectives", "numeric", "message"),
    [
        ({"name": "tpe", "n_startup_trails": 5}, 3, False, "'n_startup_trails' is unknown; did you mean 'n_startup_tr"),
        ({"name": "tpe", "n_startup_trails": 5}, 3, False, "options of tpe: .*n_startup_trials, n_ei_candidates"),
        ({"name": "random", "x": 5}, 3, False, "option 'x' is unknown; random has no options"),
        ({"name": "tpe", "n_startup_trials": "many"}, 3, False, "tpe's n_startup_trials is 'many'; .* valid integer"),
        ({"name": "tpe", "constant_liar": 1}, 3, False, "tpe's constant_liar is 1; it should be a valid boolean"),
        ({"name": "tpe", "n_ei_candidates": 0}, 3, False, r"tpe \(n_ei_candidates 0\) fails in a rehearsal"),
        ({"name": "nsga2", "population_size": 1}, 3, False, "rehearsal with 3 objective.*greater than or equal to 2"),
        ({"name": "nsga3", "dividing_parameter": 0}, 3, False, "fails in a rehearsal"),
        ({"name": "qmc", "qmc_type": "halten"}, 3, False, "Choose either `halton` or `sobol`"),
        ({"name": "tpe", "seed": 1}, 3, False, "tpe's seed is set by the study"),
        ({"name": "gp", "constraints_func": "f"}, 3, False, "gp's constraints_func is set by the study"),
        ({"name": "tpe", "gamma": "f"}, 3, False, "'gamma' is an object of Python, which a study cannot hold"),
        ({"name": "nsga2", "crossover": "SBX"}, 3, False, "'crossover' is an object of Python"),
        ("cmaes", 2, True, "cmaes searches for one objective, and the study has 2"),
        ("cmaes", 1, False, "cmaes searches ranges of numbers alone"),
    ],
)
def test_what_a_sampler_cannot_do_is_refused_before_the_first_trial(
    raw: Any, objectives: int, numeric: bool, message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        check_sampler(sampler_of(raw), objectives, numeric)


def test_cmaes_passes_the_check_or_names_the_package_that_it_needs() -> None:
    if find_spec("cmaes") is None:
        with pytest.raises(StudyError, match=r"cmaes needs the package cmaes, which is not installed"):
            check_sampler(sampler_of("cmaes"), objectives=1, numeric_only=True)
    else:
        check_sampler(sampler_of({"name": "cmaes", "popsize": 4}), objectives=1, numeric_only=True)


OWN = """
from optuna.samplers import BaseSampler, RandomSampler

class Lucky(RandomSampler):
    def __init__(self, seed: int | None = None, luck: float = 0.5, friends: list[str] = []):
        super().__init__(seed=seed)
        self.given = seed, luck, friends

class Seedless(RandomSampler):
    def __init__(self, luck: "float" = 0.5):
        super().__init__(seed=7)

class Open(RandomSampler):
    def __init__(self, **options):
        super().__init__(options.pop("seed"))
        self.options = options

class Unfinished(BaseSampler):
    pass

class Single(RandomSampler):
    def sample_relative(self, study, trial, search_space):
        study.best_trials if len(study.directions) == 1 else study.direction

print_me = 3
"""


@pytest.fixture
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_samplers.py").write_text(OWN)
    (tmp_path / "broken_samplers.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_own")
def test_an_own_class_gets_its_options_and_a_seed_of_each_trial() -> None:
    sampler = sampler_of({"name": "own_samplers:Lucky", "luck": 1, "friends": ["a"]})
    check_sampler(sampler, objectives=2, numeric_only=False)
    made: list[Any] = [make_sampler(sampler, SEED, trial, attempt) for trial, attempt in ((0, 0), (0, 1), (1, 0))]
    assert [each.given[1:] for each in made] == [(1, ["a"])] * 3
    assert len({each.given[0] for each in made}) == 3
    check_sampler(sampler_of({"name": "own_samplers:Seedless", "luck": 0.1}), objectives=1, numeric_only=True)
    check_sampler(sampler_of({"name": "own_samplers:Open", "anything": 1}), objectives=1, numeric_only=True)


@pytest.mark.usefixtures("_own")
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"name": "own_samplers:Lucky", "lukc": 1},
            "did you mean 'luck'.*options of own_samplers:Lucky: luck, friends",
        ),
        ({"name": "own_samplers:Lucky", "luck": "x"}, "Lucky's luck is 'x'; it should be a valid number"),
        ({"name": "own_samplers:Seedless", "luck": "x"}, "it should be a valid number"),
        ("own_samplers:Luky", "did you mean 'Lucky'"),
        ("own_samplers:Unfinished", "no complete subclass of optuna.samplers.BaseSampler"),
        ("own_samplers:print_me", "no complete subclass of optuna.samplers.BaseSampler"),
        ("own_samplers:Single", r"Single fails in a rehearsal with 2 objective\(s\): RuntimeError: A single direction"),
        ("broken_samplers:X", "cannot be imported: ZeroDivisionError: division by zero"),
        (
            "no_such_module:X",
            "cannot be imported: ModuleNotFoundError: .*Is the folder of no_such_module on PYTHONPATH",
        ),
    ],
)
def test_an_own_class_that_cannot_be_used_is_refused(raw: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        check_sampler(sampler_of(raw), objectives=2, numeric_only=False)


HUB = """
import types
from own_samplers import Lucky

def load_module(package):
    if package == "samplers/absent":
        raise ValueError("no such package")
    module = types.ModuleType(package.replace("/", "."))
    module.RandomSampler = Lucky
    for name in ("One", "Two")[: 2 if package == "samplers/double" else 1]:
        setattr(module, name, type(name, (Lucky,), {"__module__": module.__name__}))
    return module
"""


@pytest.mark.usefixtures("_own")
def test_a_package_of_optunahub_gives_its_one_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = types.ModuleType("optunahub")  # The real one downloads.
    exec(HUB, vars(hub))
    monkeypatch.setitem(sys.modules, "optunahub", hub)
    sampler = sampler_of({"name": "optunahub:samplers/lucky", "luck": 0.25})
    check_sampler(sampler, objectives=1, numeric_only=True)
    assert type(make_sampler(sampler, SEED, 0, 0)).__name__ == "One"
    with pytest.raises(StudyError, match=r"has 2 sampler classes \(One, Two\)"):
        check_sampler(sampler_of("optunahub:samplers/double"), 1, True)
    with pytest.raises(StudyError, match="cannot be imported: ValueError: no such package"):
        check_sampler(sampler_of("optunahub:samplers/absent"), 1, True)


def test_without_optunahub_its_name_is_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python takes a module that is None for one that is not there.
    monkeypatch.setitem(sys.modules, "optunahub", None)
    with pytest.raises(StudyError, match=r"needs the package optunahub, which is not installed. pip install optunahub"):
        check_sampler(sampler_of("optunahub:samplers/lucky"), 1, True)
