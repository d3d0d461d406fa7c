"""The errors a user can meet. Each message says what is wrong, where, and what to do."""


class ConfigError(ValueError):
    """A configuration that cannot be run."""


class DataError(RuntimeError):
    """A data set that is missing, cannot be downloaded, or has the wrong content."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint that belongs to other code or other data."""
