"""The environment of a result: versions, machine, git commit."""

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = (
    "self-modeling-study",
    "torch",
    "torchvision",
    "devinterp",
    "ray",
    "optuna",
    "mlflow",
    "numpy",
    "scikit-learn",
)


@functools.cache
def describe_environment() -> dict[str, str]:
    """Versions of the packages that decide results, the interpreter, and the driver's hardware."""
    versions = {f"version.{name}": _version(name) for name in PACKAGES}
    memory = psutil.virtual_memory().total / 2**30
    return versions | {
        "version.python": platform.python_version(),
        "platform": platform.platform(),
        "driver.cpus": str(psutil.cpu_count()),
        "driver.memory_gib": f"{memory:.0f}",
        "git_commit": git_commit(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def git_commit() -> str:
    """Commit of this project's checkout, '-dirty' if files differ from it; 'unknown' outside a checkout."""
    folder = Path(__file__).parent
    try:
        inside = _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        if not inside:
            return "unknown"
        dirty = "-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else ""
        return _git(folder, "rev-parse", "HEAD") + dirty
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
