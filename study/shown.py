"""Text from outside as it is shown to a person: short, and without characters that a terminal obeys."""

import re
import reprlib

# Characters of a value that are quoted in a message.
LONGEST_VALUE = 120
# Control characters but tab and newline; marks that turn the direction of writing; halves of characters.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class _Short(reprlib.Repr):
    """Python's way of writing a value, without its middle; it never looks at more than a few elements of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = self.maxlong = LONGEST_VALUE // 2

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out longer numbers, which take quadratic time.
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"a number of {x.bit_length()} bits"


def shown(value: object) -> str:
    """A value as Python writes it, in at most about LONGEST_VALUE characters."""
    return shortened(_Short().repr(value), LONGEST_VALUE)


def shortened(text: str, longest: int) -> str:
    """A text without its middle if it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 3]} … {text[len(text) - end :]}"


def plain(text: str) -> str:
    """A text with the characters that a terminal would obey written out, as \\x1b; newlines and tabs stay."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def short_key(key: str) -> str:
    """The first characters of a trial's key, by which a message names the trial."""
    return key[:8]
