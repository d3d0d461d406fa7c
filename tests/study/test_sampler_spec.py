"""The sampler of a study file: its forms, and what is refused before anything is imported."""

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from study.spec.sampler import CHOOSING, ENUMERATED, SamplerConfig

IMPORTABLE = ("my_samplers:Lucky", "lab.search.samplers:Lucky2", "optunahub:samplers/auto_sampler")
OPTIONS = st.dictionaries(
    st.from_regex(r"[a-z_]{1,12}", fullmatch=True).filter(lambda name: name != "name"),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


class Study(BaseModel):
    """A model with a sampler, as a study file is one."""

    sampler: SamplerConfig = SamplerConfig(name="tpe")


def refusal(raw: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Study.model_validate({"sampler": raw})
    (error,) = caught.value.errors()
    return error["msg"]


@pytest.mark.parametrize("name", [*CHOOSING, *ENUMERATED, *IMPORTABLE])
def test_a_name_alone_is_the_mapping_without_options(name: str) -> None:
    alone, mapping = (Study.model_validate({"sampler": raw}) for raw in (name, {"name": name}))
    assert alone == mapping
    assert alone.sampler.name == name
    assert alone.sampler.options == {}
    assert alone.model_dump(mode="json") == {"sampler": name}


@given(name=st.sampled_from([*CHOOSING, *IMPORTABLE]), options=OPTIONS)
def test_a_sampler_is_the_same_after_a_file_and_after_a_command_line(name: str, options: dict[str, Any]) -> None:
    sampler = SamplerConfig.model_validate({"name": name} | options)
    assert sampler.options == options
    written = Study(sampler=sampler).model_dump(mode="json")
    assert Study.model_validate(yaml.safe_load(yaml.safe_dump(written))).sampler == sampler
    assert Study.model_validate_json(Study(sampler=sampler).model_dump_json()).sampler == sampler


def test_a_sampler_in_words() -> None:
    assert str(SamplerConfig(name="gp")) == "gp"
    assert str(SamplerConfig.model_validate({"name": "tpe", "group": True, "n_startup_trials": 20})) == (
        "tpe (group true, n_startup_trials 20)"
    )


def test_only_grid_and_design_are_enumerated() -> None:
    assert [name for name in (*CHOOSING, *ENUMERATED, *IMPORTABLE) if SamplerConfig(name=name).is_enumerated] == [
        "grid",
        "design",
    ]


def test_the_parts_of_a_name() -> None:
    own, hub, known = (SamplerConfig(name=name) for name in ("a.b:C", "optunahub:samplers/hebo", "tpe"))
    assert (own.import_path, own.hub_package) == (("a.b", "C"), None)
    assert (hub.import_path, hub.hub_package) == (None, "samplers/hebo")
    assert (known.import_path, known.hub_package) == (None, None)


def test_nothing_is_imported_for_a_name() -> None:
    assert SamplerConfig(name="no_such_module_anywhere:Sampler").import_path == ("no_such_module_anywhere", "Sampler")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("tpee", r"no such sampler; did you mean 'tpe'\? the samplers are tpe, nsga2, .*qmc, grid, design, package"),
        ("nsga", "did you mean 'nsga3'"),
        ("my_samplers.Lucky", "package.module:Class for one's own"),
        ("my samplers:Lucky", "an own sampler is written package.module:Class"),
        ("my_samplers:", "an own sampler is written package.module:Class"),
        ("optunahub:hebo", "written optunahub:samplers/NAME"),
        ("optunahub:samplers/../x", "written optunahub:samplers/NAME"),
        ({"name": "grid", "n_startup_trials": 5}, "grid chooses nothing and has no options; remove n_startup_trials"),
        ({"name": "tpe", "prior_weight": float("inf")}, "option prior_weight is inf; its numbers must be finite"),
        ({"name": "tpe", "gamma": len}, "not a valid JSON value"),
        ({"n_startup_trials": 5}, "Field required"),
        (["tpe"], r"it must be a name, such as tpe, or a mapping, such as \{name: tpe"),
        (3, "it must be a name"),
        (None, "it must be a name"),
        ("", "no such sampler"),
    ],
)
def test_what_is_no_sampler_is_refused_in_words(raw: Any, message: str) -> None:
    assert re.search(message, refusal(raw))
