"""The dependency rules of the packages and of study's subpackages (rooms), checked on the source."""

import ast
import subprocess
import sys
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
# Each subpackage may import those after it, and none before it.
ROOMS = ("commands", "engine", "search", "record", "spec")
# Where in study/ a library may be imported, by the beginning of a file's path.
HOMES = {
    "rich": ("commands/",),
    "ray": ("engine/ray_",),
    "optuna": ("search/",),
    "mlflow": ("record/",),
}


def modules_imported_by(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, at any place in the file."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return imported


def packages_imported_by(path: Path) -> set[str]:
    return {module.partition(".")[0] for module in modules_imported_by(path)}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_does_not_import_what_lies_above_it(package: str) -> None:
    files = list(FOLDERS[package].rglob("*.py"))
    assert len(files) > 3
    for path in files:
        assert packages_imported_by(path) & FORBIDDEN[package] == set(), path


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_study_imports_no_room_above_it(room: str) -> None:
    files = list((FOLDERS["study"] / room).rglob("*.py"))
    assert len(files) > 3
    above = ROOMS[: ROOMS.index(room)]
    for path in files:
        rooms = {module.split(".")[1] for module in modules_imported_by(path) if module.startswith("study.")}
        assert rooms & set(above) == set(), path


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_in_its_rooms_alone(library: str) -> None:
    users = [
        str(path.relative_to(FOLDERS["study"]))
        for path in FOLDERS["study"].rglob("*.py")
        if library in packages_imported_by(path)
    ]
    assert users, f"nothing in study/ uses {library}"
    assert [path for path in users if not path.startswith(HOMES[library])] == []


def test_the_entry_point_imports_installed_packages_alone() -> None:
    # The entry point is uploaded alone to a cluster, without other files.
    assert packages_imported_by(FOLDERS["study"] / "run.py") == {"study"}


HEAVY = ("torch", "torchvision", "mlflow", "optuna", "ray", "pandas", "sklearn", "matplotlib", "sqlalchemy")


@pytest.mark.parametrize("arguments", [["--help"], ["mnist", "--help", "training"], ["--list"]], ids=" ".join)
def test_help_and_list_import_no_library_that_takes_long(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom study.commands.run import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    allowed = "['optuna']" if arguments == ["--list"] else "[]"
    assert done.stderr.strip().splitlines()[-1] in ("[]", allowed)
    assert done.stdout
