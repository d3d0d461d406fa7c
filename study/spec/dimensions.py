"""The search space. A dimension is any field of a trial: a value, a list of choices, or a range.

Types, bounds and texts are those of the trial's own fields, so that a new field is added there alone. All sizes are
bounded, so that any study is checked, and a wrong one refused, in about a second.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    create_model,
    model_serializer,
    model_validator,
)

from study.shown import shown
from study.spec.ranges import Range, no_truth_value, range_of
from trainables.auxiliary import AUXILIARY_TASKS, get_auxiliary_task
from trainables.config import Section
from trainables.fields import FIELDS, PATHS, TARGET, TrialField
from trainables.networks import ARCHITECTURES, get_architecture
from trainables.targets import parse_target
from trainables.tasks import TASKS, get_task

# Values of a list.
MOST_CHOICES = 1000
MOST_TARGETS = 100
# Characters of the name of a known thing: a longer text is none.
LONGEST_WORD = 100
# Wrong names of a mapping that an error lists.
MOST_NAMED = 3
# As a target: one layer, whichever the search chooses, of whatever network it has chosen.
ANY = "any"
# Keys of a mapping that is a range.
KEYS_OF_RANGES = ("low", "high", "log", "step", "baseline")

Word = Annotated[str, Field(max_length=LONGEST_WORD)]
Dimension = list[Any] | Range[Any]

# The fields whose values are names of things, and how one is looked up.
_THINGS: dict[str, tuple[Mapping[str, Any], Callable[[str], Any]]] = {
    "task": (TASKS, get_task),
    "architecture": (ARCHITECTURES, get_architecture),
    "control": (AUXILIARY_TASKS, get_auxiliary_task),
}


def known_values(name: str) -> list[Any] | None:
    """All values of a field that has a fixed set of them; None for another one."""
    if name in _THINGS:
        return list(_THINGS[name][0])
    annotation = FIELDS[name].info.annotation
    if annotation is bool:
        return [True, False]
    words = get_args(annotation)
    return list(words) if words and all(isinstance(word, str) for word in words) else None


def all_values(dimension: Dimension) -> list[Any]:
    """The values of a dimension; of a range without steps, its ends."""
    if not isinstance(dimension, Range):
        return dimension
    listed = dimension.listed()
    return [dimension.low, dimension.high] if listed is None else listed


def numbers_in(values: Sequence[Any]) -> list[Any]:
    """The numbers among some values; yes and no are none."""
    return [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]


def value_type(name: str) -> Any:
    """The type of one value of a field."""
    if name in _THINGS:
        return Annotated[Word, AfterValidator(lambda given: _THINGS[name][1](given).name)]
    if name == TARGET:
        return Annotated[int | str, AfterValidator(_target_or_any)]
    info = FIELDS[name].info
    first = (BeforeValidator(no_truth_value),) if range_of(FIELDS[name]) else ()
    return Annotated[info.annotation, *info.metadata, *first] if (*info.metadata, *first) else info.annotation


def list_type(name: str) -> Any:
    """The type of a list of different values of a field."""
    longest = MOST_TARGETS if name == TARGET else MOST_CHOICES
    return Annotated[
        list[value_type(name)],  # type: ignore[misc]
        Field(min_length=1, max_length=longest),
        AfterValidator(_distinct),
    ]


def _may_be_none(name: Any) -> bool:
    return name in FIELDS and type(None) in get_args(FIELDS[name].info.annotation)


def _target_or_any(target: int | str) -> int | str:
    return ANY if target == ANY else parse_target(target)


def _distinct(choices: list[Any]) -> list[Any]:
    if len({(type(choice), choice) for choice in choices}) < len(choices):
        raise ValueError("the choices must differ")
    if ANY in choices:
        raise ValueError("'any' stands for every depth already; give it alone, not in a list")
    return choices


def _form(value: Any) -> str:
    """Which of a dimension's forms a value has."""
    if isinstance(value, Mapping):
        return "range" if any(key in KEYS_OF_RANGES for key in value) else "by_name"
    return _form_of_one(value)


def _form_of_one(value: Any) -> str:
    """Which of the forms a value has that stand for one architecture or task."""
    return "range" if isinstance(value, Mapping | Range) else "choices" if isinstance(value, list) else "value"


def _refuse_range(value: Any) -> Any:
    if isinstance(value, Mapping):
        _refuse_names(value)
    raise ValueError("its values are no numbers, so it has no range. Give a list")


def _refuse_names(value: Any) -> Any:
    if isinstance(value, Mapping) and any(_is_scope(key) for key in value):
        raise ValueError("values by architecture or task stand here already")
    return value


def _is_scope(name: Any) -> bool:
    return name in ARCHITECTURES or name in TASKS


def _check_scopes(value: Any, parts: Sequence[str]) -> Any:
    """Check that a mapping without any of a range's parts has values by architecture or task."""
    if not isinstance(value, Mapping) or (value and all(_is_scope(name) for name in value)):
        return value
    unknown = [str(name) for name in value if not _is_scope(name)][:MOST_NAMED]
    known = [*parts, *ARCHITECTURES, *TASKS]
    meant = [each for name in unknown for each in difflib.get_close_matches(name[:LONGEST_WORD], known, n=1)]
    hint = f". Did you mean {' and '.join(map(repr, meant))}?" if meant else ""
    of_range = f"the parts of a range ({', '.join(parts)}), or " if parts else ""
    wrong = f"there is no {' and '.join(map(shown, unknown))} here" if unknown else "it is empty"
    raise ValueError(f"{wrong}: a mapping has {of_range}values by architecture or task{hint}")


def _refuse_mapping(value: Any) -> Any:
    if isinstance(value, Mapping):
        raise ValueError("takes a value or a list of values, and no mapping")
    return value


def _value_or_list(name: str) -> Any:
    forms: Any = Annotated[value_type(name), Tag("value")] | Annotated[list_type(name), Tag("choices")]
    form = Discriminator(lambda value: "choices" if isinstance(value, list) else "value")
    return Annotated[forms, form, BeforeValidator(_refuse_mapping)]


def _dimension_type(field: TrialField) -> Any:
    """The type of a dimension: a value, a list, a range, or one of these for each architecture or task."""
    numbers = range_of(field)
    parts = [] if numbers is None else list(numbers.model_fields)
    of_numbers: Any = Annotated[numbers or Any, BeforeValidator(_refuse_names if numbers else _refuse_range)]
    simple: Any = (
        Annotated[value_type(field.name), Tag("value")]
        | Annotated[list_type(field.name), Tag("choices")]
        | Annotated[of_numbers, Tag("range")]
    )
    one: Any = Annotated[simple, Discriminator(_form_of_one)]
    by_name: Any = Annotated[dict[Word, one], BeforeValidator(lambda value: _check_scopes(value, parts))]
    return Annotated[simple | Annotated[by_name, Tag("by_name")], Discriminator(_form)]


class _Fields(Section):
    """Some fields of a trial; those that are left out do not count."""

    @model_validator(mode="before")
    @classmethod
    def _short_names(cls, raw: Any) -> Any:
        """Accept `training.learning_rate` for `learning_rate`."""
        if not isinstance(raw, Mapping):
            return raw
        short = {PATHS.get(name, name) if isinstance(name, str) else name: value for name, value in raw.items()}
        if len(short) < len(raw):
            twice = next(PATHS[name] for name in raw if name in PATHS and PATHS[name] != name and PATHS[name] in raw)
            raise ValueError(f"{twice} is given twice, under its short and its long name. Give it once")
        return short

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields that are given, in the order of FIELDS."""
        return tuple(name for name in FIELDS if name in self.model_fields_set)


class Space(_Fields):
    """The dimensions in which trials differ."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The value of a field, as it is given."""

    def dimension(self, name: str, *scopes: str) -> Dimension | None:
        """A dimension, a single value as a list of one; None if it is not given.

        Of values by architecture or task, those for the first of `scopes` that has some.
        """
        if name not in self.model_fields_set:
            return None
        given = getattr(self, name)
        if isinstance(given, dict):
            found = [given[scope] for scope in scopes if scope in given]
            if not found:
                return None
            given = found[0]
        return given if isinstance(given, list | Range) else [given]

    def by_name(self, name: str) -> dict[str, Any]:
        """The values of a dimension by architecture or task; empty if they are not given so."""
        given = getattr(self, name, None)
        return given if isinstance(given, dict) else {}


class Points(_Fields):
    """Points to run first: every combination of the given values."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, raw: Any) -> Any:
        """Leave out fields without a value: earlier versions wrote them into the record."""
        if not isinstance(raw, Mapping):
            return raw
        return {name: value for name, value in raw.items() if value is not None or _may_be_none(name)}

    def values(self, name: str) -> list[Any]:
        """The values of a field, as a list; empty if it is left out."""
        if name not in self.model_fields_set:
            return []
        given = getattr(self, name)
        return given if isinstance(given, list) else [given]

    @model_validator(mode="after")
    def _targets_are_definite(self) -> Self:
        if ANY in self.values(TARGET):
            raise ValueError(f"{TARGET}: 'any' is for the search; a design point names its target")
        return self


def _described(field: TrialField) -> str:
    text = field.info.description or ""
    return text.removesuffix(".") + ", or 'any' (the search chooses one layer)." if field.name == TARGET else text


# What a study names beside its space.
APART = ("task", "architecture")
if TYPE_CHECKING:
    Tasks = str | list[str]
    Architectures = str | list[str]
    SearchSpace = Space
    DesignPoints = Points
else:
    Tasks = _value_or_list("task")
    Architectures = _value_or_list("architecture")
    SearchSpace = create_model(
        "SearchSpace",
        __base__=Space,
        __doc__="The dimensions in which trials differ: a scalar is fixed, a list a choice, a mapping a range.",
        **{
            name: (_dimension_type(field), Field(None, description=_described(field)))
            for name, field in FIELDS.items()
            if name not in APART
        },
    )
    DesignPoints = create_model(
        "DesignPoints",
        __base__=Points,
        __doc__="Points to run first: every combination of the given values. Fields left out are fixed in the space.",
        **{
            name: (_value_or_list(name), Field(None, description=field.info.description))
            for name, field in FIELDS.items()
        },
    )
