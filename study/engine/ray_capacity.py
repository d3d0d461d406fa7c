"""Whether a trial fits this machine or a node of the cluster, also one that an autoscaler has not started yet."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray
import yaml
from ray._private.resource_and_label_spec import ResourceAndLabelSpec

from study.engine.resources import Resources
from study.errors import StudyError

# Ray's launcher writes the cluster's configuration to its head; Ray Tune looks there too.
LAUNCHER_FILE = Path("~/ray_bootstrap_config.yaml")


def check_this_machine(resources: Resources) -> None:
    """Check that a trial fits this machine, as Ray will see it.

    Raises:
        StudyError: it does not fit.
    """
    here = ResourceAndLabelSpec().resolve(is_head=True, node_ip_address="127.0.0.1")
    available = {"CPU": float(here.num_cpus or 0), "GPU": float(here.num_gpus or 0)}
    if not _fits(resources, available):
        raise StudyError(
            f"a trial wants {_text(_wanted(resources))}, this machine has {_text(available)}: lower "
            f"{_options(resources, [available])}, or run on a cluster (--address)."
        )


def check_cluster(resources: Resources) -> str | None:
    """Check that a trial fits a node; if that node has not been started yet, return a sentence that says so.

    Raises:
        StudyError: no node is large enough, and no autoscaler would start one.
    """
    nodes: list[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if any(_fits(resources, node) for node in nodes):
        return None
    wanted = f"a trial wants {_text(_wanted(resources))}"
    types = node_types()
    if types is None:
        raise StudyError(
            f"{wanted}, no node of the cluster has that ({_list(nodes)}): lower {_options(resources, nodes)}, or add "
            "a node that has it."
        )
    waiting = f"{wanted}, which no node has yet: waiting for the autoscaler to start one"
    # The launcher does not know the resources of a type that does not name them, on machines of one's own.
    fitting = [name for name, each in types.items() if not each.resources or _fits(resources, each.resources)]
    if fitting:
        return f"{waiting} ({', '.join(fitting)})"
    if types:
        of_types = [each.resources for each in types.values()]
        raise StudyError(
            f"{wanted}, and neither a node of the cluster nor a type of node that the autoscaler may start has that "
            f"({_list(of_types)}): lower {_options(resources, of_types)}, or add such a type to the "
            "cluster's configuration."
        )
    return waiting


class NodeType(NamedTuple):
    """A type of node that an autoscaler may start: its resources, as far as they are known, and the most of them."""

    resources: Mapping[str, float]
    most: int


def node_types() -> dict[str, NodeType] | None:
    """The types of nodes that an autoscaler may start, by name.

    Empty where there is an autoscaler that does not tell them, None where there is none.
    """
    try:
        config = yaml.safe_load(LAUNCHER_FILE.expanduser().read_text())
        return launcher_types(config)
    except (OSError, yaml.YAMLError, AttributeError):
        # This is not the head of a cluster of the launcher.
        pass
    reported = ray._private.state.state.get_cluster_config()
    if reported is not None and reported.node_group_configs:
        groups = reported.node_group_configs
        return {each.name: NodeType(dict(each.resources), each.max_count) for each in groups if each.max_count != 0}
    # Only nodes that an autoscaler manages carry the name of a type.
    named = any("ray.io/node-group" in node.get("Labels", {}) for node in ray.nodes())  # type: ignore[no-untyped-call]
    return {} if named else None


def launcher_types(config: Mapping[str, Any]) -> dict[str, NodeType]:
    """The types of workers in a configuration of Ray's launcher, by name."""
    head = config.get("head_node_type")
    most = config.get("max_workers", 0)
    types = {
        name: NodeType(each.get("resources") or {}, min(most, each.get("max_workers", most)))
        for name, each in config["available_node_types"].items()
        if name != head
    }
    return {name: each for name, each in types.items() if each.most > 0}


def most_at_any_time(resources: Resources) -> int:
    """Number of trials that fit the cluster's nodes when an autoscaler has started all that it may, at least 1.

    An autoscaler that does not tell its types of nodes may start more.
    """
    types = (node_types() or {}).values()
    started = sum(each.most * _number(resources, each.resources) for each in types)
    return max(most_side_by_side(resources), started)


def most_side_by_side(resources: Resources) -> int:
    """Number of trials that fit the cluster's nodes at the same time, at least 1."""
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, _number(resources, available))


def _number(resources: Resources, available: Mapping[str, float]) -> int:
    """Number of trials that fit these resources."""
    fitting = available.get("CPU", 0) / resources.cpus_per_trial
    if resources.gpus_per_trial:
        fitting = min(fitting, available.get("GPU", 0) / resources.gpus_per_trial)
    return int(fitting)


def _wanted(resources: Resources) -> dict[str, float]:
    return {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial}


def _fits(resources: Resources, node: Mapping[str, float]) -> bool:
    return all(node.get(name, 0) >= wanted for name, wanted in _wanted(resources).items())


def _options(resources: Resources, nodes: Iterable[Mapping[str, float]]) -> str:
    """The options that ask for more than any node has; both if it is only their sum."""
    options = {"CPU": "--cpus-per-trial", "GPU": "--gpus-per-trial"}
    most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in options}
    over = [options[name] for name, wanted in _wanted(resources).items() if wanted > most[name]]
    return " and ".join(over or options.values())


def _text(amounts: Mapping[str, float]) -> str:
    return " and ".join(
        f"{amounts.get(name, 0):g} {name}" for name in ("CPU", "GPU") if name == "CPU" or amounts.get(name)
    )


def _list(nodes: Iterable[Mapping[str, float]]) -> str:
    return "; ".join(dict.fromkeys(_text(node) for node in nodes)) or "it has none"
