"""`ray up`, `ray submit` and `ray down` with cluster-local.yaml, over ssh, as docs/cluster.md has them."""

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import study
from tests.cluster.machines import Machine, machines

pytestmark = pytest.mark.services

CHECKOUT = Path(study.__file__).parents[1]
TRIALS = 4
MINUTE = 60
MLFLOW, OPTUNA = 5000, 8080
STUDY = {
    "name": "submitted",
    "question": "Does it arrive?",
    "task": "digits",
    "replicates": 2,
    "sampler": "design",
    "space": {"hidden_layers": 1, "width": 8, "target_depth": 1},
    "design": [{"aux_weight": [0, 1, 2, 3]}],
    "training": {"epochs": 3},
    "rlct": {"draws": 10, "chains": 2, "batch_size": 32},
    "observer": {"epochs": 0},
}
# On the head: what the stores of the cluster know of the study.
LOOK = """
import json, os, mlflow, optuna
client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
experiment = client.get_experiment_by_name("submitted")
runs = client.search_runs([experiment.experiment_id], "tags.level = 'trial'")
trials = optuna.load_study(study_name="submitted", storage=os.environ["SELF_MODELING_OPTUNA_STORAGE"]).trials
files = client.list_artifacts(runs[0].info.run_id, "checkpoint")
print("LOOK" + json.dumps({
    "uri": os.environ["MLFLOW_TRACKING_URI"],
    "runs": [[run.info.status, run.data.tags["host"], run.data.tags["git_commit"]] for run in runs],
    "optuna": [trial.state.name for trial in trials],
    "files": [file.path for file in files],
}))
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    """A laptop with a checkout of this project, and two machines with its environment."""
    folder = tmp_path_factory.mktemp("machines")
    (folder / "shared").mkdir()
    with machines(folder, "laptop", "head", "worker") as found:
        laptop, *nodes = found
        _check_out(laptop.folder / "self-modeling-study")
        (laptop.folder / ".ssh").mkdir()
        shutil.copy(folder / "user_key", laptop.folder / ".ssh/self-modeling-study")
        (laptop.folder / ".ray").mkdir()
        token = laptop.folder / ".ray/self-modeling-study-token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        for node in nodes:
            _install_environment(node)
        yield found


def _check_out(folder: Path) -> None:
    """A clone of this checkout with its changed files."""
    subprocess.run(["git", "clone", "--quiet", CHECKOUT, folder], check=True)
    listed = subprocess.run(
        ["git", "-C", CHECKOUT, "ls-files", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, folder / name)


def _install_environment(node: Machine) -> None:
    """The packages of the environment that runs this test, as cluster/install leaves them behind.

    The project itself is what `ray up` copies.
    """
    environment = node.folder / "self-modeling-environment"
    environment.mkdir()
    for part in Path(sys.prefix).iterdir():
        (environment / part.name).symlink_to(part)
    names = ("pyproject.toml", "requirements.lock", "requirements-dev.lock")
    locks = [(CHECKOUT / name).read_bytes() for name in names]
    digest = subprocess.run(["sha256sum"], input=b"".join(locks), capture_output=True, check=True).stdout
    (environment / "installed").write_bytes(digest)
    (node.folder / ".bashrc").write_text(f"export PYTHONPATH={node.home}/self-modeling-study\n")


@pytest.fixture(scope="module")
def cluster(network: list[Machine]) -> Iterator[Machine]:
    """The laptop, from which the cluster is up."""
    laptop, head, worker = network
    checkout = laptop.folder / "self-modeling-study"
    config = yaml.safe_load((checkout / "cluster-local.yaml").read_text())
    config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
    config["auth"]["ssh_user"] = "root"
    shared = str(laptop.home.parent / "shared")
    config["setup_commands"] = [
        command.replace("/shared/self-modeling-study", shared) for command in config["setup_commands"]
    ]
    (checkout / "cluster-local.yaml").write_text(yaml.safe_dump(config))
    (laptop.folder / "submitted.yaml").write_text(yaml.safe_dump(STUDY))
    up = ray(laptop, "up", "-y", "cluster-local.yaml")
    assert up.returncode == 0, up.stdout
    yield laptop
    down = ray(laptop, "down", "-y", "cluster-local.yaml")
    assert down.returncode == 0, down.stdout
    assert "No nodes remaining" in down.stdout
    left = head.run("pgrep", "-fl", "gcs_server|raylet", at=head.home, seconds=MINUTE)
    assert left.stdout == ""


def ray(laptop: Machine, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Ray's own command line on the laptop, in the checkout."""
    path = str(Path(sys.executable).parent / "ray")
    return laptop.run(path, *arguments, at=laptop.home / "self-modeling-study", seconds=10 * MINUTE)


def look(laptop: Machine) -> dict[str, Any]:
    """What the stores on the head know of the study."""
    (laptop.folder / "look.py").write_text(LOOK)
    output = ray(laptop, "submit", "cluster-local.yaml", str(laptop.home / "look.py")).stdout
    (line,) = (line for line in output.splitlines() if line.startswith("LOOK"))
    found: dict[str, Any] = json.loads(line.removeprefix("LOOK"))
    return found


def test_a_submitted_study_is_found_finished_in_mlflow_and_optuna(cluster: Machine) -> None:
    file = str(cluster.home / "submitted.yaml")
    copied = ray(cluster, "rsync-up", "cluster-local.yaml", file, file)
    assert copied.returncode == 0, copied.stdout
    submitted = ray(cluster, "submit", "cluster-local.yaml", "study/run.py", file)
    assert submitted.returncode == 0, submitted.stdout
    found = look(cluster)
    assert found["uri"] == "http://127.0.0.1:5000"
    assert found["optuna"] == ["COMPLETE"] * TRIALS
    assert found["files"] == ["checkpoint/weights.safetensors"]
    assert len(found["runs"]) == TRIALS
    head = subprocess.run(["git", "-C", CHECKOUT, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    for status, host, commit in found["runs"]:
        assert status == "FINISHED"
        assert host.startswith("worker-")
        assert commit.removesuffix("-dirty") == head.stdout.strip()


def test_the_pages_of_the_head_answer_the_head_alone(cluster: Machine, network: list[Machine]) -> None:
    _, head, worker = network
    for port in (MLFLOW, OPTUNA):
        here = f"exec 3<>/dev/tcp/127.0.0.1/{port}"
        assert head.run("bash", "-c", here, at=head.home, seconds=MINUTE).returncode == 0
        there = here.replace("127.0.0.1", head.address)
        assert worker.run("bash", "-c", there, at=worker.home, seconds=MINUTE).returncode != 0


def test_a_service_that_is_killed_starts_again(cluster: Machine, network: list[Machine]) -> None:
    _, head, _ = network
    # Brackets, so that the pattern does not match the command that has it.
    killed = head.run("pkill", "-9", "-f", "[o]ptuna-dashboard --host", at=head.home, seconds=MINUTE)
    assert killed.returncode == 0, killed.stdout
    script = f"sleep 1; until (exec 3<>/dev/tcp/127.0.0.1/{OPTUNA}) 2>/dev/null; do sleep 0.5; done"
    again = head.run("bash", "-c", script, at=head.home, seconds=2 * MINUTE)
    assert again.returncode == 0, again.stdout


def test_a_process_without_the_token_cannot_join(cluster: Machine, network: list[Machine]) -> None:
    _, head, worker = network
    join = f"import ray; ray.init('{head.address}:6379', _node_ip_address='{worker.address}')"
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
    tried = worker.run(sys.executable, "-c", join, at=worker.home, seconds=3 * MINUTE, **environment)
    assert tried.returncode != 0
    assert "Unauthenticated" in tried.stdout or "InvalidAuthToken" in tried.stdout, tried.stdout
