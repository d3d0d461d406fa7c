"""Look-ups by name, with a hint for misspelt names."""

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from trainables.errors import ConfigError

_Thing = TypeVar("_Thing")
# A wrong name may be a whole file.
_SHORT = reprlib.Repr()
_SHORT.maxstring = 100


def find(kind: str, name: str, table: Mapping[str, _Thing], error: type[Exception] = ConfigError) -> _Thing:
    """The thing of that name in a table.

    Args:
        kind: what the table lists, in the singular: 'architecture'.
        name: the name to look up.
        table: the things by their names.
        error: the type of exception for an unknown name.

    Raises:
        error: the name is unknown; the message suggests the most similar name and lists all.
    """
    if name not in table:
        hint = did_you_mean(name, table)
        raise error(f"{kind} {_SHORT.repr(name)} is unknown: {hint}the {kind}s are {', '.join(sorted(table))}")
    return table[name]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The most similar known word, as "did you mean 'mlp'? "; empty if none is similar."""
    return suggestion(difflib.get_close_matches(word, list(known), n=1))


def suggestion(names: Sequence[str]) -> str:
    """ "did you mean 'mlp' or 'convnet'? " for the names that were probably meant; empty for none."""
    return f"did you mean {' or '.join(map(repr, names))}? " if names else ""
