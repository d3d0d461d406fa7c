"""Ray on this machine: it listens on loopback, leaves no process, and its death is told."""

import os
import signal
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from study.engine.guardian import MARK, PATIENCE, marked
from study.record.stores import Stores
from tests.study.commands import Command, still_running
from tests.study.synthetic import runs_of

pytestmark = pytest.mark.services


@dataclass
class Killed:
    """What was seen of a study on a local Ray, whose driver was killed alone while trials ran."""

    listening: list[tuple[str, str]]  # process and address
    names: set[str]  # of processes
    token: os.stat_result
    left: list[psutil.Process]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder, home = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("home")
    command = Command.run_study(folder, epochs=20, environment={"HOME": str(home)})
    command.wait_for("[1/6")
    processes = [psutil.Process(command.process.pid), *command.children()]
    listening = [
        (process.name(), connection.laddr.ip)
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    token = (home / ".ray" / "auth_token").stat()
    names = {process.name() for process in processes}
    command.kill()
    left = still_running(process for process in processes if process.pid != command.process.pid)
    for process in left:
        process.kill()
    return Killed(listening, names, token, left)


def test_a_local_ray_listens_on_loopback_alone(killed: Killed) -> None:
    assert {"gcs_server", "raylet"} <= {name for name, _ in killed.listening}
    assert len(killed.listening) >= 5
    outside = [(name, ip) for name, ip in killed.listening if not _is_loopback(ip)]
    assert outside == []


def _is_loopback(ip: str) -> bool:
    address = ip_address(ip)
    # An IPv6 socket may be bound to an IPv4 address, ::ffff:127.0.0.1.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_a_token_that_ray_makes_for_a_study_is_secret(killed: Killed) -> None:
    assert stat.S_IMODE(killed.token.st_mode) == 0o600


def test_no_process_outlives_a_driver_that_is_killed(killed: Killed) -> None:
    assert {"gcs_server", "raylet"} < killed.names
    assert killed.left == []


def mark_of_server(processes: list[psutil.Process]) -> str | None:
    """The mark of the driver's guardian in Ray's server, once that is there."""
    for process in processes:
        # A process that has just begun has no environment yet.
        with suppress(psutil.Error):
            if process.name() == "gcs_server" and MARK in process.environ():
                return process.environ()[MARK]
    return None


def test_no_process_outlives_a_driver_that_is_killed_while_ray_starts(tmp_path: Path) -> None:
    with Command.run_study(tmp_path) as command:
        command.wait_for("starting Ray")
        while not (mark := mark_of_server(command.children())):
            assert command.process.poll() is None, command.end()
        command.kill()
    # Among them are those that started after this look at the children.
    end = time.monotonic() + PATIENCE
    while (left := marked(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == set()


@pytest.mark.parametrize(
    ("name", "what"),
    [("gcs_server", "the server of Ray on this machine (GCS)"), ("raylet", "Ray's process on this machine (raylet)")],
)
def test_the_death_of_ray_is_one_message_and_the_same_command_goes_on(name: str, what: str, tmp_path: Path) -> None:
    with Command.run_study(tmp_path, "--concurrent", "1", epochs=5) as command:
        command.wait_for("[1/6")
        children = command.children()
        (process,) = [child for child in children if child.name() == name]
        process.send_signal(signal.SIGKILL)
        assert command.end() == 2, command.printed
    assert f"error: {what} has died" in command.text
    assert "run the same command again" in command.text
    assert "Traceback" not in command.text
    stores = Stores.under(tmp_path / "runs")
    assert runs_of(stores, "small", "attributes.status = 'RUNNING'") == []
    (study,) = runs_of(stores, "small", "tags.level = 'study'")
    assert study.info.status == "FAILED"
    assert still_running(children) == []
    finished = runs_of(stores, "small", "tags.level = 'trial' and attributes.status = 'FINISHED'")
    # Without Ray, to save time.
    with Command.run_study(tmp_path, "--runner", "local", epochs=5) as again:
        assert again.end() == 0, again.printed
    trials = runs_of(stores, "small", "tags.level = 'trial'")
    assert "FAILED" not in {run.info.status for run in trials}, "no trial is at fault"
    assert len({run.data.tags["trial_key"] for run in trials}) == 6
    assert {run.info.run_id for run in finished} < {run.info.run_id for run in trials if run.info.status == "FINISHED"}
