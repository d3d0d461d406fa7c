"""The terminal, exit codes, and short names of paths, programs and stores."""

import gc
import io
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from analysis.locations import sqlite_file, sqlite_url
from analysis.secrets import has_secret, without_user
from study.commands.notices import notices_on
from study.errors import StudyError, without_secrets
from study.interrupts import interruptible, received
from study.record.stores import Stores
from study.shown import plain, shortened
from trainables.errors import CheckpointError, ConfigError, DataError

# Width of lines in a file, which has no width of its own.
LINE_WIDTH = 120
# Characters of an error message.
LONGEST_ERROR = 20_000
EXIT_OK, EXIT_FAILED_TRIALS, EXIT_ERROR, EXIT_BUDGET, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
# What a signal that ends a command means, by its number.
ENDINGS = {
    signal.SIGINT: "Interrupted.",
    signal.SIGTERM: "Ended by SIGTERM.",
    signal.SIGHUP: "The terminal was closed (SIGHUP).",
}


def run_command(program: Sequence[str], arguments: Sequence[str], command: Callable[[Console], int]) -> int:
    """Run a command and return its exit code; an error is printed as one message, an interrupt with how to go on.

    Ctrl-C, SIGTERM and SIGHUP all are interrupts: 128 plus the signal's number is the exit code.
    """
    console = open_console()
    with interruptible():
        try:
            with notices_on(console):
                code = command(console)
        except (StudyError, ConfigError, DataError, CheckpointError) as error:
            message = shortened(plain(without_secrets(str(error))), LONGEST_ERROR)
            with suppress(OSError):
                print(f"error: {message}", file=sys.stderr, flush=True)
            return EXIT_ERROR
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED
        if code == EXIT_INTERRUPTED:
            cause = received() or signal.SIGINT
            again = shlex.join([*program, *arguments])
            console.print(
                f"\n{ENDINGS[cause]} Everything finished is kept; the same command does the rest: {again}",
                markup=False,
            )
            code = 128 + cause
        return code


def leave(code: int) -> NoReturn:
    """End the process at once: stores, Ray and files are closed by now, and taking down PyTorch takes a second."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def tell(console: Console, text: str) -> None:
    """Print a sentence for the user as it is."""
    console.print(text, markup=False, soft_wrap=True)


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """Do not collect garbage: for imports, whose hundreds of thousands of objects stay, and are walked each time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class PlainConsole(Console):
    """A console that shows text as it is: names, questions, paths and errors may have brackets and control characters.

    Nothing in a text is markup: for colours, give a style, or a rich Text.
    """

    def __init__(self, **settings: Any):
        super().__init__(markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """A text as rich shows it; tables and `print` pass all of theirs through here."""
        return super().render_str(plain(text), **settings)


def open_console() -> Console:
    """A separate terminal: the driver redirects the output of libraries to a log."""
    output = _Output(os.fdopen(os.dup(sys.stdout.fileno()), "wb"), encoding="utf-8")
    console = PlainConsole(file=output)
    if not console.is_terminal:
        console.width = LINE_WIDTH
    return console


class _Output(io.TextIOWrapper):
    """Output that may be lost: a study goes on, and its record is closed, after its terminal has gone."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def command_to_analyse(stores: Stores, study: str, *options: str) -> str:
    """The command that analyses a study in these stores. A URL with a password comes from the environment again."""
    command = [program("python"), "-m", "analysis", study]
    if stores.root != Path("runs").resolve():
        command += ["--store", short_path(stores.root)]
    if not stores.tracking_is_local and not has_secret(stores.tracking_uri):
        command += ["--tracking-uri", stores.tracking_uri]
    return shlex.join([*command, *options])


def short_path(path: Path) -> str:
    """A path in the shortest form that works here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def short_url(url: str) -> str:
    """A store's URL in its shortest form, without a password."""
    file = sqlite_file(url)
    return without_secrets(url) if file is None or "?" in url else sqlite_url(Path(short_path(file)))


def url_for_command(url: str, variable: str) -> str:
    """A store's URL as an argument of a printed command: the variable that has it, if it has a password."""
    if not has_secret(url):
        return shlex.quote(short_url(url))
    # The variable may name the database without the driver, which other programs need.
    return f'"${variable}"' if os.environ.get(variable) == url else shlex.quote(without_user(url))


def program(name: str) -> str:
    """How to call a program of this environment: by name if the shell finds it, else by path."""
    beside = Path(sys.executable).parent / name
    return name if shutil.which(name) == str(beside) else short_path(beside)
