"""The version of this project's code on a machine: results of two versions must not be mixed in a study."""

import functools
import hashlib
from pathlib import Path
from typing import NamedTuple

import analysis
import study
import trainables
from study.errors import StudyError
from study.record.environment import git_commit


class CodeVersion(NamedTuple):
    """The code on a machine: the git commit of its checkout, and the SHA-256 of all modules."""

    commit: str
    digest: str

    def __str__(self) -> str:
        commit, _, dirty = self.commit.partition("-")
        return f"commit {commit[:12]}{'-' if dirty else ''}{dirty}, code {self.digest[:12]}"


class OtherCodeError(StudyError):
    """A worker has another version of the code than the driver."""


def code_here() -> CodeVersion:
    """The version of the code that this process uses."""
    return CodeVersion(git_commit(), _digest())


@functools.cache
def _digest() -> str:
    """SHA-256 over names and content of the modules of all three packages."""
    sha = hashlib.sha256()
    for package in (study, trainables, analysis):
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            sha.update(f"{package.__name__}/{file.relative_to(folder).as_posix()}\0".encode())
            sha.update(hashlib.sha256(file.read_bytes()).digest())
    return sha.hexdigest()


def check_code(of_driver: CodeVersion, node: str) -> None:
    """Check that this process, a worker on that node, uses the driver's code.

    Raises:
        OtherCodeError: its code is another version; the message names the node and both versions.
    """
    if _digest() != of_driver.digest:
        raise OtherCodeError(
            f"{node} has another version of this project ({code_here()}) than the driver ({of_driver}). Give all "
            "nodes the same checkout ('ray up' copies it), then run the same command again: finished trials are kept."
        )
