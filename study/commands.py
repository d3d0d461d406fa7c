"""The commands of `python -m study`: a table of them, and the shape that they share."""

import difflib
import shlex
import sys
from collections.abc import Callable
from typing import NamedTuple

from rich.console import Console

from study.cli import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, own_console
from study.errors import StudyError
from study.layers_command import list_layers
from study.rlct_commands import calibrate, estimate
from trainables.errors import CheckpointError, ConfigError, DataError


class Command(NamedTuple):
    """What a command does, in a line, and what does it."""

    summary: str
    run: Callable[[list[str], Console], int]


COMMANDS = {
    "layers": Command("list the layers of a network, which a self-model can target", list_layers),
    "rlct calibrate": Command("find out which settings of the rlct can be trusted", calibrate),
    "rlct estimate": Command("estimate the rlct of a study's finished trials again", estimate),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it is done, 1 if parts of it failed, 2 for an error, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    console = own_console()
    words = next((n for n in (2, 1) if " ".join(arguments[:n]) in COMMANDS), 0)
    if not words and (not arguments or {"-h", "--help"} & set(arguments)):
        _print_commands(console)
        return EXIT_OK
    try:
        if not words:
            raise StudyError(_unknown(arguments))
        return COMMANDS[" ".join(arguments[:words])].run(arguments[words:], console)
    except (StudyError, ConfigError, DataError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        command = shlex.join(["python", "-m", "study", *arguments])
        console.print(
            f"\nInterrupted. Everything done is kept; the same command does the rest: {command}", markup=False
        )
        return EXIT_INTERRUPTED


def _print_commands(console: Console) -> None:
    console.print("python -m study COMMAND ...; python -m study COMMAND --help tells about one of them\n")
    width = max(map(len, COMMANDS))
    for name, command in COMMANDS.items():
        console.print(f"  [bold]{name:<{width}}[/bold]  {command.summary}")
    console.print("\nTo run a study: python study/run.py --help")


def _unknown(arguments: list[str]) -> str:
    given = " ".join(word for word in arguments[:2] if not word.startswith("-"))
    meant = [name for name in COMMANDS if name.startswith(given)] or difflib.get_close_matches(given, COMMANDS, n=1)
    hint = f"Did you mean {' or '.join(map(repr, meant))}? " if meant else ""
    return f"unknown command {given!r}. {hint}All commands: python -m study --help"
