"""The terminal, exit codes, and short names of paths, programs and stores."""

import gc
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from study.errors import StudyError, without_secrets
from study.record.stores import Stores
from trainables.errors import CheckpointError, ConfigError, DataError

# Width of lines in a file, which has no width of its own.
LINE_WIDTH = 120
EXIT_OK, EXIT_FAILED_TRIALS, EXIT_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130


def run_command(program: Sequence[str], arguments: Sequence[str], command: Callable[[Console], int]) -> int:
    """Run a command and return its exit code; an error is printed as one message, an interrupt with how to go on."""
    console = open_console()
    try:
        code = command(console)
    except (StudyError, ConfigError, DataError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    if code == EXIT_INTERRUPTED:
        again = shlex.join([*program, *arguments])
        console.print(
            f"\nInterrupted. Everything finished is kept; the same command does the rest: {again}", markup=False
        )
    return code


def leave(code: int) -> NoReturn:
    """End the process at once: stores, Ray and files are closed by now, and taking down PyTorch takes a second."""
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """Do not collect garbage: for imports, whose hundreds of thousands of objects stay, and are walked each time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def open_console() -> Console:
    """A separate terminal: the driver redirects the output of libraries to a log."""
    console = Console(file=os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    if not console.is_terminal:
        console.width = LINE_WIDTH
    return console


def command_to_analyse(stores: Stores, study: str, *options: str) -> str:
    """The command that analyses a study in these stores."""
    command = [program("python"), "-m", "analysis", study]
    if stores.root != Path("runs").resolve():
        command += ["--store", short_path(stores.root)]
    if not stores.tracking_is_local:
        command += ["--tracking-uri", without_secrets(stores.tracking_uri)]
    return shlex.join([*command, *options])


def short_path(path: Path) -> str:
    """A path in the shortest form that works here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def short_url(url: str, local: Path) -> str:
    """A store's URL in its shortest form, without a password; `local` is its file if it is a file."""
    return f"sqlite:///{short_path(local)}" if url == f"sqlite:///{local}" else without_secrets(url)


def program(name: str) -> str:
    """How to call a program of this environment: by name if the shell finds it, else by path."""
    beside = Path(sys.executable).parent / name
    return name if shutil.which(name) == str(beside) else short_path(beside)
