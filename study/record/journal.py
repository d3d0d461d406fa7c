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


def _execute(file: Path, seconds: float, *statements: str) -> None:
    try:
        with closing(sqlite3.connect(file, timeout=seconds)) as database:
            for statement in statements:
                database.execute(statement)
    except sqlite3.Error:
        # Another process holds the file, or it is no database: who opens it next waits, or says what is wrong.
        return
