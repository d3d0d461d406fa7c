"""Clusters that cannot be joined, and trials that do not fit: one clear message before anything is recorded."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from study.commands.run import main
from study.engine import ray_address, ray_capacity, ray_health
from study.engine.ray_address import AUTHENTICATION, find_cluster, protect_token, restore_authentication
from study.engine.ray_capacity import check_cluster, check_this_machine, launcher_types, most_at_any_time
from study.engine.ray_cluster import Connection, connected
from study.engine.ray_health import raising_loss, watched
from study.engine.resources import Resources
from study.errors import StudyError
from study.interrupts import interruptible
from tests.study.conftest import RayCluster
from tests.study.test_runners import STUDY


@pytest.fixture(autouse=True)
def authentication_as_before() -> Iterator[None]:
    """Undo what a cluster decides for the process."""
    before = os.environ.get(AUTHENTICATION)
    yield
    restore_authentication(before)


@contextmanager
def listening() -> Iterator[str]:
    """HOST:PORT where connections are accepted, and nothing is answered."""
    with socket.create_server(("", 0), backlog=100) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address", "127.0.0.1:9"], "(--address 127.0.0.1:9) does not answer: Connection refused. Check --address"),
        (["--address", "nosuchhost.invalid:6379"], "the Ray cluster at nosuchhost.invalid:6379 does not answer: "),
        (["--address", "ray://127.0.0.1:10001"], "a study cannot be driven through a Ray client server"),
        (["--address", "nonsense"], "--address 'nonsense': is no address of a Ray cluster. Write HOST:PORT"),
        (["--address", ":6379"], "--address ':6379': is no address"),
        (["--address", "localhost:port"], "--address 'localhost:port': is no address"),
        (["--address", "local", "--gpus-per-trial", "64"], "a trial wants 1 CPU and 64 GPU, this machine has"),
        (["--address", "local", "--cpus-per-trial", "4096"], "CPU: lower --cpus-per-trial, or run on a cluster"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_run_is_refused_before_anything_is_in_the_store(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    (tmp_path / "small.yaml").write_text(str(STUDY))
    assert main(["small.yaml", *arguments]) == 2
    printed = capfd.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert list(tmp_path.rglob("runs/*")) == []


def test_the_address_in_the_environment_is_named_when_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(StudyError, match=r"\(RAY_ADDRESS 127\.0\.0\.1:9\) does not answer.* Check RAY_ADDRESS"):
        find_cluster(None)


def test_a_cluster_that_is_looked_for_and_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda folder: None)
    with pytest.raises(StudyError, match="--address auto: no Ray cluster runs on this machine"):
        find_cluster("auto")
    assert find_cluster(None) is None


def test_something_else_at_the_port_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "SECONDS_TO_ANSWER", 0.5)
    with listening() as address, pytest.raises(StudyError, match="does not answer as a Ray cluster does: no answer"):
        find_cluster(address)


def test_a_cluster_that_wants_a_token_is_joined_with_the_one_of_this_machine(
    ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(Resources(ray_cluster.address), tmp_path / "ray.log"):
        assert ray.get(ray.remote(lambda: 42).remote()) == 42
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(StudyError, match=r"refuses this machine's token \(from RAY_AUTH_TOKEN\).*ray get-auth-token"):
        find_cluster(ray_cluster.address)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        StudyError, match=r"wants a token, and there is none here\. .*auth_token, or set RAY_AUTH_TOKEN"
    ):
        find_cluster(ray_cluster.address)


def test_an_error_of_ray_at_its_start_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def late(**_: Any) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because …")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "init", late)
    (tmp_path / "small.yaml").write_text(str(STUDY))
    assert main(["small.yaml", "--address", "local"]) == 2
    error = capfd.readouterr().err
    assert error.startswith(
        "error: Ray on this machine cannot be reached or started: The current node timed out during"
    )
    assert "logs" in error


def test_a_trial_must_fit_one_node(ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray_capacity, "node_types", lambda: None)
    assert check_cluster(Resources(cpus_per_trial=2, gpus_per_trial=1)) is None
    with pytest.raises(StudyError, match=r"wants 4 CPU, no node .* \(2 CPU; 2 CPU and 1 GPU\): lower --cpus-per-trial"):
        check_cluster(Resources(cpus_per_trial=4))


LAUNCHER = {
    "head_node_type": "head",
    "max_workers": 4,
    "available_node_types": {
        "head": {"resources": {"CPU": 64}},
        "cpu": {"resources": {"CPU": 8}, "max_workers": 2},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}},
        "retired": {"resources": {"CPU": 99}, "max_workers": 0},
    },
}


def test_a_cluster_that_scales_from_zero_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "launcher.yaml").write_text(str(LAUNCHER))
    monkeypatch.setattr(ray_capacity, "LAUNCHER_FILE", tmp_path / "launcher.yaml")
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}])
    assert launcher_types(LAUNCHER).keys() == {"cpu", "gpu"}
    note = check_cluster(Resources(cpus_per_trial=8, gpus_per_trial=1))
    assert note == (
        "a trial wants 8 CPU and 1 GPU, which no node has yet: waiting for the autoscaler to start one (gpu)"
    )
    with pytest.raises(StudyError, match=r"nor a type of node .* \(8 CPU; 8 CPU and 1 GPU\): lower --gpus-per-trial"):
        check_cluster(Resources(cpus_per_trial=8, gpus_per_trial=2))


@pytest.mark.parametrize(
    ("resources", "most"),
    [
        (Resources(), 2 * 8 + 4 * 8),
        (Resources(cpus_per_trial=3), 2 * 2 + 4 * 2),
        (Resources(gpus_per_trial=0.5), 4 * 2),
        (Resources(cpus_per_trial=16), 1),
    ],
    ids=str,
)
def test_the_most_trials_side_by_side_count_the_nodes_that_an_autoscaler_may_start(
    resources: Resources, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "launcher.yaml").write_text(str(LAUNCHER))
    monkeypatch.setattr(ray_capacity, "LAUNCHER_FILE", tmp_path / "launcher.yaml")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    assert most_at_any_time(resources) == most


def test_a_managed_cluster_that_tells_no_types_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"Alive": True, "Resources": {"CPU": 1.0}, "Labels": {"ray.io/node-group": "headgroup"}}
    monkeypatch.setattr(ray_capacity, "LAUNCHER_FILE", tmp_path / "none.yaml")
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    monkeypatch.setattr("ray._private.state.state.get_cluster_config", lambda: None)
    assert "waiting for the autoscaler" in str(check_cluster(Resources(cpus_per_trial=8)))


def test_this_machine_has_the_resources_that_ray_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 4, "GPU": 2}')
    check_this_machine(Resources(cpus_per_trial=4, gpus_per_trial=2))
    with pytest.raises(StudyError, match="wants 5 CPU, this machine has 4 CPU and 2 GPU: lower --cpus-per-trial"):
        check_this_machine(Resources(cpus_per_trial=5))


def test_the_token_is_readable_by_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    token = tmp_path / ".ray" / "auth_token"
    protect_token()
    assert token.stat().st_mode & 0o777 == 0o600
    written = token.read_text()
    assert len(written) == 64
    token.chmod(0o644)  # as Ray writes it
    protect_token()
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() == written


def test_a_cluster_whose_server_dies_interrupts_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_health, "INTERVAL", 0.05)
    monkeypatch.setattr(ray_health, "PATIENCE_ON_A_CLUSTER", 0.2)
    server = socket.create_server(("127.0.0.1", 0), backlog=100)
    connection = Connection(f"127.0.0.1:{server.getsockname()[1]}")
    died = r"GCS\) at 127\.0\.0\.1:\d+ has died.* Everything finished is kept"
    with interruptible(), pytest.raises(StudyError, match=died), watched(connection), raising_loss(connection):
        _close_and_wait(server)


def _close_and_wait(server: socket.socket) -> None:
    server.close()
    threading.Event().wait(30)


def test_an_interrupt_of_the_user_is_no_loss() -> None:
    with pytest.raises(KeyboardInterrupt), raising_loss(Connection("127.0.0.1:1")):
        raise KeyboardInterrupt
