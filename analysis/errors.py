"""The error of the analysis that a user can meet."""


class AnalysisError(RuntimeError):
    """The record cannot be analysed; the message says why and what to do."""
