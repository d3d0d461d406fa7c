"""Foreign text on the terminal: short, without markup, without characters that a terminal obeys."""

import io
import re
from pathlib import Path

import pytest
from rich.table import Table

import study.commands
from study.commands.console import PlainConsole, run_command
from study.commands.main import main as command
from study.commands.run import main as run
from study.errors import StudyError
from study.shown import LONGEST_VALUE, plain, shortened, shown
from tests.study.wild import NUMBERS, ODD


@pytest.mark.parametrize(
    "value", [*NUMBERS, *(make() for make in ODD.values()), "x" * 10**6, {"a" * 10**6: ["b"] * 10**6}]
)
def test_any_value_is_shown_in_a_few_words(value: object) -> None:
    assert 0 < len(shown(value)) <= LONGEST_VALUE


def test_usual_values_are_shown_as_python_writes_them() -> None:
    for value in (1, -0.5, "wide", [1, "x"], {"high": 3, "low": 9}, None, True, "é[red]"):
        assert shown(value) == repr(value)
    assert shown(10**5000) == "a number of 16610 bits"


def test_a_shortened_text_keeps_both_ends() -> None:
    assert shortened("abc", 3) == "abc"
    short = shortened("a" * 50 + "b" * 50, 30)
    assert (len(short), short[0], short[-1]) == (30, "a", "b")


def test_plain_text_writes_out_what_a_terminal_obeys_and_nothing_else() -> None:
    assert plain("a\x1b[31m\r\x00\x9b\u202e\ud800") == r"a\x1b[31m\r\x00\x9b\u202e\ud800"
    assert plain("Är [red]\n\t× “q” 🙂\u200d") == "Är [red]\n\t× “q” 🙂\u200d"


def test_the_console_shows_brackets_and_colons_as_they_are_and_writes_out_escapes() -> None:
    screen = io.StringIO()
    console = PlainConsole(file=screen, width=100)
    table = Table("[bold]column", title="[/title]")
    table.add_row("[/red] :smile: \x1b[31m")
    console.print("[red]text[/blue] \x1b]0;title\x07", table)
    printed = screen.getvalue()
    for part in ("[red]text[/blue] \\x1b]0;title\\x07", "[bold]column", "[/title]", "[/red] :smile: \\x1b[31m"):
        assert part in printed
    assert "\x1b" not in printed


def test_no_output_of_a_command_is_written_as_markup() -> None:
    # The console does not know markup: it would be printed.
    tag = re.compile(r"\[/?(?:bold|dim|italic|red|green|yellow|blue|cyan|magenta|/)\b[^\]]*\]")
    files = list(Path(study.commands.__file__).parent.rglob("*.py"))
    assert len(files) > 10
    assert [file.name for file in files if tag.search(file.read_text())] == []


@pytest.mark.parametrize("main", [run, command])
def test_an_error_about_a_hostile_word_is_one_short_harmless_message(
    main: object, capfd: pytest.CaptureFixture[str]
) -> None:
    assert callable(main)
    for words in (["--\x1b[31m" + "x" * 10**5], ["\x1b[31m" + "x" * 10**5], ["layers", "\x1b[31m" + "x" * 10**5]):
        assert main(words) == 2
        printed = capfd.readouterr().err
        assert printed.startswith("error: ")
        assert "\x1b" not in printed
        assert len(printed) < 1000


def test_the_error_of_a_command_is_printed_plainly(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(console: object) -> int:
        raise StudyError("no \x1b[31m [red]")

    assert run_command(["python"], [], fail) == 2
    assert capfd.readouterr().err == "error: no \\x1b[31m [red]\n"
