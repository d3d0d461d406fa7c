"""A study on several Ray nodes: trials on all of them, a node that dies, a node with other code."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import study
from study.record.reader import RecordReader
from study.record.stores import Stores
from tests.study.nodes import Nodes, cluster_of_nodes
from tests.study.synthetic import runs_of

pytestmark = pytest.mark.services

CHECKOUT = Path(study.__file__).parents[1]
# The type of each node, as its owner has labelled it, and the price of an hour of each type.
NODES = {"first": "small", "second": "large", "third": ""}
PRICES = {"small": 0.5, "large": 2.0, "default": 7.0}
TRIALS = 9
MINUTE = 60


def start_study(nodes: Nodes, folder: Path, trials: int, epochs: int, *options: str) -> "subprocess.Popen[bytes]":
    """Start a study of so many trials on digits as a user does, on the cluster."""
    file = folder / "nodes.yaml"
    spec = {
        "name": "nodes",
        "question": "Does it run everywhere?",
        "task": "digits",
        "replicates": 2,
        "sampler": "design",
        "space": {"hidden_layers": 1, "width": 16, "target_depth": 1},
        "design": [{"aux_weight": list(range(trials))}],
        "training": {"epochs": epochs},
        "rlct": {"draws": 10, "chains": 2, "batch_size": 32},
        "observer": {"epochs": 0},
        # No trial may fail: that its node is lost is no failure.
        "budget": {"prices": PRICES, "money": 100, "max_failed_trials": 0},
    }
    file.write_text(yaml.safe_dump(spec))
    where = ["--store", str(folder), "--address", nodes.address]
    command = [sys.executable, str(CHECKOUT / "study/run.py"), str(file), *where, *options]
    with output_of(folder).open("wb") as output:
        return subprocess.Popen(command, env=nodes.environment, stdout=output, stderr=subprocess.STDOUT)


def output_of(folder: Path) -> Path:
    return folder / "output.txt"


def test_a_study_on_three_nodes_is_complete_although_one_is_killed_half_way(tmp_path: Path) -> None:
    stores = Stores.under(tmp_path)

    def finished(runs: list[Run]) -> Counter[str]:
        """Finished trials of each node."""
        return Counter(run.data.tags["node"] for run in runs if run.info.status == "FINISHED")

    with cluster_of_nodes() as nodes:
        for name, node_type in NODES.items():
            nodes.start(name, labels=f"node-type={node_type}" if node_type else "")
        # Trials long enough for every node to be at work when the last one has finished its first.
        driver = start_study(nodes, tmp_path, TRIALS, 500, "--snapshot-interval", "0.2")
        before: Counter[str] = Counter()
        running = 0
        # Until every node has finished a trial and has another one.
        while len(before) < len(NODES) or running < len(NODES):
            assert driver.poll() is None, output_of(tmp_path).read_text()
            time.sleep(0.2)
            if f"[{len(NODES)}/{TRIALS}" in output_of(tmp_path).read_text():  # MLflow has made its tables
                runs = runs_of(stores, "nodes", "tags.level = 'trial'")
                before = finished(runs)
                running = sum(run.info.status == "RUNNING" for run in runs)
        nodes.kill("second")
        driver.wait(timeout=10 * MINUTE)
    assert driver.returncode == 0, output_of(tmp_path).read_text()
    runs = runs_of(stores, "nodes", "tags.level = 'trial'")
    assert Counter(run.info.status for run in runs) == {"FINISHED": TRIALS}
    assert len({run.data.tags["trial_key"] for run in runs}) == TRIALS
    # The trial that the node was running has gone on on another one.
    (again,) = (run for run in runs if "supersedes" in run.data.tags)
    killed = MlflowClient(stores.tracking_uri).get_run(again.data.tags["supersedes"])
    assert (killed.info.status, killed.info.lifecycle_stage) == ("KILLED", "deleted")
    assert again.info.start_time > killed.info.start_time
    after = finished(runs)
    (dead,) = (node for node, count in after.items() if count == before[node])
    assert again.data.tags["node"] != dead
    assert not [file for file in (tmp_path / "ray" / "nodes" / "snapshots").rglob("*") if file.is_file()]
    # Every trial has had the whole node, at the price of the node's type; that without a type at the default price.
    record = RecordReader(stores, "nodes")
    assert Counter(run.data.tags.get("node_type", "") for run in runs).keys() == set(NODES.values())
    assert (
        len({(run.data.tags["node"], run.data.tags.get("node_type", "")) for run in runs if "node" in run.data.tags})
        == 3
    )
    hours = dict.fromkeys(NODES.values(), 0.0)
    for trial in record.trials():
        assert trial.allotment.node_share == 1
        hours[trial.allotment.node_type] += (trial.ended - trial.started) / 3600
    # So has the try that was interrupted.
    hours[killed.data.tags.get("node_type", "")] += (killed.info.end_time - killed.info.start_time) / 3_600_000
    cost = hours["small"] * 0.5 + hours["large"] * 2.0 + hours[""] * 7.0
    assert record.budget().cost(record.usage().node_hours) == pytest.approx(cost)


def test_a_node_with_another_version_of_the_code_is_refused_by_name(tmp_path: Path) -> None:
    other = tmp_path / "seeds.py"
    ours = CHECKOUT / "trainables/seeds.py"
    other.write_text(ours.read_text() + "\n# another version\n")
    # On the second node alone, the file at the same path has other content.
    mounted = 'mount --bind "$0" "$1" && shift && exec "$@"'
    elsewhere = ["unshare", "--mount", "sh", "-c", mounted, str(other), str(ours)]
    with cluster_of_nodes() as nodes:
        nodes.start("head", cpus=0)
        nodes.start("second", before=elsewhere)
        driver = start_study(nodes, tmp_path, trials=2, epochs=2)
        driver.wait(timeout=5 * MINUTE)
    output = output_of(tmp_path).read_text()
    assert driver.returncode == 2, output
    told = " ".join(output.split())
    assert "(Ray node " in told
    assert "has another version of this project (commit " in told
    assert "Give all nodes the same checkout" in told
    assert "Traceback" not in output
    (run,) = runs_of(Stores.under(tmp_path), "nodes", "tags.level = 'study'")
    assert run.info.status == "FAILED"
