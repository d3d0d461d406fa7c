"""YAML as studies are written in it: one mapping, small, each key once, without tags.

A text is measured before its values are made, because a few lines with aliases can stand for millions of values.
"""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from study.errors import StudyError
from study.shown import plain, shortened, shown

# Far above any study that a person writes; all texts within the limits are read in less than half a second.
MOST_BYTES = 256 * 1024
MOST_VALUES = 20_000  # aliases count as all that they stand for
MOST_LEVELS = 20
MOST_DIGITS = 40
_TEXT, _INT, _FLOAT, _TIME, _EQUALS, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "timestamp", "value", "merge")
)
# PyYAML's C parser, if it was built, is ten times as fast.
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(content: bytes | str, source: str) -> Any:
    """The value that a YAML text stands for.

    Args:
        content: the text: that of a file as bytes, that of an option as str.
        source: where it comes from, for messages.

    Raises:
        StudyError: it is no YAML, too large or ambiguous; the message has the line of a file.
    """
    text = _decode(content, source)
    try:
        _measure(text)
        return yaml.load(text, Loader=_StudyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # The mark of an end that is missing is behind the last line.
        line = min(mark.line, text.rstrip().count("\n")) + 1 if mark and isinstance(content, bytes) else None
        what = "" if isinstance(error, _LimitError) else "not valid YAML: "
        raise _refused(source, line, f"{what}{error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1 if isinstance(content, bytes) else None
        raise _refused(source, line, f"the character {_code(error.character)} is not allowed") from error


def write_yaml(value: Any) -> str:
    """A YAML text that `read_yaml` reads as this value."""
    text: str = yaml.dump(value, Dumper=_StudyDumper, sort_keys=False, allow_unicode=True)
    return text


class _LimitError(ConstructorError):
    """Valid YAML that is no study."""


class _StudyDumper(yaml.SafeDumper):
    """Puts quotes around texts that `_StudyLoader` would take for something else."""


class _StudyLoader(_PARSER):  # type: ignore[misc]
    """Makes plain values, and refuses what one reader could take for something else than another."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            raise _at(node, f"{shown(node.value)} is no number. Put quotes around it if it is a text") from error

    def construct_mapping(self, node: Node, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, MappingNode):
            seen: dict[str, int] = {}
            for key, _ in node.value:
                if not isinstance(key, ScalarNode) or key.tag not in (_TEXT, _MERGE):
                    what = shown(key.value) if isinstance(key, ScalarNode) else "this"
                    raise _at(key, f"{what} is no name of a field. Put quotes around it if it is one")
                line = key.start_mark.line + 1
                if key.value in seen:
                    first = f" (first in line {seen[key.value]})" if seen[key.value] != line else ""
                    raise _at(key, f"{shown(key.value)} is given twice{first}. Remove one")
                seen[key.value] = line
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made

    def construct_number(self, node: ScalarNode) -> Any:
        """An integer or a float."""
        if len(node.value) > MOST_DIGITS:
            raise _at(node, f"{shown(node.value)} is a number of {len(node.value)} digits; {MOST_DIGITS} are possible")
        return self.construct_yaml_int(node) if node.tag == _INT else self.construct_yaml_float(node)


_StudyLoader.add_constructor(_INT, _StudyLoader.construct_number)
_StudyLoader.add_constructor(_FLOAT, _StudyLoader.construct_number)
# 1e-5 is a number, as in JSON and YAML 1.2; PyYAML wants a point and a sign in it.
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z"), list("-+0123456789")
_StudyLoader.add_implicit_resolver(_FLOAT, *_NUMBER)
_StudyDumper.add_implicit_resolver(_FLOAT, *_NUMBER)
# A study has no dates, and = has no meaning: 2026-11-25 is a text.
_StudyLoader.add_constructor(_TIME, _StudyLoader.construct_yaml_str)
_StudyLoader.add_constructor(_EQUALS, _StudyLoader.construct_yaml_str)


def _decode(content: bytes | str, source: str) -> str:
    if len(content) > MOST_BYTES:
        raise StudyError(f"{source} is larger than {MOST_BYTES // 1024} kB, the most that a study may have.")
    try:
        if isinstance(content, str):
            content.encode()
            return content
        return content.decode("utf-8-sig")
    except UnicodeError as error:
        raise _refused(source, None, f"it is not UTF-8 text: {error}") from error


def _measure(text: str) -> None:
    """Check the limits, parsing without making values.

    Raises:
        yaml.MarkedYAMLError: one is exceeded.
    """
    anchored: dict[str, int] = {}  # what each anchor stands for, in values
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and number of values before it
    values = 0
    for event in yaml.parse(text, Loader=_PARSER):
        if isinstance(event, yaml.NodeEvent):
            values += 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchored:
                raise _at(
                    event, f"there is no &{shortened(str(event.anchor), 40)} before this alias, or it is inside it"
                )
            values += anchored[event.anchor]
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.tag not in (None, "!"):
                raise _at(event, f"the tag {shown(event.tag)} is not used in studies. Remove it")
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, values - 1))
                if len(open_nodes) > MOST_LEVELS:
                    raise _at(event, f"lists and mappings lie more than {MOST_LEVELS} deep within each other")
            elif event.anchor is not None:
                anchored[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                anchored[anchor] = values - before
        if values > MOST_VALUES:
            raise _at(event, f"there are more than {MOST_VALUES:,} values up to here, the most that a study may have")


def _at(place: Any, problem: str) -> _LimitError:
    """The error about a node or an event."""
    return _LimitError(None, None, problem, place.start_mark)


def _code(character: int | str | bytes) -> str:
    return f"U+{character if isinstance(character, int) else ord(character):04X}"


def _refused(source: str, line: int | None, problem: str) -> StudyError:
    where = f"{source}, line {line}" if line else source
    return StudyError(f"{where}: {shortened(plain(problem), 300)}.")
