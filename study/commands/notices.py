"""The service's own log on the terminal: a server that does not answer and is tried again."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from study.errors import without_secrets


@contextmanager
def notices_on(console: Console) -> Iterator[None]:
    """Show the log of the study service, from warnings on, without secrets."""
    logger = logging.getLogger("study")
    handler = _ConsoleHandler(console)
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console):
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(without_secrets(record.getMessage()), style="yellow", markup=False, highlight=False)
