"""A small disk that can be filled."""

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 2**20


@dataclass(frozen=True)
class SmallDisk:
    """A file system of its own, mounted at a folder."""

    folder: Path

    def fill(self) -> None:
        """Leave no byte."""
        with (self.folder / "filler").open("ab", buffering=0) as filler:
            # Ever smaller pieces, for the last ones.
            for piece in (MEGABYTE, 4096, 1):
                try:
                    while True:
                        filler.write(bytes(piece))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def make_room(self) -> None:
        """Remove what `fill` has written."""
        (self.folder / "filler").unlink()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """A disk of this size in a new folder; it needs the rights to mount one."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        # Lazily: a process that is ending may still have files open on it.
        subprocess.run(["umount", "--lazy", folder], check=True)
