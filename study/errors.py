"""The error of the study service that a user can meet, and helpers for its text."""

from collections.abc import Iterator
from contextlib import contextmanager


class StudyError(RuntimeError):
    """The study cannot be run as asked; the message says what is wrong, where, and what to do."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type if it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0]


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


def without_secrets(url: str) -> str:
    """A database or server URL without its password, to be shown and logged."""
    # Imported here: it takes a while, and only errors and stores on servers need it.
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url
