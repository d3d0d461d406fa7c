import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from study.errors import StudyError
from study.record.outcome import Outcome
from study.record.reader import FinishedTrial
from study.search.search import Search, Suggestion
from study.search.store import check_stored_study, open_storage, reconcile
from study.spec import ListedTrial, Point, StudySpec, build_spec
from tests.study.synthetic import DIGEST, falling, make_outcome
from trainables.trial import TrialConfig

# TPE chooses at random for the first ten.
TRIALS = 20
# Optuna's database takes a while to write each one.
MEASURES = ("val_accuracy", "test_accuracy", "weight_std", "rlct", "rlct_chain_se")


def make_spec(**changes: Any) -> StudySpec:
    raw: dict[str, Any] = {
        "name": "searched",
        "task": "digits",
        "trials": TRIALS,
        "replicates": 2,
        "space": {
            "hidden_layers": {"low": 1, "high": 3},
            "width": [8, 16],
            "target_depth": "any",
            "aux_weight": {"low": 0.1, "high": 20},
        },
        "design": [{"hidden_layers": 2, "width": 8, "aux_weight": [0, 1, 10], "target_depth": 1}],
    }
    return build_spec(raw | changes, "searched")


def make_search(
    spec: StudySpec, folder: Path, taken: tuple[str, ...] = (), points: Iterable[Point] | None = None
) -> Search:
    storage = open_storage(f"sqlite:///{folder}/optuna.db")
    listed = [point for point, _ in spec.listed()] if points is None else points
    return Search(spec, DIGEST, storage, listed, taken)


def ask(search: Search) -> Suggestion:
    """The next suggestion, which must exist."""
    suggestion = search.ask()
    assert suggestion is not None
    return suggestion


def run(search: Search, trials: int) -> list[TrialConfig]:
    """Suggest and complete trials one after the other; return their configurations."""
    configs: list[TrialConfig] = []
    while len(configs) < trials and (suggestion := search.ask()) is not None:
        configs.append(suggestion.config)
        search.tell(suggestion, make_outcome(suggestion.config, falling, measures=MEASURES))
    return configs


def means_of(outcome: Outcome) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in outcome.measurements.items()}


def load(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="searched", storage=f"sqlite:///{folder}/optuna.db")


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_design_points_come_first_then_the_sampler_and_no_trial_twice(sampler: str, tmp_path: Path) -> None:
    spec = make_spec(sampler=sampler)
    configs = run(make_search(spec, tmp_path), TRIALS)
    assert [config.self_model.aux_weight for config in configs[:3]] == [0, 1, 10]
    assert len(configs) == TRIALS
    assert len({config.key(DIGEST) for config in configs}) == TRIALS
    for config in configs:
        weight, depths = config.self_model.aux_weight, config.self_model.target_depths
        assert weight == 0 or 0.1 <= weight <= 20
        assert depths == () if weight == 0 else len(depths) == 1
        assert all(1 <= depth <= config.network.hidden_layers for depth in depths)
        assert config.network.width in (8, 16)
    assert len(load(tmp_path).trials) == TRIALS, "no suggestion was a duplicate"
    # The search uses what the space offers.
    assert {config.network.hidden_layers for config in configs} == {1, 2, 3}
    assert sum(config.self_model.aux_weight == 0 for config in configs) >= 2


def test_the_optuna_study_persists_with_values_params_and_user_attributes(tmp_path: Path) -> None:
    spec = make_spec()
    configs = run(make_search(spec, tmp_path), 8)
    study = load(tmp_path)
    assert study.metric_names == ["val_accuracy", "weight_std", "rlct"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert [trial.user_attrs["trial_key"] for trial in complete] == [config.key(DIGEST) for config in configs]
    for trial, config in zip(complete, configs, strict=True):
        expected = means_of(make_outcome(config, falling))
        assert trial.values == pytest.approx([expected["val_accuracy"], expected["weight_std"], expected["rlct"]])
        assert trial.params["hidden_layers"] == config.network.hidden_layers
        assert trial.params.get("self_modeling", True) == (config.self_model.aux_weight > 0)
        assert trial.user_attrs["aux_weight"] == config.self_model.aux_weight
        assert trial.user_attrs["rlct_se"] > 0
        assert {"status_detail", "rlct_verdict", "test_accuracy", "seconds"} <= trial.user_attrs.keys()
    optuna.visualization.plot_pareto_front(study)
    optuna.visualization.plot_parallel_coordinate(study, target=lambda trial: trial.values[2])


@pytest.mark.parametrize(("validation_fraction", "front"), [(0.2, [0]), (0.0, [0, 1])])
def test_a_collapsed_network_is_complete_but_not_on_the_front_unless_only_the_test_split_says_so(
    validation_fraction: float, front: list[int], tmp_path: Path
) -> None:
    objectives = {"weight_std": "minimize", "rlct": "minimize"}
    spec = make_spec(objectives=objectives, training={"validation_fraction": validation_fraction})
    search = make_search(spec, tmp_path)
    for number, status in enumerate(("ok", "collapsed")):
        suggestion = ask(search)

        def values(config: TrialConfig, index: int, number: int = number) -> dict[str, float]:
            return {"weight_std": 1.0 - number, "rlct": 1.0 - number if validation_fraction else 1.0 + number}

        search.tell(suggestion, make_outcome(suggestion.config, values, status))
    study = load(tmp_path)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert [trial.number for trial in study.best_trials] == front


def test_a_diverged_network_is_off_the_front_with_no_validation_split_too(tmp_path: Path) -> None:
    # The training loss shows it; the test split is not used.
    spec = make_spec(objectives={"weight_std": "minimize"}, training={"validation_fraction": 0.0})
    search = make_search(spec, tmp_path)
    for number, status in enumerate(("ok", "diverged")):
        suggestion = ask(search)

        def values(config: TrialConfig, index: int, number: int = number) -> dict[str, float]:
            return {"weight_std": 1.0 - number}

        search.tell(suggestion, make_outcome(suggestion.config, values, status))
    assert [trial.number for trial in load(tmp_path).best_trials] == [0]


@pytest.mark.parametrize(
    ("objectives", "front"),
    [
        ({"weight_std": "minimize", "rlct": "minimize"}, [0]),
        ({"weight_std": "minimize", "val_accuracy": "maximize"}, [1]),
    ],
)
def test_an_unusable_rlct_keeps_a_trial_off_a_front_with_the_rlct(
    objectives: dict[str, str], front: list[int], tmp_path: Path
) -> None:
    search = make_search(make_spec(objectives=objectives), tmp_path)
    for number, verdict in enumerate(("sound", "not_a_minimum")):
        suggestion = ask(search)

        def values(config: TrialConfig, index: int, number: int = number) -> dict[str, float]:
            return {"weight_std": 1.0 - number / 2, "rlct": 5.0 - 9 * number}

        search.tell(suggestion, make_outcome(suggestion.config, values, verdict=verdict))
    assert [trial.number for trial in load(tmp_path).best_trials] == front


def test_a_grid_runs_its_points_and_stops(tmp_path: Path) -> None:
    space = {"hidden_layers": [1, 2], "width": 8, "aux_weight": [0, 1], "target_depth": [1, 2]}
    spec = make_spec(sampler="grid", trials=None, design=[], space=space)
    configs = run(make_search(spec, tmp_path), 99)
    assert configs == [config for _, config in spec.listed()]
    # A later, larger grid goes on in the same Optuna study.
    larger = make_spec(sampler="grid", trials=None, design=[], space=space | {"aux_weight": [0, 1, 50]})
    added = run(make_search(larger, tmp_path, taken=tuple(config.key(DIGEST) for config in configs)), 99)
    assert {config.self_model.aux_weight for config in added} == {50}
    assert len(load(tmp_path).get_trials(states=(TrialState.COMPLETE,))) == len(configs) + len(added)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_every_point_of_a_finite_space_is_found_and_then_the_search_ends(sampler: str, tmp_path: Path) -> None:
    space = {"hidden_layers": [1, 2], "width": [8, 16], "aux_weight": [0, 1], "target_depth": "any"}
    spec = make_spec(design=[], space=space, sampler=sampler, trials=10)
    configs = run(make_search(spec, tmp_path), 99)
    # Per width: one layer: baseline and target 1; two layers: baseline and targets 1 and 2.
    assert len({config.key(DIGEST) for config in configs}) == len(configs) == 2 * (2 + 3)
    in_vain = [trial for trial in load(tmp_path).trials if trial.state == TrialState.FAIL]
    assert len(in_vain) <= 3 * len(configs)


def test_a_design_alone_runs_exactly_its_points_and_stops(tmp_path: Path) -> None:
    blocks: list[dict[str, Any]] = [
        {"hidden_layers": 1, "width": 8, "aux_weight": [0, 3], "target_depth": "hidden1"},
        {"hidden_layers": 2, "width": 16, "aux_weight": 60, "target_depth": ["1+2", "last"], "head": "separate"},
        {"hidden_layers": 1, "width": 8, "aux_weight": [0, 0.5], "target_depth": 1, "control": "dropout"},
        {"hidden_layers": 3, "width": 8, "aux_weight": 0.5, "target_depth": "all", "control": "activation_penalty"},
        {"hidden_layers": 1, "width": 8, "aux_weight": 0, "target_depth": 1, "control": "extra_outputs"},
        {
            "hidden_layers": 2,
            "width": 8,
            "aux_weight": 2,
            "target_depth": 1,
            "control": "noise_targets",
            "target_form": ["standardized", "sign"],
            "unit_weighting": "sum",
        },
    ]
    spec = make_spec(sampler="design", trials=None, design=blocks)
    listed = [config for _, config in spec.listed()]
    # A dropout of 0 is the first trial again.
    assert len(listed) == 2 + 2 + 1 + 1 + 1 + 2
    search = make_search(spec, tmp_path)
    assert run(search, 4) == listed[:4]
    # One trial was running when the driver died; the next driver begins with it.
    interrupted = ask(search)
    again = reconcile(spec, open_storage(f"sqlite:///{tmp_path}/optuna.db"), {})
    assert [spec.trial_config(point) for point in again] == [listed[4]] == [interrupted.config]
    taken = tuple(config.key(DIGEST) for config in listed[:4])
    assert (
        run(make_search(spec, tmp_path, taken, points=[*again, *(point for point, _ in spec.listed())]), 99)
        == listed[4:]
    )
    complete = load(tmp_path).get_trials(states=(TrialState.COMPLETE,))
    assert [trial.user_attrs["control"] for trial in complete] == [config.self_model.control for config in listed]


def test_a_search_chooses_among_controls_and_each_has_what_it_is(tmp_path: Path) -> None:
    controls = ["none", "dropout", "activation_penalty", "extra_outputs"]
    space = {
        "hidden_layers": 2,
        "width": 8,
        "control": controls,
        "aux_weight": {"low": 0.1, "high": 0.9},
        "target_depth": "any",
        "head": ["widened", "separate"],
    }
    spec = make_spec(sampler="random", design=[], space=space)
    configs = run(make_search(spec, tmp_path), TRIALS)
    assert len({config.key(DIGEST) for config in configs}) == len(configs) == TRIALS
    models = [config.self_model for config in configs]
    assert {model.control for model in models} == set(controls)
    # The baseline is one trial for all controls; so are the extra outputs of one layer and head for all weights.
    assert [model.control for model in models if model.aux_weight == 0].count("none") == 1
    assert sum(model.control == "extra_outputs" for model in models) <= 4
    heads = {(model.control, model.head) for model in models if model.aux_weight > 0}
    assert {("none", "widened"), ("none", "separate"), ("dropout", "widened")} <= heads
    assert ("dropout", "separate") not in heads


def test_a_grid_in_which_a_network_lacks_the_targets_can_go_on(tmp_path: Path) -> None:
    space = {"hidden_layers": [1, 2], "width": 8, "aux_weight": [0, 1], "target_depth": 2}
    spec = make_spec(sampler="grid", trials=None, design=[], space=space)
    run(make_search(spec, tmp_path), 1)
    check_stored_study(spec, open_storage(f"sqlite:///{tmp_path}/optuna.db"), None)


def test_a_grid_may_grow_by_a_control_and_an_option_and_drop_a_width(tmp_path: Path) -> None:
    space = {
        "hidden_layers": 1,
        "width": [8, 16, 32],
        "aux_weight": [0.1, 0.5],
        "control": ["none", "dropout"],
        "head": ["widened", "separate"],
        "target_depth": 1,
    }
    run(make_search(make_spec(sampler="grid", trials=None, design=[], space=space), tmp_path), 3)
    grown = space | {"control": ["none", "dropout", "weight_decay"], "width": [8, 32]}
    spec = make_spec(sampler="grid", trials=None, design=[], space=grown)
    check_stored_study(spec, open_storage(f"sqlite:///{tmp_path}/optuna.db"), None)
    assert len(list(spec.listed())) == 2 * 2 * (2 + 1 + 1)


def test_values_that_are_not_finite_end_the_optuna_trial_as_failed_and_say_why(tmp_path: Path) -> None:
    search = make_search(make_spec(), tmp_path)
    suggestion = ask(search)
    search.tell(suggestion, make_outcome(suggestion.config, lambda *_: {"rlct": float("nan")}))
    search.fail(ask(search))
    diverged, failed = load(tmp_path).trials
    assert (diverged.state, failed.state) == (TrialState.FAIL, TrialState.FAIL)
    assert diverged.user_attrs["status_detail"] == "ok"
    assert diverged.user_attrs["weight_std"] > 0
    assert failed.user_attrs["status_detail"] == "failed"


def test_open_trials_of_a_killed_driver_are_closed_and_run_first_as_do_failed_ones(tmp_path: Path) -> None:
    spec = make_spec(sampler="random")
    search = make_search(spec, tmp_path)
    configs = run(search, 6)
    failed, interrupted, recorded = ask(search), ask(search), ask(search)
    search.fail(failed)
    load(tmp_path).enqueue_trial({"hidden_layers": 1})
    # The driver died after it had written this trial to the record and before it told Optuna.
    metrics = {"val_accuracy": 0.9, "weight_std": 0.2, "rlct": 7.0}
    finished = {recorded.key: FinishedTrial("run", "any", "ok", "diverged", metrics, ended=0)}
    points = reconcile(spec, open_storage(f"sqlite:///{tmp_path}/optuna.db"), finished)
    trials = load(tmp_path).trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.FAIL}
    by_key = {trial.user_attrs["trial_key"]: trial for trial in trials if "trial_key" in trial.user_attrs}
    assert by_key[recorded.key].values == [0.9, 0.2, 7.0]
    assert by_key[recorded.key].constraints == {"learned": 0.0, "rlct_usable": 1.0}
    keys = [config.key(DIGEST) for point in points if (config := spec.trial_config(point))]
    assert sorted(keys) == sorted([interrupted.key, failed.key])
    assert not set(keys) & {done.key(DIGEST) for done in configs}


FINITE = {"hidden_layers": [1, 2], "width": [8, 16], "aux_weight": [0, 1], "target_depth": "any"}


class DiedError(Exception):
    """A driver died."""


def drive(
    spec: StudySpec,
    storage: BaseStorage,
    record: dict[str, Outcome],
    dies_at: int | None = None,
    untold: bool = False,
) -> list[str]:
    """Drive a search from whatever an earlier driver left, one trial after the other; return the keys in their order.

    It dies in trial `dies_at`, before the trial is in the record, or after that but before Optuna was told (`untold`).
    """
    finished = {
        key: FinishedTrial("run", key, outcome.status, outcome.rlct.verdict, {}, ended=0)
        for key, outcome in record.items()
    }
    again = reconcile(spec, storage, finished, lambda trial: record[trial.name])
    listed = [point for point, config in spec.listed() if config.key(DIGEST) not in record]
    points = {spec.trial_key(point, DIGEST): point for point in reversed([*again, *listed])}
    search = Search(spec, DIGEST, storage, reversed(points.values()), record)
    while len(record) < (spec.trials or 99) and (suggestion := search.ask()) is not None:
        if len(record) == dies_at and not untold:
            raise DiedError
        outcome = make_outcome(suggestion.config, falling, measures=MEASURES)
        record[suggestion.key] = outcome
        if len(record) - 1 == dies_at:
            raise DiedError
        search.tell(suggestion, outcome)
    return list(record)


@pytest.mark.parametrize("untold", [False, True], ids=["in a trial", "between record and Optuna"])
@pytest.mark.parametrize(
    ("sampler", "trials", "space", "deaths"),
    [
        ("random", 13, None, range(13)),
        ("tpe", 13, None, range(13)),
        ("tpe", 10, FINITE, range(10)),
        ("nsga2", 10, FINITE, range(0, 10, 3)),
        # The first generation has fifty trials.
        ("nsga2", 53, None, (2, 49, 50, 51)),
        ("design", None, None, range(3)),
    ],
    ids=["random", "tpe", "tpe in a finite space", "nsga2 in a finite space", "nsga2", "design"],
)
def test_a_search_that_died_anywhere_suggests_what_it_would_have_suggested(
    sampler: str, trials: int | None, space: dict[str, Any] | None, deaths: Iterable[int], untold: bool
) -> None:
    changes = {"sampler": sampler, "trials": trials} | ({"space": space, "design": []} if space else {})
    spec = make_spec(**changes)
    undisturbed = drive(spec, InMemoryStorage(), {})
    assert len(undisturbed) == (trials or 3)
    for dies_at in deaths:
        storage, record = InMemoryStorage(), dict[str, Outcome]()
        with pytest.raises(DiedError):
            drive(spec, storage, record, dies_at, untold)
        # It dies once more in the same trial.
        with contextlib.suppress(DiedError):
            drive(spec, storage, record, dies_at, untold=False)
        assert drive(spec, storage, record) == undisturbed, f"after a death in trial {dies_at}"


def test_other_seeds_search_otherwise() -> None:
    first, second = (drive(make_spec(design=[], trials=5, seed=seed), InMemoryStorage(), {}) for seed in (0, 1))
    assert set(first) & set(second) == set()


def test_a_trial_that_is_recorded_and_was_never_told_gets_all_that_an_undisturbed_one_has() -> None:
    spec = make_spec(trials=4)
    attributes = []
    for untold in (False, True):
        storage, record = InMemoryStorage(), dict[str, Outcome]()
        if untold:
            with pytest.raises(DiedError):
                drive(spec, storage, record, dies_at=2, untold=True)
        drive(spec, storage, record)
        trial = optuna.load_study(study_name="searched", storage=storage).trials[2]
        assert trial.state == TrialState.COMPLETE
        attributes.append((trial.user_attrs, trial.values, trial.constraints, trial.params))
    assert attributes[0] == attributes[1]
    assert {"trial_key", "rlct_se", "seconds", "status_detail", "aux_weight"} <= attributes[1][0].keys()


def test_a_suggestion_in_a_finite_space_does_not_list_the_space_again(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(sampler="random", trials=10, design=[], space=FINITE)
    listings: list[StudySpec] = []
    every = StudySpec.all_trials

    def counted(spec: StudySpec) -> list[ListedTrial] | None:
        listings.append(spec)
        return every(spec)

    monkeypatch.setattr(StudySpec, "all_trials", counted)
    assert len(drive(spec, InMemoryStorage(), {})) == 10
    assert len(listings) == 1


def test_the_search_of_another_record_is_refused_with_what_to_do() -> None:
    spec = make_spec(sampler="random")
    storage = InMemoryStorage()
    listed = [point for point, _ in spec.listed()]
    search = Search(spec, DIGEST, storage, listed, (), record="run-of-one-record")
    check_stored_study(spec, storage, None)
    run(search, 1)
    check_stored_study(spec, storage, "run-of-one-record")
    for other in (None, "run-of-another-record"):
        with pytest.raises(StudyError, match=r"of another record, in which the study's run is run-of-one-record"):
            check_stored_study(spec, storage, other)


@pytest.mark.parametrize(
    "objectives",
    [{"rlct": "minimize"}, {"val_accuracy": "maximize", "rlct": "minimize", "weight_std": "minimize"}],
    ids=["fewer", "in another order"],
)
def test_other_objectives_in_the_stored_study_are_refused(objectives: dict[str, str], tmp_path: Path) -> None:
    make_search(make_spec(), tmp_path)
    other = make_spec(objectives=objectives)
    with pytest.raises(StudyError, match=r"objectives: the Optuna study 'searched' has"):
        check_stored_study(other, open_storage(f"sqlite:///{tmp_path}/optuna.db"), None)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the Optuna study of a random search of 8 trials."""
    folder = tmp_path_factory.mktemp("searched")
    run(make_search(make_spec(sampler="random"), folder), 8)
    return folder


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"width": [8, 16, 32]}, "width"),
        ({"aux_weight": {"low": 0.1, "high": 20, "log": False}}, "aux_weight"),
        ({"width": {"low": 8, "high": 16}}, "width"),
    ],
    ids=str,
)
def test_a_space_that_optuna_cannot_follow_is_refused_before_anything_runs(
    changes: dict[str, Any], name: str, searched: Path
) -> None:
    other = make_spec(sampler="random", space=make_spec().space.model_dump() | changes)
    with pytest.raises(StudyError, match=rf"space: Optuna cannot go on .* whose {name} was"):
        check_stored_study(other, open_storage(f"sqlite:///{searched}/optuna.db"), None)


def test_a_range_may_grow(searched: Path, tmp_path: Path) -> None:
    shutil.copy(searched / "optuna.db", tmp_path)
    larger = make_spec(
        sampler="random", space=make_spec().space.model_dump() | {"aux_weight": {"low": 0.1, "high": 90}}
    )
    check_stored_study(larger, open_storage(f"sqlite:///{tmp_path}/optuna.db"), None)
    assert len(run(make_search(larger, tmp_path), 3)) == 3


def test_an_optuna_storage_that_cannot_be_opened_is_one_clear_error_without_the_password() -> None:
    with pytest.raises(StudyError, match=r"Optuna storage .*cannot be opened.*--optuna-storage") as caught:
        open_storage("postgresql+psycopg2://user:secret@127.0.0.1:9/none")
    assert "secret" not in str(caught.value)


def test_a_design_point_named_last_is_the_same_trial_as_its_depth(tmp_path: Path) -> None:
    spec = make_spec(design=[{"hidden_layers": 2, "width": 8, "aux_weight": 1, "target_depth": "last"}])
    (config,) = run(make_search(spec, tmp_path), 1)
    assert config == spec.trial_config(Point(2, 8, 1.0, 2))
