"""The error of the study service that a user can meet, and helpers for its text."""

from collections.abc import Iterator
from contextlib import contextmanager

from analysis.secrets import without_secrets

__all__ = ["StudyError", "disk_errors", "first_line", "last_line", "without_secrets"]


class StudyError(RuntimeError):
    """The study cannot be run as asked; the message says what is wrong, where, and what to do."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's text without secrets, or its type if it has no text."""
    return (without_secrets(str(error)).splitlines() or [type(error).__name__])[0]


def last_line(text: str, otherwise: str) -> str:
    """The last line of a traceback or message, which says most; something else where it has none."""
    return (text.strip().splitlines() or [otherwise])[-1]


@contextmanager
def disk_errors() -> Iterator[None]:
    """A disk that is full, or cannot be written to, as StudyError."""
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"a trial's files cannot be written: {error}. Make room on the disk, then run the same command "
            "again: finished trials are kept."
        ) from error
