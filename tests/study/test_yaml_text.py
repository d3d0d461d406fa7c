"""Study files: what YAML is taken, and how the rest is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from study.errors import StudyError
from study.spec import build_spec, read_study
from study.spec.yaml_text import MOST_BYTES, MOST_VALUES, read_yaml, write_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nseed: 0x_", r"line 2: '0x_' is no number. Put quotes around it"),
        ("seed: !!int foo", r"line 1: the tag 'tag:yaml.org,2002:int' is not used in studies. Remove it"),
        ("a: !!python/object/apply:os.getcwd []", r"line 1: the tag .* is not used in studies"),
        ("seed: " + "9" * 5000, r"line 1: '999.*' is a number of 5000 digits; 40 are possible"),
        ("a: " + "[" * 50_000, r"line 1: lists and mappings lie more than 20 deep within each other"),
        ("- " * 50_000, r"line 1: lists and mappings lie more than 20 deep"),
        (BOMB, rf"line 5: there are more than {MOST_VALUES:,} values up to here"),
        (f"a: [{'1,' * MOST_VALUES}1]", rf"line 1: there are more than {MOST_VALUES:,} values"),
        ("a: &a [*a]", r"line 1: there is no &a before this alias, or it is inside it"),
        ("a: *b", r"line 1: there is no &b before this alias"),
        ("a: 1\nb: 2\na: 3", r"line 3: 'a' is given twice \(first in line 1\). Remove one"),
        ("space:\n  width: 1\n  width: 2", r"line 3: 'width' is given twice \(first in line 2\)"),
        ("{a: 1, a: 2}", r"line 1: 'a' is given twice. Remove one"),
        ("x: &x {a: 1}\nb: {<<: *x, a: 2, a: 3}", r"line 2: 'a' is given twice"),
        ("objectives: {on: maximize}", r"line 1: 'on' is no name of a field. Put quotes around it"),
        ("? [a]\n: 1", r"line 1: this is no name of a field"),
        ("a: [1, 2\n\n\n", r"line 1: not valid YAML: did not find expected ',' or '\]'"),
        ("a: b: c", r"line 1: not valid YAML: mapping values are not allowed"),
        ("a: 1\nb: \x00", r"line 2: the character U\+0000 is not allowed"),
        ("a: 1\nb: \x1b[31m", r"line 2: the character U\+001B is not allowed"),
        ("--- a\n--- b", r"line 2: not valid YAML: but found another document"),
        (b"a: 1\nb: \xff", r"it is not UTF-8 text"),
        (b"#" * (MOST_BYTES + 1), r"is larger than 256 kB, the most that a study may have"),
        (b"a: 1\n" * 2_000_000, r"is larger than 256 kB"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_no_study_is_one_short_error_with_the_line(text: str | bytes, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        read_yaml(text if isinstance(text, bytes) else text.encode(), "my.yaml")
    assert str(caught.value).startswith("my.yaml")
    assert len(str(caught.value)) < 350
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 2001-99-99", {"a": "2001-99-99"}),
        ("a: 2001-01-01 10:00:00", {"a": "2001-01-01 10:00:00"}),
        ("a: =", {"a": "="}),
        ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
        ("x: &x {a: 1, b: 1}\ny: {<<: *x, a: 2}", {"x": {"a": 1, "b": 1}, "y": {"a": 2, "b": 1}}),
        ("a: 1_000\nb: .5\nc: yes\nd: ~\ne: 'é'", {"a": 1000, "b": 0.5, "c": True, "d": None, "e": "é"}),
        ("[1e-5, -1E3, 1.5e2, +2.e+1, 1e-, e5, 1e5x]", [1e-5, -1000.0, 150.0, 20.0, "1e-", "e5", "1e5x"]),
        (b"\xef\xbb\xbfa: 1", {"a": 1}),
        ('{"a": {"low": 1, "high": 9}}', {"a": {"low": 1, "high": 9}}),
    ],
)
def test_plain_yaml_is_read_as_everywhere_and_dates_are_texts(text: str | bytes, value: Any) -> None:
    assert read_yaml(text, "my.yaml") == value


def test_a_text_with_the_most_values_is_read() -> None:
    text = f"a: [{','.join('1' * (MOST_VALUES - 3))}]"
    assert len(read_yaml(text.encode(), "my.yaml")["a"]) == MOST_VALUES - 3


def test_the_error_names_the_file_once_and_a_folder_or_missing_file_is_no_study(tmp_path: Path) -> None:
    for place, reason in ((tmp_path, "Is a directory"), (tmp_path / "none.yaml", "No such file"), ("a\0.yaml", "null")):
        with pytest.raises(StudyError, match=reason) as caught:
            read_study(f"{place}/" if place == tmp_path else str(place))
        assert len(str(caught.value).splitlines()) == 1


# Run in another process: these once ended it with a segmentation fault, or took minutes and gigabytes.
@pytest.mark.parametrize(
    "text",
    [
        "task: digits\nquestion: " + "[" * 100_000 + "]" * 100_000,
        BOMB,
        "task: digits\nsampler: grid\nspace: {aux_weight: [" + ",".join(map(str, range(200_000))) + "]}",
        "task: digits\ntrials: 5\nspace: {width: {low: 1, high: 100000000000000000000000}}",
        "task: digits\ntrials: 5\nspace: {hidden_layers: {low: 1, high: 1000000000}}",
    ],
    ids=["deep", "bomb", "long", "1e23", "1e9"],
)
def test_a_bomb_ends_in_one_short_message_and_exit_code_2(text: str, tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(text)
    run = "import sys; from study.commands.run import main; sys.exit(main(['bomb.yaml', '--plan']))"
    done = subprocess.run([sys.executable, "-c", run], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 500


def test_the_names_of_a_file_without_a_name_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: digits\ntrials: 5\n")
    assert build_spec(read_study(str(tmp_path / "mine.yaml")), "mine").name == "mine"


@given(
    text=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=20)
    | st.from_regex(r"[-+]?[0-9._:]{1,4}([eE][-+]?[0-9]{1,3})?", fullmatch=True),
    number=st.floats(allow_nan=False) | st.integers(-(10**30), 10**30),
)
@example("1e5", 1e-5)
@example("2026-11-25", 1e16)
@example("=", 0.0)
def test_what_is_written_is_read_as_the_same(text: str, number: float) -> None:
    value = {"name": text, "number": number, "list": [text, number]}
    assert read_yaml(write_yaml(value), "it") == value
