"""Whether a report is still current, found out without making it again.

Beside a report lies a note with its source and a summary. This module imports nothing slow, so that the command of a
finished study answers at once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

NOTE = "report.json"
PAGE = "report.html"
# The files of this package that decide a report.
CODE = ("*.py", "*.j2", "*.css", "*.json")


@dataclass(frozen=True)
class ReportSource:
    """The source of a report, apart from the code of the analysis."""

    trials: Mapping[str, int]  # by run id of each finished trial: MLflow's end time of that run, ms
    objectives: Mapping[str, str]  # in their order
    question: str
    rlct: str | None = None  # key of the settings of the estimates that replace the trials' own

    def digest(self) -> str:
        """64 hexadecimal digits that change with anything that changes the report."""
        content = {
            "trials": sorted(self.trials.items()),
            "objectives": list(self.objectives.items()),
            "question": self.question,
            "rlct": self.rlct,
            "code": code_digest(),
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class Summary:
    """The summary of a report."""

    trials: int
    networks: int
    front: list[dict[str, str]]  # the Pareto-optimal trials as text, with columns network, dimensions, objectives


@cache
def code_digest() -> str:
    """64 hexadecimal digits that change with the files of this package."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in folder.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def report_is_current(folder: Path, source: ReportSource) -> bool:
    """Whether the folder holds a complete report that this code made from this source."""
    note = _note(folder)
    # Sizes too: another version of the analysis, which knows of no note, may have written over the files.
    sizes = note.get("sizes")
    return note.get("source") == source.digest() and isinstance(sizes, dict) and sizes == _sizes_now(folder, sizes)


def read_summary(folder: Path) -> Summary | None:
    """The summary of the report in a folder; None if there is no complete report."""
    summary = _note(folder).get("summary")
    return Summary(**summary) if isinstance(summary, dict) else None


def begin_report(folder: Path) -> None:
    """Remove the note: a half-written report is not current."""
    (folder / NOTE).unlink(missing_ok=True)


def end_report(folder: Path, source: ReportSource, summary: Summary) -> None:
    """Write the note: the source and the summary of the report in the folder."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    note = {"source": source.digest(), "summary": asdict(summary), "sizes": sizes}
    (folder / NOTE).write_text(json.dumps(note, indent=1, ensure_ascii=False), encoding="utf-8")


def _sizes_now(folder: Path, names: Iterable[str]) -> dict[str, int] | None:
    """The sizes in bytes of these files; None if one is missing."""
    try:
        return {name: (folder / name).stat().st_size for name in names}
    except OSError:
        return None


def _note(folder: Path) -> dict[str, object]:
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
