"""A study under random faults ends with the record of the undisturbed one."""

from pathlib import Path

import pytest

from tests.services.chaos import AWAY, DRIVER, HEAD, KINDS, NAME, NODE, SECOND, WORKER, Chaos, make_schedule
from tests.services.mlflow_server import RestartableMLflow
from tests.services.same_record import differences
from tests.study.nodes import cluster_of_nodes

pytestmark = pytest.mark.services

TRIALS, FAULTS, SEED = 30, 20, 1


def test_a_study_under_random_faults_ends_with_the_record_of_the_undisturbed_one(
    server: RestartableMLflow, tmp_path: Path
) -> None:
    undisturbed = Chaos(tmp_path / "undisturbed", TRIALS)
    undisturbed.run([])
    disturbed = Chaos(tmp_path / "disturbed", TRIALS, server, tell=print)
    disturbed.run(make_schedule(SEED, FAULTS, disturbed.kinds))
    assert {each.fault.kind for each in disturbed.happened} == set(KINDS) - {NODE}
    assert len(disturbed.happened) == FAULTS
    assert disturbed.surprises() == []
    assert differences(disturbed.place, undisturbed.place, NAME) == []
    assert disturbed.left_behind() == []
    assert disturbed.left_running() == []


def test_a_study_on_a_cluster_that_loses_nodes_ends_with_the_record_of_the_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = Chaos(tmp_path / "undisturbed", trials := 10)
    undisturbed.run([])
    with cluster_of_nodes() as nodes:
        nodes.start(HEAD, cpus=0)
        for name in ("one", "other"):
            nodes.start(name)
        disturbed = Chaos(tmp_path / "disturbed", trials, nodes=nodes, tell=print)
        disturbed.run(make_schedule(SEED, 6, (NODE, WORKER, DRIVER)))
        assert disturbed.left_running() == []
    assert len(disturbed.happened) == 6
    assert {each.fault.kind for each in disturbed.happened} == {NODE, WORKER, DRIVER}
    assert disturbed.surprises() == []
    assert differences(disturbed.place, undisturbed.place, NAME) == []
    assert disturbed.left_behind() == []


def test_a_seed_gives_the_same_faults_again_and_another_seed_others() -> None:
    assert make_schedule(3, 40) == make_schedule(3, 40) != make_schedule(4, 40)
    assert {fault.kind for fault in make_schedule(3, 40)} == set(KINDS)
    assert {fault.kind for fault in make_schedule(3, 2, (AWAY, SECOND))} == {AWAY, SECOND}
