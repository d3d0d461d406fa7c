"""The configurations of clusters: what Ray's launcher makes of them, without a cloud."""

import subprocess
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.util import prepare_config, validate_config

import study

CHECKOUT = Path(study.__file__).parents[1]
CLOUDS = ("cluster.yaml", "cluster-gcp.yaml")
ALL = (*CLOUDS, "cluster-local.yaml")


def prepared(name: str, **replaced: str) -> dict[str, Any]:
    """The configuration as Ray's launcher fills it in, with parts of its text replaced."""
    text = (CHECKOUT / name).read_text()
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    config: dict[str, Any] = prepare_config(yaml.safe_load(text))
    return config


@pytest.mark.parametrize("name", ALL)
def test_a_configuration_passes_rays_schema(name: str) -> None:
    validate_config(prepared(name))


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_has_cpu_and_gpu_workers_that_start_from_none_and_can_be_taken_away(name: str) -> None:
    config = prepared(name)
    head = config["available_node_types"].pop("head")
    assert head["resources"] == {"CPU": 0}, "trials keep off the head"
    assert head["max_workers"] == 0
    workers = config["available_node_types"]
    assert {"GPU" in worker["resources"] for worker in workers.values()} == {True, False}
    for worker in workers.values():
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= config["max_workers"]
        node = worker["node_config"]
        assert node.get("InstanceMarketOptions") == {"MarketType": "spot"} or node["scheduling"]["preemptible"]
    assert 0 < config["idle_timeout_minutes"] <= 10


@pytest.mark.parametrize("name", ALL)
def test_every_machine_has_this_checkout_and_the_token_and_its_pages_stay_on_loopback(name: str) -> None:
    config = prepared(name)
    assert config["file_mounts"]["~/self-modeling-study/"] == "."
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/self-modeling-study-token"
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert "~/self-modeling-study/cluster/install" in commands
    (start,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in start


def test_on_aws_ray_opens_no_port_and_makes_no_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # for the key that Ray makes
    (tmp_path / ".ssh").mkdir()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "for-moto")
    with mock_aws():
        ec2 = boto3.client("ec2", region_name="us-west-2")
        group = ec2.create_security_group(GroupName="inside", Description="as in cluster/aws.yaml")["GroupId"]
        config = bootstrap_aws(prepared("cluster.yaml", **{"sg-0123456789abcdef0": group}))  # type: ignore[no-untyped-call]
        groups = ec2.describe_security_groups()["SecurityGroups"]
        assert {each["GroupName"] for each in groups} == {"inside", "default"}
        assert [each["IpPermissions"] for each in groups] == [[], []]
        assert boto3.client("iam", region_name="us-west-2").list_roles()["Roles"] == []
    for each in config["available_node_types"].values():
        assert each["node_config"]["SecurityGroupIds"] == [group]


@pytest.mark.parametrize("name", ["install", "services", "environment"])
def test_the_scripts_of_the_nodes_have_no_error_of_syntax(name: str) -> None:
    subprocess.run(["bash", "-n", CHECKOUT / "cluster" / name], check=True)
