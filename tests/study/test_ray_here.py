"""Ray on this machine: it listens on loopback, leaves no process, and its death is told."""

import os
import signal
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

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


def test_the_death_of_rays_server_is_one_message_and_closes_the_record(tmp_path: Path) -> None:
    with Command.run_study(tmp_path, "--concurrent", "1", epochs=20) as command:
        command.wait_for("[1/6")
        children = command.children()
        (server,) = [child for child in children if child.name() == "gcs_server"]
        server.send_signal(signal.SIGKILL)
        assert command.end() == 2, command.printed
    assert "error: the server of Ray on this machine (GCS) has died" in command.text
    assert "run the same command again" in command.text
    assert "Traceback" not in command.text
    runs = runs_of(Stores.under(tmp_path / "runs"), "small", "attributes.status = 'RUNNING'")
    assert runs == []
    (study,) = runs_of(Stores.under(tmp_path / "runs"), "small", "tags.level = 'study'")
    assert study.info.status == "FAILED"
    assert still_running(children) == []
