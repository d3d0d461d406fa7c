"""Where a worker runs: the machine, and the Ray node on it."""

import socket
from typing import NamedTuple

import ray

from study.record.usage import Machine

# Labels of a node that name its type: one that its owner gives it (`ray start --labels node-type=c7i.4xlarge`), and the
# one that an autoscaler gives it, the name of its group in the cluster's configuration.
TYPE_LABELS = ("node-type", "ray.io/node-group")


class Place(NamedTuple):
    """A machine and a Ray node."""

    host: str
    node: str  # Ray's id of the node

    def __str__(self) -> str:
        return f"{self.host} (Ray node {self.node[:12]})"


def place_here() -> Place:
    """Where this worker runs."""
    return Place(socket.gethostname(), ray.get_runtime_context().get_node_id())


def machine_of(node_id: str) -> Machine:
    """The machine of the Ray node with this id; of unknown size if Ray does not know it."""
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        # A node that has died has no resources.
        if node["Alive"] and node["NodeID"] == node_id:
            resources, labels = node["Resources"], node.get("Labels", {})
            node_type = next((labels[label] for label in TYPE_LABELS if labels.get(label)), "")
            return Machine(resources.get("CPU", 0.0), resources.get("GPU", 0.0), node_type)
    return Machine(0.0, 0.0)
