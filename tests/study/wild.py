"""Wild input for Hypothesis: values around the real fields of a study, YAML as bytes, command lines."""

import datetime
import json
from collections.abc import Callable
from importlib import resources
from typing import Any

from hypothesis import strategies as st

from study.commands.options import make_parser
from study.spec import StudySpec, named_studies
from study.spec.budget import BudgetConfig
from study.spec.explain import field_paths
from trainables.auxiliary import AUXILIARY_TASKS
from trainables.fields import FIELDS
from trainables.measures import MEASURES
from trainables.networks import ARCHITECTURES
from trainables.tasks import TASKS


def nested(depth: int) -> list[Any]:
    """Lists within lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


WORDS = [
    *TASKS,
    *ARCHITECTURES,
    *AUXILIARY_TASKS,
    *MEASURES,
    *["last", "all", "any", "1+2", "hidden1", "weight_std_hidden1", "block8+hidden1"],
    *["tpe", "nsga2", "random", "grid", "design", "maximize", "minimize", "rlct=minimize"],
    *["raw", "sign", "standardized", "mean", "sum", "separate", "widened", "sgd", "adam", "batch", "dataset", "once"],
    *[
        "each_epoch",
        "None",
        "true",
        "low",
        "high",
        "log",
        "baseline",
        "²",
        "١",
        "1e400",
        "-0",
        "0x_",
        "1:2",
        "2001-99-99",
    ],
    *["[", "{", "]", "}", "[1,2", "a=", "=a", "=1+1", "[red]", "[/]", "../x", "~nouser/x", "$x^$"],
    *["1:2", "2001-99-99", "\x1b[31m", "\x00", "\ud800", "\u202e"],
]
WHOLE_NUMBERS = [0, -1, 1, 2, 3, 8, 16, 64, 65, 1000, 1001, 65536, 65537, 10**6, 2**31, 2**63, 2**64, 10**9, 10**23]
FLOATS = [0.1, 0.5, 1.5, -0.0, 5e-324, 1.8e308, float("inf"), float("nan")]
NUMBERS = [*WHOLE_NUMBERS, 10**400, 10**4000, -(10**4000), *FLOATS]
texts = (
    st.sampled_from(WORDS)
    | st.text(st.characters(), max_size=8)
    | st.integers(1, 2).map(lambda kind: "x9"[kind - 1] * 5000)
)
numbers = st.sampled_from(NUMBERS) | st.integers(-2, 70) | st.floats()
scalars = st.none() | st.booleans() | numbers | texts
ODD: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"x",
    "date": lambda: datetime.date(2001, 1, 1),
    "tuple": lambda: (1, 2),
    "set": lambda: {1, 2},
    "range": lambda: range(5),
    "deep": lambda: nested(5000),
    "long": lambda: [0] * 10**5,
    "words": lambda: ["x"] * 2000,
}
odd = st.sampled_from(list(ODD)).map(lambda name: ODD[name]())
long_lists = st.builds(lambda low, count: list(range(low, low + count)), st.integers(-1, 2), st.integers(0, 1100))
ranges = st.fixed_dictionaries(
    {}, optional={"low": numbers, "high": numbers, "log": scalars, "baseline": scalars, "more": scalars}
)
values = st.recursive(
    scalars | odd | long_lists | ranges,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | scalars, inner, max_size=4),
    max_leaves=6,
)


def choice_of(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A value, or a list of different ones."""
    return one | st.lists(one, min_size=1, max_size=5, unique=True)


def range_of(low: int, high: int, *words: str) -> st.SearchStrategy[dict[str, Any]]:
    """A range that is mostly right."""
    numbers = {"low": st.integers(low, high), "high": st.integers(low, high).map(lambda n: n + 1)}
    return st.fixed_dictionaries(numbers, optional={word: st.booleans() for word in words})


# What a dimension is in a study that somebody means.
MEANT: dict[str, st.SearchStrategy[Any]] = {
    "hidden_layers": choice_of(st.integers(1, 5)) | range_of(1, 8, "log"),
    "width": choice_of(st.sampled_from([16, 32, 48, 64])) | range_of(1, 65535, "log") | long_lists,
    "aux_weight": choice_of(st.sampled_from([0, 0.1, 0.5, 1, 10])) | range_of(1, 50, "log", "baseline") | long_lists,
    "target_depth": choice_of(st.sampled_from([1, 2, "1+2", "hidden1", "last", "all", "block1"])) | st.just("any"),
    "control": choice_of(st.sampled_from(list(AUXILIARY_TASKS))),
    "detach_targets": choice_of(st.booleans()),
    "target_form": choice_of(st.sampled_from(["raw", "sign", "standardized"])),
    "unit_weighting": choice_of(st.sampled_from(["mean", "sum"])),
    "head": choice_of(st.sampled_from(["separate", "widened"])),
}
meant_dimensions = st.fixed_dictionaries({}, optional=MEANT)
dimensions = meant_dimensions | st.fixed_dictionaries(
    {}, optional={name: meant | values for name, meant in MEANT.items()} | {"wrong": values}
)
SECTIONS = ("training", "rlct", "observer", "budget")
sections = {
    name: st.fixed_dictionaries(
        {},
        optional={path.rpartition(".")[2]: values for path in field_paths(StudySpec) if path.startswith(f"{name}.")},
    )
    for name in SECTIONS
}
# Limits that somebody means, and nearly such.
AMOUNTS = [0.5, 1, 8, 1000.0]
ODD_AMOUNTS = [0, 1e7, 1e9, 1e10, -1, float("nan"), float("inf"), True, "8", "8h", None]
NODE_TYPES = ["default", "small", "c7i.4xlarge"]


def budgets_of(amounts: st.SearchStrategy[Any], prices: st.SearchStrategy[Any], **more: Any) -> st.SearchStrategy[Any]:
    """Budgets with some of the limits."""
    limits = {
        name: amounts for name in BudgetConfig.model_fields if name not in ("prices", "trials", "max_failed_trials")
    }
    counts = {name: st.integers(1, 9) | amounts for name in ("trials", "max_failed_trials")}
    return st.fixed_dictionaries({}, optional=limits | counts | {"prices": prices} | more)


budgets = budgets_of(
    st.sampled_from(AMOUNTS), st.dictionaries(st.sampled_from(NODE_TYPES), st.sampled_from([0, *AMOUNTS]))
)
budgets |= budgets_of(
    st.sampled_from([*AMOUNTS, *ODD_AMOUNTS]),
    st.dictionaries(
        st.sampled_from([*NODE_TYPES, "", "x" * 200, "[red]", "\x1b[31m"]) | texts | scalars,
        st.sampled_from([*AMOUNTS, *ODD_AMOUNTS]),
        max_size=4,
    )
    | values,
    wrong=values,
)


def _study_with(sampler: str, fields: dict[Any, Any]) -> dict[Any, Any]:
    if fields.get("task") == "imdb":
        fields = {"architecture": "transformer"} | fields
    enumerated = {"sampler": sampler, "trials": None if sampler in ("grid", "design") else 5}
    return {"name": "wild", "task": "digits"} | enumerated | fields


_FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    **{name: values for name in StudySpec.model_fields if name not in ("space", *sections)},
    "space": dimensions | values,
    "design": st.lists(dimensions | values, max_size=4) | values,
    "objectives": st.dictionaries(texts, texts | values, max_size=3) | values,
    **{name: section | values for name, section in sections.items()},
    "budget": budgets | sections["budget"] | values,
    "x" * 10**5: values,
    3: values,
}
fields_of_studies = st.fixed_dictionaries({}, optional=_FIELDS)
studies = st.builds(_study_with, st.sampled_from(["tpe", "nsga2", "random", "grid", "design"]), fields_of_studies)
# Studies with nothing wrong but, perhaps, their budget.
limited_studies = budgets.map(
    lambda budget: _study_with("grid", {"space": {"aux_weight": [0, 1], "target_depth": 1}, "budget": budget})
)
# Studies with nothing wrong but, perhaps, their space, design and objectives.
spacious_studies = st.builds(
    lambda sampler, task, space, design, objectives: _study_with(
        sampler,
        {"task": task, "space": space, "design": design, "objectives": objectives},
    ),
    st.sampled_from(["tpe", "grid", "design"]),
    st.sampled_from(list(TASKS)),
    meant_dimensions,
    st.lists(meant_dimensions, max_size=3) | st.just([]),
    st.just({"weight_std": "minimize"})
    | st.dictionaries(st.sampled_from([*MEASURES, "weight_std_hidden1"]), st.just("minimize"), max_size=3),
)

_NAMED = [(resources.files("study") / "studies" / f"{name}.yaml").read_bytes() for name in named_studies()]
_BOMB = b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(9)
)
_PIECES = [
    *[piece * 5000 for piece in (b"[", b"{", b"- ", b"? ", b"\n", b"9")],
    *[b"\x00", b"\xff\xfe", b"\x1b[31m", b"\xef\xbb\xbf", "é𝄞\u202e\u2028\x85".encode(), b"\t"],
    *[b"a: &a [*a]\n", b"*a", b"&a ", b"<<: ", _BOMB],
    *[b"!!int foo", b"!!python/object:os.system x", b"!!binary x", b"!!set {a}"],
    *[b"name: x\n", b"trials: 5\n", b"space: {width: {low: 1, high: 1000000000}}\n"],
    *b'0x_ 2001-99-99 1e400 .nan .inf 1:60:60 ? \' # = ~ "\\ud800" "'.split(),
    *[b"---\n", b"...\n", b"%YAML 1.1\n", b": ", b", ", b"|\n", b">\n"],
    b"space: {aux_weight: [" + b",".join(b"%d" % i for i in range(30000)) + b"]}\n",
]
_HARMLESS = [b"", b"", b"0", b"1", b"2", b" ", b"\n", b"# a remark\n"]
harmless = st.sampled_from(_HARMLESS)
# By number: Hypothesis writes out the elements of sampled_from.
pieces = st.sampled_from(range(len(_PIECES))).map(_PIECES.__getitem__) | st.binary(max_size=6) | harmless


@st.composite
def yaml_files(draw: st.DrawFn) -> bytes:
    """A named study with some of its bytes cut out and others put in; rarely something of 10 MB."""
    content = draw(st.sampled_from([*_NAMED, b""]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = start + draw(st.sampled_from([0, 0, 1, 2, 10, 100]))
        content = content[:start] + draw(pieces) + content[end:]
    return content * draw(st.sampled_from([1, 1, 1, 1, 1, 2, 10**7 // max(1, len(content))]))


_OPTIONS = [*(f"--{path}" for path in field_paths(StudySpec)), *(f"--space.{name}" for name in FIELDS)]
_OPTIONS += [option for action in make_parser()._actions for option in action.option_strings]
_OPTIONS += ["--help", "-h", "--help-all", "--", "--unknown", "--space.wrong", "--training.low", "-x", "--="]
_VALUES = [
    *WORDS,
    *named_studies(),
    *[
        "0,1",
        "[0, 1]",
        "0,,1",
        ",",
        '"',
        "'",
        '{"low": 1, "high": 9}',
        '{"low": 1, "low": 2}',
        "{}",
        '{"a": [',
        "a=b=c",
    ],
    *['[{"aux_weight": 0}]', "val_accuracy=maximize,rlct=minimize", "x" * 2000, "9" * 5000, "[" * 3000, '{"a":' * 3000],
    *["http://h:99999x", "http://[::1", "http://u:p@h:1/x?a=b", "ray://h:abc", "sqlite:///x", "local"],
    *["nowhere.yaml", "/", "/dev/null", "", " ", "-1", "1e999", "nan", "inf", ",".join(map(str, range(2000)))],
    *["5", "3", "1"],
]
# The operating system hands over no NUL.
option_values = (st.sampled_from(_VALUES) | st.text(st.characters(), max_size=6)).map(
    lambda text: text.replace("\x00", "")
)
# Options with values that somebody means.
_MEANT: dict[str, st.SearchStrategy[str]] = {
    **{f"--space.{name}": meant.map(json.dumps) for name, meant in MEANT.items()},
    "--space": meant_dimensions.map(json.dumps),
    "--design": st.lists(meant_dimensions, max_size=2).map(json.dumps),
    "--objectives": st.sampled_from(["rlct=minimize", "weight_std=minimize,rlct=minimize", '{"rlct": "minimize"}']),
    "--trials": st.sampled_from(["None", "5", "30"]),
    "--sampler": st.sampled_from(["grid", "design", "tpe"]),
    "--replicates": st.sampled_from(["1", "10", "1000"]),
    "--training.epochs": st.sampled_from(["1", "1e2", "3.0"]),
    "--training.nesterov": st.sampled_from(["false", "0", "no"]),
    "--training": st.sampled_from(['{"epochs": 3}', '{"epochs": 3, "epochs": 4}']),
    "--rlct.nbeta": st.sampled_from(["dataset", "30"]),
    "--budget": budgets.map(lambda budget: json.dumps(budget, default=str)),
    "--budget.trials": st.sampled_from(["5", "0", "5.0", "1e2", "none"]),
    "--budget.money": st.sampled_from(["3", "-1", "nan", "1e999"]),
    "--budget.prices": st.sampled_from(['{"default": 1}', "{default: 0.5}", "default=1", "{}", '{"a": -1}', "{a: b}"]),
    "--question": st.sampled_from(["[draft] Why?", "{why", "Is it = 3?"]),
    "--store": st.just("/tmp/nowhere"),
    "--runner": st.just("local"),
}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Real options and junk, with values that are meant and junk."""
    words: list[str] = draw(st.sampled_from([[], [], ["quickstart"], ["mnist"], ["controls"]]).map(list))
    if draw(st.integers(0, 9)) == 0:
        words.append(draw(option_values))
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.integers(0, 3)):
            option = draw(st.sampled_from(list(_MEANT)))
            words += [option, draw(_MEANT[option])]
            continue
        option = draw(st.sampled_from(_OPTIONS))
        form = draw(st.sampled_from(["apart", "apart", "apart", "equals", "alone", "value"]))
        value = draw(option_values)
        words += {"apart": [option, value], "equals": [f"{option}={value}"], "alone": [option], "value": [value]}[form]
    return words
