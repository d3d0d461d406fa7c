"""The errors a user can meet. Each message says what is wrong, where, and what to do."""


class ConfigError(ValueError):
    """A configuration that no experiment can be run with."""


class DataError(RuntimeError):
    """A data set that is missing, cannot be fetched, or is not the one it should be."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint that belongs to other code or other data."""
