"""SQLite files that a dashboard may read while a study writes them.

While a study runs, its files have a write-ahead log (WAL): readers and the one writer do not wait for each other. When
it ends, the log is merged, so that the file stands alone: it can be copied, and read in a folder that is read-only.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

# Seconds to wait for a lock that another process holds.
SECONDS_TO_WAIT = 60


def begin_log(file: Path) -> None:
    """Give a SQLite file a write-ahead log, if its file system can have one. A missing file is created."""
    _execute(file, SECONDS_TO_WAIT, "pragma journal_mode=wal")


def end_log(file: Path) -> None:
    """Merge the write-ahead log into the file. If a dashboard has it open, the log stays until that one ends."""
    if file.exists():
        _execute(file, 1, "pragma wal_checkpoint(truncate)", "pragma journal_mode=delete")


def damage_of(file: Path) -> str | None:
    """What is wrong with a SQLite file at first sight: it is none, or was cut off. None if nothing is.

    A file that is missing or empty is a database without tables.
    """
    # The log first: its pages may be moved into the file meanwhile.
    in_log, pages, page_size = _pages_in(file.with_name(f"{file.name}-wal"))
    if not file.is_file() or (size := file.stat().st_size) == 0:
        return None
    if pages:
        is_short = any(page not in in_log for page in range(size // page_size + 1, pages + 1))
        return f"it ends after {size:,} of {page_size * pages:,} bytes" if is_short else None
    # By SQLite, which looks at the first page. Whoever opens and closes the file otherwise takes away the locks of this
    # process, after which another one deletes the log under its hands: https://sqlite.org/howtocorrupt.html (2.2)
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=1)) as database:
            database.execute("pragma page_count").fetchone()
    except sqlite3.OperationalError:
        return None  # Who opens it next says why it cannot be read.
    except sqlite3.DatabaseError as error:
        is_none = "not a database" in str(error)
        return "it is no SQLite database" if is_none else f"it ends after {size:,} bytes, too soon"
    return None


def _pages_in(log: Path) -> tuple[set[int], int, int]:
    """The pages that a write-ahead log has, how many the database has after its last commit, and the size of one.

    Without a log, or with an empty one, there are none. Format: https://sqlite.org/fileformat2.html#walformat
    """
    found: set[int] = set()
    pages = page_size = 0
    try:
        with log.open("rb") as content:
            head = content.read(32)
            page_size, salts = int.from_bytes(head[8:12]), head[16:24]
            while len(frame := content.read(24)) == 24 and frame[8:16] == salts:
                found.add(int.from_bytes(frame[:4]))
                pages = int.from_bytes(frame[4:8]) or pages
                content.seek(page_size, 1)
    except OSError:
        return set(), 0, 0
    return found, pages, page_size


def _execute(file: Path, seconds: float, *statements: str) -> None:
    try:
        with closing(sqlite3.connect(file, timeout=seconds)) as database:
            for statement in statements:
                database.execute(statement)
    except sqlite3.Error:
        # Another process holds the file, or it is no database: who opens it next waits, or says what is wrong.
        return
