"""Where running trials keep their snapshots, so that another worker or the next driver goes on from them."""

import logging
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.errors import without_secrets

if TYPE_CHECKING:
    from trainables.snapshot import SnapshotFile

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SnapshotPlace:
    """A place that all workers of a study reach: a folder, or one in a bucket. It has a folder for each running trial.

    A trial that has no snapshot, or none that can be read, starts from the beginning; no trial fails for it.
    """

    location: str  # a path or a URL
    interval: float  # seconds between two snapshots of a trial

    @contextmanager
    def file(self, key: str, data_digest: str) -> "Iterator[SnapshotFile]":
        """The snapshots of the trial with this key, those of earlier workers included."""
        from trainables.snapshot import SnapshotFile

        if not self._is_remote:
            yield SnapshotFile(Path(self.location) / key, data_digest, self.interval)
            return
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self._fetch(key, folder)
            yield SnapshotFile(folder, data_digest, self.interval, lambda saved: self._upload(key, saved))

    def forget(self, key: str) -> None:
        """Remove a trial's snapshots: it has ended."""
        from pyarrow.fs import FileType

        with _not_fatal("removed", self.location, key):
            files, root = self._files()
            folder = f"{root}/{key}"
            if files.get_file_info(folder).type != FileType.NotFound:
                files.delete_dir(folder)

    def kept_of(self, keys: Container[str]) -> list[str]:
        """Those of the trials with these keys that have snapshots."""
        from pyarrow.fs import FileSelector

        found: list[str] = []
        with _not_fatal("listed", self.location, "*"):
            files, root = self._files()
            folders = files.get_file_info(FileSelector(root, allow_not_found=True))
            found += [folder.base_name for folder in folders if folder.base_name in keys]
        return found

    def _fetch(self, key: str, folder: Path) -> None:
        from pyarrow.fs import FileSelector, LocalFileSystem, copy_files

        with _not_fatal("fetched", self.location, key):
            files, root = self._files()
            if files.get_file_info(FileSelector(f"{root}/{key}", allow_not_found=True)):
                copy_files(f"{root}/{key}", str(folder), files, LocalFileSystem())

    def _upload(self, key: str, folder: Path) -> None:
        from pyarrow.fs import LocalFileSystem, copy_files

        from trainables.snapshot import NAME

        with _not_fatal("uploaded", self.location, key):
            files, root = self._files()
            files.create_dir(f"{root}/{key}", recursive=True)
            # An object appears in a bucket when it is whole.
            copy_files(str(folder / NAME), f"{root}/{key}/{NAME}", LocalFileSystem(), files)

    @property
    def _is_remote(self) -> bool:
        return "://" in self.location

    def _files(self) -> tuple[Any, str]:
        from pyarrow.fs import FileSystem, LocalFileSystem

        if self._is_remote:
            files, root = FileSystem.from_uri(self.location)
            return files, root
        return LocalFileSystem(), self.location


@contextmanager
def _not_fatal(what: str, location: str, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _log.warning("The snapshots of trial %s in %s could not be %s: %s", key, without_secrets(location), what, error)
