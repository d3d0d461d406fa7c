"""The error a user of the analysis can meet."""


class AnalysisError(RuntimeError):
    """The record cannot be analysed; the message says why and what to do."""
