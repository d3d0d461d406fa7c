"""The error a user of the study service can meet."""


class StudyError(RuntimeError):
    """The study cannot be run as asked; the message says what is wrong, where, and what to do."""
