"""A small study run as a user runs it, and a search for secrets in what it leaves behind."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

REPOSITORY = Path(__file__).parents[2]
STUDY = """
question: Does it run?
task: digits
replicates: 2
trials: {trials}
sampler: random
space: {{hidden_layers: 1, width: 8, aux_weight: {{low: 0.1, high: 10}}, target_depth: last}}
training: {{epochs: {epochs}}}
rlct: {{draws: 10, chains: 2, batch_size: 32}}
observer: {{epochs: 0}}
"""


class Ran(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


def write_study(folder: Path, trials: int, epochs: int = 2) -> None:
    (folder / "small.yaml").write_text(STUDY.format(trials=trials, epochs=epochs))


def command(*arguments: str) -> list[str]:
    """The command that runs the study with these options."""
    return [sys.executable, str(REPOSITORY / "study" / "run.py"), "small.yaml", *arguments]


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY)} | dict(changes)


def run(folder: Path, *arguments: str, variables: Mapping[str, str] | None = None, module: str | None = None) -> Ran:
    """Run the study in a folder; with `module`, run `python -m module` instead."""
    words = command(*arguments) if module is None else [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        words, cwd=folder, env=environment(variables or {}), capture_output=True, text=True, timeout=300
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def files_with(secret: str, folder: Path) -> list[Path]:
    """The files under a folder that hold a secret, as it is or percent-encoded."""
    forms = [form.encode() for form in {secret, quote(secret, safe=""), quote(secret)}]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files, "nothing to search"
    return [path for path in files if any(form in path.read_bytes() for form in forms)]
