"""The error a user of the study service can meet, and what may be said in it."""

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError


class StudyError(RuntimeError):
    """The study cannot be run as asked; the message says what is wrong, where, and what to do."""


def first_line(error: Exception) -> str:
    """The first line of an exception's text, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def without_password(url: str) -> str:
    """A database or server URL as it may be shown and logged."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url
