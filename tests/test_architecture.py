"""The dependency rules of the three packages, read off the source."""

import ast
from pathlib import Path

import pytest

import analysis
import study
import trainables

FORBIDDEN = {
    "trainables": {"ray", "mlflow", "optuna", "study", "analysis"},
    "analysis": {"study", "trainables", "ray", "torch"},
}
FOLDERS = {package.__name__: Path(str(package.__file__)).parent for package in (trainables, analysis, study)}


def imports_of(path: Path) -> set[str]:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    return imported


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_does_not_import_what_lies_above_it(package: str) -> None:
    files = list(FOLDERS[package].rglob("*.py"))
    assert len(files) > 3
    for path in files:
        assert imports_of(path) & FORBIDDEN[package] == set(), path


def test_the_entry_point_imports_installed_packages_alone() -> None:
    # It is uploaded by itself to a cluster: nothing beside it is there.
    assert imports_of(FOLDERS["study"] / "run.py") == {"study"}
