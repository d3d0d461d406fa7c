"""A digest of the code that gives weights their meaning."""

import ast
import functools
import hashlib
import inspect
import sys
from pathlib import Path

from torch import nn

from trainables.networks import Architecture

# By architecture, digests of checkpoints that can still be read: their networks compute the same, as the older numbers
# in tests/trainables/golden show. Remove an architecture's digests when its numbers change, and all when
# PROTOCOL_VERSION is raised: checkpoints of another version are not read.
EARLIER_DIGESTS: dict[str, frozenset[str]] = {
    "convnet": frozenset({"c0f7fba653d33e472b5515308524e90a2b1e5ea426e791a29af55a38d781f5c2"}),
    "embedding_bag": frozenset({"4137fd3a726b6b1733d066cb9cb19e674d765374e0d684f5e89ec7ed95b314c9"}),
    "mlp": frozenset({"307ef4af04dead2b8405a15d0d7abb90343b9392fef45ea8eedff12f7d2569c8"}),
    "resnet18": frozenset({"d8df48ab935a3982227b5cd4cf3df1324fe0b5d1074061edc3ea6e66f4408c42"}),
    "transformer": frozenset({"195288778ca8b9aa8f90625936f1d74fb431261519142364fc56c9339bae462f"}),
}


def code_digest(architecture: Architecture, network: nn.Module) -> str:
    """SHA-256 of the modules of this project that define the architecture, its network and the network's layers.

    Comments, docstrings and layout do not count.
    """
    names = {type(architecture).__module__, *(type(module).__module__ for module in network.modules())}
    sha = hashlib.sha256()
    for name in sorted(name for name in names if not name.startswith("torch.")):
        sha.update(_without_docstrings(inspect.getsource(sys.modules[name])).encode())
    return sha.hexdigest()


@functools.cache
def package_digest() -> str:
    """SHA-256 over names and content of all modules of this package: no other version may go on from its states."""
    folder = Path(__file__).parent
    sha = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        sha.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        sha.update(hashlib.sha256(file.read_bytes()).digest())
    return sha.hexdigest()


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
