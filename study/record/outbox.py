"""The outbox: results that came while the tracking store could not take them, on the disk of the driver.

They are trials that ended and repeated estimates of the rlct. Each has a folder, which appears whole or not at all:
`manifest.json` (what the record is to have of it, and the digest of every file), `outcome.json` and `files/` (what
becomes the artifacts of its run).
"""

import hashlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from analysis.layout import Artifact
from study.errors import StudyError
from study.record.outcome import EstimateOutcome, Outcome, epochs_of
from study.record.usage import Allotment, Usage
from trainables.config import RlctConfig
from trainables.trial import TrialConfig

MANIFEST, OUTCOME, FILES = "manifest.json", "outcome.json", "files"
# Ends of the names of folders that are not whole yet, and of damaged ones.
PART, DAMAGED = ".part", ".damaged"


class DamagedError(Exception):
    """A folder of the outbox is not as it was written; the message names the file."""


class Former(NamedTuple):
    """The run of the same trial with fewer replicates."""

    run_id: str
    begun: int  # when the first such run began, in milliseconds since 1970
    used: Usage  # by all such runs


@dataclass(frozen=True)
class EndedTrial:
    """A trial that has ended, as the record is to have it. Times are in milliseconds since 1970."""

    key: str
    name: str
    config: TrialConfig  # with the seeds of all its replicates
    git_commit: str
    started: int
    ended: int
    place: int | None = None  # in the search
    supersedes: Former | None = None
    allotment: Allotment | None = None  # what it had while it ran
    reason: str | None = None  # why it failed; None with a result
    host: str | None = None  # where it failed

    def to_plain(self) -> dict[str, Any]:
        """As JSON can have it."""
        return asdict(self) | {"config": self.config.model_dump(mode="json")}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "EndedTrial":
        """The trial of `to_plain`, after a way through JSON."""
        former, allotment = values["supersedes"], values["allotment"]
        parts: dict[str, Any] = {"config": TrialConfig(**values["config"])}
        if former is not None:
            run_id, begun, used = former
            parts["supersedes"] = Former(run_id, begun, Usage(**used))
        if allotment is not None:
            parts["allotment"] = Allotment(**allotment)
        return cls(**dict(values) | parts)


@dataclass(frozen=True)
class EndedEstimate:
    """A repeated estimate of the rlct, as the record is to have it."""

    key: str  # of the trial, as its runs have it
    run_id: str  # of the trial's run
    settings: RlctConfig
    environment: Mapping[str, str]  # tags that say by what and where it was made
    ended: int  # in milliseconds since 1970

    def to_plain(self) -> dict[str, Any]:
        """As JSON can have it."""
        return asdict(self) | {"settings": self.settings.model_dump(mode="json")}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "EndedEstimate":
        """The estimate of `to_plain`, after a way through JSON."""
        return cls(**dict(values) | {"settings": RlctConfig(**values["settings"])})


@dataclass(frozen=True)
class _Waiting:
    folder: Path

    @property
    def files(self) -> Path:
        """The folder of what becomes its artifacts."""
        return self.folder / FILES


@dataclass(frozen=True)
class EstimateEntry(_Waiting):
    """A repeated estimate in the outbox and its folder."""

    estimate: EndedEstimate

    @property
    def ended(self) -> int:
        """When it was made, in milliseconds since 1970."""
        return self.estimate.ended

    def outcome(self) -> EstimateOutcome:
        """The estimate itself."""
        return EstimateOutcome.from_json((self.folder / OUTCOME).read_text())


@dataclass(frozen=True)
class TrialEntry(_Waiting):
    """A trial in the outbox and its folder."""

    trial: EndedTrial

    @property
    def ended(self) -> int:
        """When the trial ended, in milliseconds since 1970."""
        return self.trial.ended

    def outcome(self) -> Outcome:
        """The result of a trial that has one."""
        return Outcome.from_json((self.folder / OUTCOME).read_text())

    def epochs(self) -> list[dict[str, list[float]]]:
        """The measures of every epoch of a trial with a result: a value per replicate by name."""
        import pandas as pd

        return epochs_of(pd.read_parquet(self.files / Artifact.HISTORY))


class Outbox:
    """The results of one study that wait for its record. It belongs to the driver that holds the study."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._elsewhere: list[Path] = []  # folders of entries for which `folder` had no room

    def __len__(self) -> int:
        return len(self._folders())

    def put(
        self,
        ended: EndedTrial | EndedEstimate,
        outcome: Outcome | EstimateOutcome | None = None,
        files: Path | None = None,
    ) -> Path:
        """Add a trial that has ended, or an estimate, with its result and a copy of its files; return the new folder.

        If there is no room for it, it goes to the system's folder for temporary files.

        Raises:
            StudyError: it can be written nowhere.
        """
        try:
            return _write(self.folder, ended, outcome, files)
        except OSError as error:
            try:
                folder = _write(Path(tempfile.mkdtemp(prefix=f"{self.folder.name}-outbox-")), ended, outcome, files)
            except OSError:
                raise StudyError(
                    f"a result of trial {ended.key} can be written neither to the record nor to {self.folder}: "
                    f"{error}. Make room on the disk, then run the same command again: what is in the record or in "
                    "that folder is kept."
                ) from error
            self._elsewhere.append(folder)
            return folder

    def entries(self) -> tuple[list[TrialEntry | EstimateEntry], list[str]]:
        """The results that wait, in the order in which they came, and of each damaged folder where it is and why.

        Damaged folders are set aside, under a name that ends in `.damaged`.
        """
        for unfinished in self.folder.glob(f"*{PART}"):
            # Of a driver that died while it wrote or removed this.
            shutil.rmtree(unfinished, ignore_errors=True)
        entries, damaged = [], []
        for folder in self._folders():
            try:
                entries.append(self.read(folder))
            except DamagedError as error:
                damaged.append(f"{self.set_aside(folder)}: {error}")
        return sorted(entries, key=lambda entry: entry.ended), damaged

    def set_aside(self, folder: Path) -> Path:
        """Take a folder out of those that wait; return its new path."""
        return folder.rename(folder.with_name(folder.name + DAMAGED))

    def read(self, folder: Path) -> TrialEntry | EstimateEntry:
        """The result in a folder of the outbox.

        Raises:
            DamagedError: a file is missing or is not as it was written.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            if manifest["digest"] != _digest_of_manifest(manifest):
                raise DamagedError(f"{MANIFEST} is not as it was written")
            for name, digest in manifest["files"].items():
                if _digest(folder / name) != digest:
                    raise DamagedError(f"{name} is not as it was written")
            if "estimate" in manifest:
                return EstimateEntry(folder, EndedEstimate.from_plain(manifest["estimate"]))
            return TrialEntry(folder, EndedTrial.from_plain(manifest["trial"]))
        except OSError as error:
            raise DamagedError(f"{Path(error.filename or folder).name} cannot be read ({error.strerror})") from error
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedError(f"{MANIFEST} is not as it was written, or of another version") from error

    def remove(self, entry: TrialEntry | EstimateEntry) -> None:
        """Remove a result that the record has now, and the outbox's folder with the last one."""
        # Renamed first: a driver that dies here leaves nothing that looks damaged.
        shutil.rmtree(entry.folder.rename(entry.folder.with_name(entry.folder.name + PART)), ignore_errors=True)
        for folder in (self.folder, self.folder.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def place(self) -> str:
        """Where the waiting results are, in words."""
        return ", ".join(map(str, dict.fromkeys(folder.parent for folder in self._folders()))) or str(self.folder)

    def _folders(self) -> list[Path]:
        inside = self.folder.iterdir() if self.folder.is_dir() else ()
        every = (*inside, *(each for each in self._elsewhere if each.exists()))
        return sorted(each for each in every if each.is_dir() and each.suffix not in (PART, DAMAGED))


def _write(
    outbox: Path,
    ended: EndedTrial | EndedEstimate,
    outcome: Outcome | EstimateOutcome | None,
    files: Path | None,
) -> Path:
    folder = outbox / f"{ended.key}-{secrets.token_hex(4)}"
    part = folder.with_name(folder.name + PART)
    try:
        part.mkdir(parents=True)
        if files is not None:
            shutil.copytree(files, part / FILES)
        if outcome is not None:
            (part / OUTCOME).write_text(outcome.to_json())
        digests = {str(file.relative_to(part)): _digest(file) for file in sorted(part.rglob("*")) if file.is_file()}
        kind = "trial" if isinstance(ended, EndedTrial) else "estimate"
        manifest: dict[str, Any] = {kind: ended.to_plain(), "files": digests}
        manifest["digest"] = _digest_of_manifest(json.loads(json.dumps(manifest)))
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1))
        return part.rename(folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _digest_of_manifest(manifest: Mapping[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
