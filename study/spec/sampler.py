"""The `sampler` of a study: its name and options. Nothing is imported here: study/search/samplers.py makes it."""

import json
import re
from typing import Any, Self

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from study.shown import shown
from trainables.config import Section
from trainables.registry import did_you_mean

# Samplers that choose trials, and those with which nothing is sampled: the trials are listed.
CHOOSING = ("tpe", "nsga2", "nsga3", "gp", "cmaes", "random", "qmc")
ENUMERATED = ("grid", "design")
LONGEST_NAME = 200
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_HUB = "optunahub:"
_HUB_PACKAGE = re.compile(r"optunahub:samplers/\w+", re.ASCII)


class SamplerConfig(Section):
    """How trials after the design points are chosen: a name, and the options of that sampler.

    A study file has `sampler: tpe`, or `sampler: {name: tpe, n_startup_trials: 20}`. The name is one of CHOOSING or
    ENUMERATED, the import path `package.module:Class` of a sampler class, or `optunahub:samplers/NAME`.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    name: str = Field(
        max_length=LONGEST_NAME,
        description="Name of the sampler, package.module:Class of one's own, or optunahub:samplers/NAME.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name_alone(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            return {"name": raw}
        if not isinstance(raw, dict | cls):
            raise ValueError("it must be a name, such as tpe, or a mapping, such as {name: tpe, n_startup_trials: 20}")
        return raw

    @field_validator("name")
    @classmethod
    def _known_or_importable(cls, name: str) -> str:
        if name in (*CHOOSING, *ENUMERATED) or _HUB_PACKAGE.fullmatch(name):
            return name
        if name.startswith(_HUB):
            raise ValueError("a sampler of OptunaHub is written optunahub:samplers/NAME")
        if ":" in name and not _IMPORT_PATH.fullmatch(name):
            raise ValueError("an own sampler is written package.module:Class")
        if ":" not in name:
            hint = did_you_mean(name, (*CHOOSING, *ENUMERATED))
            raise ValueError(
                f"no such sampler; {hint}the samplers are {', '.join((*CHOOSING, *ENUMERATED))}, package.module:Class "
                "for one's own, and optunahub:samplers/NAME"
            )
        return name

    @model_validator(mode="after")
    def _options_can_be_written(self) -> Self:
        if self.is_enumerated and self.options:
            raise ValueError(f"{self.name} chooses nothing and has no options; remove {', '.join(self.options)}")
        for name, value in self.options.items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError as error:
                raise ValueError(f"option {name} is {shown(value)}; its numbers must be finite") from error
        return self

    @property
    def options(self) -> dict[str, JsonValue]:
        """The options by name, as given; study/search/samplers.py checks them."""
        return self.__pydantic_extra__

    @property
    def is_enumerated(self) -> bool:
        """Whether all trials are listed and no sampler chooses any."""
        return self.name in ENUMERATED

    @property
    def hub_package(self) -> str | None:
        """The package of OptunaHub, `samplers/NAME`; None for any other sampler."""
        return self.name.removeprefix(_HUB) if self.name.startswith(_HUB) else None

    @property
    def import_path(self) -> tuple[str, str] | None:
        """Module and class of an own sampler; None for any other."""
        module, colon, name = self.name.partition(":")
        return (module, name) if colon and self.hub_package is None else None

    @model_serializer(mode="wrap")
    def _as_in_a_study_file(self, as_mapping: SerializerFunctionWrapHandler) -> Any:
        return as_mapping(self) if self.options else self.name

    def __str__(self) -> str:
        """The sampler in words: tpe, or tpe (n_startup_trials 20)."""
        options = ", ".join(f"{name} {json.dumps(value)}" for name, value in self.options.items())
        return f"{self.name} ({options})" if options else self.name
