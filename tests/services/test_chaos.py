"""A study under random faults ends with the record of the undisturbed one."""

from pathlib import Path

import pytest

from tests.services.chaos import AWAY, KINDS, NAME, SECOND, Chaos, make_schedule
from tests.services.mlflow_server import RestartableMLflow
from tests.services.same_record import differences
from tests.study.commands import still_running

pytestmark = pytest.mark.services

TRIALS, FAULTS, SEED = 30, 20, 1


def test_a_study_under_random_faults_ends_with_the_record_of_the_undisturbed_one(
    server: RestartableMLflow, tmp_path: Path
) -> None:
    undisturbed = Chaos(tmp_path / "undisturbed", TRIALS)
    undisturbed.run([])
    disturbed = Chaos(tmp_path / "disturbed", TRIALS, server, tell=print)
    disturbed.run(make_schedule(SEED, FAULTS))
    assert {each.fault.kind for each in disturbed.happened} == set(KINDS)
    assert len(disturbed.happened) == FAULTS
    assert disturbed.surprises() == []
    assert differences(disturbed.place, undisturbed.place, NAME) == []
    assert disturbed.left_behind() == []
    assert still_running(disturbed.family) == []


def test_a_seed_gives_the_same_faults_again_and_another_seed_others() -> None:
    assert make_schedule(3, 40) == make_schedule(3, 40) != make_schedule(4, 40)
    assert {fault.kind for fault in make_schedule(3, 40)} == set(KINDS)
    assert {fault.kind for fault in make_schedule(3, 2, (AWAY, SECOND))} == {AWAY, SECOND}
