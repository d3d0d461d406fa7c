"""Where a worker runs: the machine, and the Ray node on it."""

import socket
from typing import NamedTuple

import ray


class Place(NamedTuple):
    """A machine and a Ray node."""

    host: str
    node: str  # Ray's id of the node

    def __str__(self) -> str:
        return f"{self.host} (Ray node {self.node[:12]})"


def place_here() -> Place:
    """Where this worker runs."""
    return Place(socket.gethostname(), ray.get_runtime_context().get_node_id())
