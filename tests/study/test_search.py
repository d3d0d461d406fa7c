import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from study.errors import StudyError
from study.record.outcome import Outcome
from study.search.parameters import offers
from study.search.search import Search, Suggestion
from study.search.store import check_stored_study, open_storage
from study.search.view import view_of
from study.spec import StudySpec, build_spec
from tests.study.memory import MemoryRecord
from tests.study.searching import ask_for_one, take_up
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


def make_search(spec: StudySpec, folder: Path, record: MemoryRecord | None = None) -> Search:
    return take_up(spec, open_storage(f"sqlite:///{folder}/optuna.db"), record or MemoryRecord())


def ask(search: Search) -> Suggestion:
    """The next suggestion, which must exist."""
    suggestion = ask_for_one(search)
    assert suggestion is not None
    return suggestion


def run(search: Search, trials: int, record: MemoryRecord | None = None) -> list[TrialConfig]:
    """Suggest and complete trials one after the other; return their configurations."""
    record = record or MemoryRecord()
    configs: list[TrialConfig] = []
    while len(configs) < trials and (suggestion := ask_for_one(search)) is not None:
        configs.append(suggestion.config)
        outcome = make_outcome(suggestion.config, falling, measures=MEASURES)
        search.start(suggestion, record.start_trial(suggestion.key, suggestion.config, suggestion.place))
        record.finish_trial(suggestion.key, outcome)
        search.tell(suggestion, outcome)
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
        errors = {f"{name}_se" for name in spec.objectives}
        assert {name for name in trial.user_attrs if name.endswith("_se")} == errors, "each costs a write of its own"
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
            measured = {} if validation_fraction else {"val_accuracy": float("nan")}
            return measured | {
                "weight_std": 1.0 - number,
                "rlct": 1.0 - number if validation_fraction else 1.0 + number,
            }

        search.tell(suggestion, make_outcome(suggestion.config, values, status))
    study = load(tmp_path)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert [trial.number for trial in study.best_trials] == front


def test_a_collapse_counts_in_the_trials_with_a_validation_split_though_others_have_none() -> None:
    spec = make_spec(
        objectives={"weight_std": "minimize"},
        space={"hidden_layers": 1, "width": 8, "aux_weight": [0.2, 0.5], "validation_fraction": [0.0, 0.2]},
        design=[{"aux_weight": [0.2, 0.5], "validation_fraction": [0.0, 0.2]}],
        trials=4,
    )
    storage, record = InMemoryStorage(), MemoryRecord()
    search = Search(spec, DIGEST, storage, spec.listed(), ())
    constraints = []
    for status in ("ok", "collapsed", "collapsed", "ok"):
        suggestion = ask(search)
        share = suggestion.config.training.validation_fraction

        def values(config: TrialConfig, index: int, share: float = share) -> dict[str, float]:
            return {} if share else {"val_accuracy": float("nan")}

        outcome = make_outcome(suggestion.config, values, status)
        search.start(suggestion, record.start_trial(suggestion.key, suggestion.config))
        record.finish_trial(suggestion.key, outcome)
        search.tell(suggestion, outcome)
        constraints.append(float(status == "collapsed" and share > 0))
    assert sorted(constraints) == [0.0, 0.0, 0.0, 1.0]
    live = optuna.load_study(study_name=spec.name, storage=storage)
    for trials in (live.trials, view_of(spec, record.finished(), record.trials())):
        assert [trial.constraints["learned"] for trial in trials] == constraints


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
    spec, record = make_spec(sampler="grid", trials=None, design=[], space=space), MemoryRecord()
    configs = run(make_search(spec, tmp_path), 99, record)
    assert configs == list(spec.listed())
    # A later, larger grid goes on in the same Optuna study.
    larger = make_spec(sampler="grid", trials=None, design=[], space=space | {"aux_weight": [0, 1, 50]})
    added = run(make_search(larger, tmp_path, record), 99, record)
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
    listed = list(spec.listed())
    # A dropout of 0 is the first trial again.
    assert len(listed) == 2 + 2 + 1 + 1 + 1 + 2
    search, record = make_search(spec, tmp_path), MemoryRecord()
    assert run(search, 4, record) == listed[:4]
    # One trial was running when the driver died; the next driver begins with it.
    interrupted = ask(search)
    record.start_trial(interrupted.key, interrupted.config, interrupted.place)
    assert interrupted.config == listed[4]
    assert run(make_search(spec, tmp_path, record), 99, record) == listed[4:]
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
    search, record = make_search(spec, tmp_path), MemoryRecord()
    configs = run(search, 6, record)
    failed, interrupted, recorded = ask(search), ask(search), ask(search)
    for suggestion in (failed, interrupted, recorded):
        search.start(suggestion, record.start_trial(suggestion.key, suggestion.config, suggestion.place))
    record.fail_trial(failed.key)
    search.fail(failed)
    load(tmp_path).enqueue_trial({"hidden_layers": 1})
    # The driver died after it had written this trial to the record and before it told Optuna.
    record.finish_trial(recorded.key, make_outcome(recorded.config, falling, verdict="diverged"))
    search = make_search(spec, tmp_path, record)
    again = [ask(search), ask(search)]
    trials = load(tmp_path).trials
    # The six, the three, and the enqueued one: the study was not built again.
    assert [trial.number for trial in trials] == list(range(10))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.FAIL}
    by_key = {trial.user_attrs["trial_key"]: trial for trial in trials if "trial_key" in trial.user_attrs}
    assert by_key[recorded.key].values == [
        record.finished()[recorded.key].metrics[name] for name in ("val_accuracy", "weight_std", "rlct")
    ]
    assert by_key[recorded.key].constraints == {"learned": 0.0, "rlct_usable": 1.0}
    assert by_key[failed.key].user_attrs["status_detail"] == "failed"
    assert by_key[interrupted.key].user_attrs["status_detail"] == "interrupted"
    assert again == [failed, interrupted]
    following = ask(search)
    assert following.place == 9
    assert following.config not in [*configs, recorded.config]


FINITE = {"hidden_layers": [1, 2], "width": [8, 16], "aux_weight": [0, 1], "target_depth": "any"}


class DiedError(Exception):
    """A driver died."""


def drive(
    spec: StudySpec,
    storage: BaseStorage,
    record: MemoryRecord,
    dies_at: int | None = None,
    untold: bool = False,
) -> list[str]:
    """Drive a search from whatever an earlier driver left, one trial after the other; return the keys in their order.

    It dies in trial `dies_at`, before the trial is in the record, or after that but before Optuna was told (`untold`).
    """
    search = take_up(spec, storage, record)
    while len(record.finished()) < (spec.trials or 99) and (suggestion := ask_for_one(search)) is not None:
        finished = len(record.finished())
        search.start(suggestion, record.start_trial(suggestion.key, suggestion.config, suggestion.place))
        if finished == dies_at and not untold:
            raise DiedError
        outcome = make_outcome(suggestion.config, falling, measures=MEASURES)
        record.finish_trial(suggestion.key, outcome)
        if finished == dies_at:
            raise DiedError
        search.tell(suggestion, outcome)
    return list(record.finished())


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
    undisturbed = drive(spec, InMemoryStorage(), MemoryRecord())
    assert len(undisturbed) == (trials or 3)
    for dies_at in deaths:
        storage, record = InMemoryStorage(), MemoryRecord()
        with pytest.raises(DiedError):
            drive(spec, storage, record, dies_at, untold)
        # It dies once more in the same trial.
        with contextlib.suppress(DiedError):
            drive(spec, storage, record, dies_at, untold=False)
        assert drive(spec, storage, record) == undisturbed, f"after a death in trial {dies_at}"


def test_other_seeds_search_otherwise() -> None:
    # Without baselines: a space has few of them, and searches with any seed find the same ones.
    space = make_spec().space.model_dump() | {"aux_weight": {"low": 0.1, "high": 20, "baseline": False}}
    changes: dict[str, Any] = {"design": [], "trials": 5, "space": space}
    first, second = (drive(make_spec(**changes, seed=seed), InMemoryStorage(), MemoryRecord()) for seed in (0, 1))
    assert set(first) & set(second) == set()


def test_a_trial_that_is_recorded_and_was_never_told_gets_all_that_an_undisturbed_one_has() -> None:
    spec = make_spec(trials=4)
    attributes = []
    for untold in (False, True):
        storage, record = InMemoryStorage(), MemoryRecord()
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

    def counted(spec: StudySpec) -> list[TrialConfig] | None:
        listings.append(spec)
        return every(spec)

    monkeypatch.setattr(StudySpec, "all_trials", counted)
    assert len(drive(spec, InMemoryStorage(), MemoryRecord())) == 10
    assert len(listings) == 1


def test_the_search_of_another_record_is_refused_with_what_to_do() -> None:
    spec = make_spec(sampler="random")
    storage = InMemoryStorage()
    search = Search(spec, DIGEST, storage, spec.listed(), record="run-of-one-record")
    check_stored_study(spec, storage, None)
    run(search, 1)
    check_stored_study(spec, storage, "run-of-one-record")
    for other in (None, "run-of-another-record"):
        with pytest.raises(StudyError, match=r"of another record, in which the study's run is run-of-one-record"):
            check_stored_study(spec, storage, other)


def test_a_study_that_somebody_else_made_is_refused_and_one_of_an_earlier_version_is_not() -> None:
    spec = make_spec(sampler="random")
    foreign = InMemoryStorage()
    optuna.create_study(study_name=spec.name, storage=foreign).enqueue_trial({"x": 1})
    for record in (None, "run"):
        with pytest.raises(StudyError, match=r"has 1 trial\(s\) that are not of this record.*optuna delete-study"):
            check_stored_study(spec, foreign, record)
    earlier = InMemoryStorage()
    # It does not name its record.
    run(Search(spec, DIGEST, earlier, []), 2)
    check_stored_study(spec, earlier, "run")
    with pytest.raises(StudyError, match=r"has 2 trial\(s\) that are not of this record"):
        check_stored_study(spec, earlier, None)


GRID = {"hidden_layers": 1, "width": [8, 16], "aux_weight": [0.1, 0.5], "control": ["none", "dropout"]}


@pytest.mark.parametrize(
    ("changes", "space"),
    [
        ({"sampler": "random"}, {"width": [8, 16, 32]}),
        ({"sampler": "random"}, {"width": {"low": 8, "high": 16}}),
        ({"sampler": "random"}, {"aux_weight": {"low": 0.1, "high": 20, "log": False}}),
        ({"sampler": "tpe"}, {"aux_weight": {"low": 0.1, "high": 90}}),
        ({"sampler": "tpe"}, {"aux_weight": {"low": 0.5, "high": 20}, "width": 16}),
        ({"sampler": "tpe"}, {"target_depth": ["last", 1]}),
        ({"sampler": "random"}, {"control": ["none", "dropout"], "aux_weight": {"low": 0.1, "high": 0.9}}),
        ({"sampler": "grid", "trials": None, "space": GRID}, {"control": ["none", "dropout", "weight_decay"]}),
        ({"sampler": "grid", "trials": None, "space": GRID}, {"width": [8, 32], "target_depth": [1, "last"]}),
    ],
    ids=str,
)
def test_a_study_goes_on_in_a_changed_space_with_the_distributions_of_today(
    changes: dict[str, Any], space: dict[str, Any]
) -> None:
    storage, record = InMemoryStorage(), MemoryRecord()
    spec = make_spec(**{"trials": 8, "design": []} | changes)
    before = drive(spec, storage, record)
    fields = spec.space.model_dump() | space
    changed = make_spec(**changes | {"space": fields, "design": []} | ({"trials": 12} if spec.trials else {}))
    after = drive(changed, storage, record)
    assert after[: len(before)] == before
    assert len(after) > len(before)
    study = optuna.load_study(study_name="searched", storage=storage)
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))
    by_key = {trial.user_attrs["trial_key"]: trial for trial in ended if "rlct_verdict" in trial.user_attrs}
    assert list(by_key) == after
    # A sampler sees the values of trials that the space still has, and of no others.
    configs = {trial.key: trial.config for trial in record.trials()}
    outside = [key for key in after if not changed.is_enumerated and not offers(changed, configs[key])]
    assert [key for key, trial in by_key.items() if trial.state == TrialState.FAIL] == outside
    narrower = [{"low": 0.5, "high": 20}, {"low": 0.1, "high": 0.9}]
    assert bool(outside) == (space.get("aux_weight") in narrower)
    complete = [trial for trial in by_key.values() if trial.state == TrialState.COMPLETE]
    # A parameter has one distribution in all trials; the range of a target's depth is that of the network's layers.
    of_parameters: dict[tuple[str, int], set[str]] = {}
    for trial in complete:
        for name, distribution in trial.distributions.items():
            layers = trial.params.get("hidden_layers", 0) if name == "target_depth" else 0
            of_parameters.setdefault((name, layers), set()).add(str(distribution))
    assert all(len(each) == 1 for each in of_parameters.values())


@pytest.mark.parametrize(
    "objectives",
    [{"rlct": "minimize"}, {"val_accuracy": "maximize", "rlct": "minimize", "weight_std": "minimize"}],
    ids=["fewer", "in another order"],
)
def test_an_optuna_study_with_other_objectives_than_its_record_is_built_again(objectives: dict[str, str]) -> None:
    storage, record = InMemoryStorage(), MemoryRecord()
    drive(make_spec(trials=4, objectives=objectives), storage, record)
    keys = drive(make_spec(trials=5), storage, record)
    study = optuna.load_study(study_name="searched", storage=storage)
    assert study.metric_names == ["val_accuracy", "weight_std", "rlct"]
    assert [trial.user_attrs["trial_key"] for trial in study.trials] == keys
    assert all(len(trial.values) == 3 for trial in study.trials)


def test_an_optuna_storage_that_cannot_be_opened_is_one_clear_error_without_the_password() -> None:
    with pytest.raises(StudyError, match=r"Optuna storage .*cannot be opened.*--optuna-storage") as caught:
        open_storage("postgresql+psycopg2://user:secret@127.0.0.1:9/none")
    assert "secret" not in str(caught.value)


def test_a_design_point_named_last_is_the_same_trial_as_its_depth(tmp_path: Path) -> None:
    spec = make_spec(design=[{"hidden_layers": 2, "width": 8, "aux_weight": 1, "target_depth": "last"}])
    (config,) = run(make_search(spec, tmp_path), 1)
    assert (config.network.hidden_layers, config.self_model.target_depths) == (2, (2,))
