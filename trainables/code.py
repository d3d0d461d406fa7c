"""A digest of the code that gives weights their meaning."""

import ast
import functools
import hashlib
import inspect
import sys
from pathlib import Path

from torch import nn

from trainables.networks import Architecture

# Checkpoints with these digests can still be read: their networks compute the same, as the older numbers in
# tests/trainables/golden show. The first of each is from the time when one file held an architecture and its network,
# the second from before NetworkConfig had more fields than the sizes. Remove an architecture's digests when its numbers
# change.
EARLIER_DIGESTS = {
    "mlp": {
        "ae8d4f48e4c83918243af970890be999b562b573fbb2bc7bf3846e86f670cb30",
        "498363f0012d9b20a1601be254a2e328dd74fea2fe6d8058697d9f568bad8fac",
    },
    "convnet": {
        "a1249f3be45a5f4eddbf524ff17423766eef14c5e9cde4abe720b3bea1211a50",
        "aeaa18afdf6554414f25626aeeb0be3f4243e65ad968ac65cfd916bf0785dcdd",
    },
    "resnet18": {
        "1ca14d22fa9303461c36f4cb13f54050f1588d6ba752de4b987c2b32c28ef280",
        "51cfc55c721ce63bdf9cd5130f7d06fcfa2490c8bced6a413df6205de94e163a",
    },
    "embedding_bag": {
        "c6bd8b204ef46f6e8185d75f5b5a2b9954e31e48e161b71182608373b8cdb1ca",
        "821cc8a1b32ca5d75acca6640cea74f9ad223832d968334e7b52c3da0979c17b",
    },
    "transformer": {
        "c8b4803ba356e2ed07f9a07a7dad8062d4561b5334b4814c48cc96e98bbaef89",
        "61cfa8fe6762fd43630558b5eba9f07be2a3ecb672c74d5846fbc75c658bd8c6",
    },
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
