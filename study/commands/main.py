"""`python -m study COMMAND`: everything but running a study, as a table of commands."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from study.commands.console import EXIT_OK, run_command
from study.errors import StudyError
from study.shown import plain, shortened
from trainables.registry import did_you_mean, suggestion


class Command(NamedTuple):
    """A command's one-line summary and the function that runs it."""

    summary: str
    module: str  # of study.commands, imported when the command is called
    function: str

    def load(self) -> Callable[[list[str], Console], int]:
        """Import the function, which maps arguments and terminal to an exit code."""
        function: Callable[[list[str], Console], int] = getattr(
            import_module(f"study.commands.{self.module}"), self.function
        )
        return function


COMMANDS = {
    "list": Command("list the studies of a store", "status", "list_studies"),
    "status": Command("show a study as it is now, from any terminal or machine", "status", "show_status"),
    "stop": Command("ask the driver of a study to stop, wherever it runs", "stop", "stop_study"),
    "retry": Command("run a study's failed trials again", "retry", "retry_failed"),
    "why": Command("show why a trial failed", "why", "explain_trial"),
    "layers": Command("list the layers of a network that a self-model can target", "layers", "list_layers"),
    "rlct calibrate": Command("find out which settings of the rlct can be trusted", "rlct", "calibrate"),
    "rlct estimate": Command("estimate the rlct of a study's finished trials again", "rlct", "estimate"),
    "optuna rebuild": Command("make the Optuna study of a study anew from its record", "optuna", "rebuild_study"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it is done, 1 if parts of it failed, 2 for an error, 128 + signal when ended by one."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(["python", "-m", "study"], arguments, lambda console: _run(arguments, console))


def _run(arguments: list[str], console: Console) -> int:
    words = next((n for n in (2, 1) if " ".join(arguments[:n]) in COMMANDS), 0)
    if words:
        return COMMANDS[" ".join(arguments[:words])].load()(arguments[words:], console)
    if not arguments or {"-h", "--help"} & set(arguments):
        _print_commands(console)
        return EXIT_OK
    raise StudyError(_unknown(arguments))


def _print_commands(console: Console) -> None:
    console.print("python -m study COMMAND ...; python -m study COMMAND --help explains one command\n")
    width = max(map(len, COMMANDS))
    for name, command in COMMANDS.items():
        console.print(Text.assemble("  ", (f"{name:<{width}}", "bold"), f"  {command.summary}"))
    console.print("\nTo run a study: python study/run.py --help")


def _unknown(arguments: list[str]) -> str:
    given = shortened(plain(" ".join(word for word in arguments[:2] if not word.startswith("-"))), 100)
    beginning = [name for name in COMMANDS if name.startswith(given)]
    hint = suggestion(beginning) or did_you_mean(given, COMMANDS)
    return f"unknown command {given!r}: {hint}all commands: python -m study --help"
