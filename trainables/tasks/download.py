"""Downloads of data sets: by one process at a time, into a folder of its own, and kept only if the content is right."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from trainables.errors import DataError


def fetch_missing(
    root: Path,
    data_set: str,
    files: Mapping[str, str],
    download: Callable[[Path], None],
    verify: Callable[[Path, str], object],
) -> None:
    """Download the missing files of a data set; do nothing if all are there.

    Any number of processes, on machines that share the folder too, can call this at the same time: one downloads, the
    others wait for it. A file appears under its name only when it is complete and verified.

    Args:
        root: The folder of the data sets.
        data_set: The name for messages, and of the lock.
        files: Path within `root` → what `verify` expects of the file.
        download: Writes all files into a folder laid out as `root`.
        verify: Raises DataError if a file is not the one expected.

    Raises:
        DataError: the files cannot be downloaded, or have the wrong content.
    """
    if _all_there(root, files):
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        # The system lets go of the lock when its holder dies.
        with FileLock(root / f".{data_set}.lock"):
            if _all_there(root, files):
                return
            with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=root) as name:
                unfinished = Path(name)
                download(unfinished)
                for file, expected in files.items():
                    verify(unfinished / file, expected)
                for file in files:
                    if not (root / file).is_file():
                        (root / file).parent.mkdir(parents=True, exist_ok=True)
                        (unfinished / file).replace(root / file)
    except Exception as error:  # hosts' clients raise their own errors and those of their libraries
        raise _missing(root, data_set, list(files), error) from error


def _all_there(root: Path, files: Mapping[str, str]) -> bool:
    return all((root / file).is_file() for file in files)


def _missing(root: Path, data_set: str, files: list[str], error: Exception) -> DataError:
    if isinstance(error, DataError):
        reason = "what its host sent is damaged or another data set"
    else:
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
    first, *others = files
    looked_for = first if not others else f"{first} and {len(others)} more"
    return DataError(
        f"{data_set} is not in {root.resolve()} (looked for {looked_for}) and could not be downloaded ({reason}). Name "
        "the folder that has it with --data DIR or SELF_MODELING_DATA, or run once with a network connection and a "
        "folder that can be written to."
    )
