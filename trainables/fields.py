"""The fields of a trial's configuration, each under one flat name, and which of them have an effect.

A field that is added to a section of TrialConfig is in this table, and with it in studies, on the command line, in the
record, the search and the analysis.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from trainables.auxiliary import get_auxiliary_task
from trainables.config import NetworkConfig, Section
from trainables.networks import get_architecture
from trainables.targets import parse_target
from trainables.trial import SECTIONS, TrialConfig, field_name

# What a field decides: the data, the network, what is trained beside the classification and how, and everything else.
Role = Literal["task", "network", "auxiliary", "weight", "target", "option", "setting"]
# The target is named before the network's layers are known: 'last', 'hidden2'. A configuration has its depths.
TARGET = "target_depth"
_TARGET_INFO = FieldInfo(
    annotation=Annotated[int | str, AfterValidator(parse_target)],
    default="last",
    description="Target layers: a depth from 1 or a layer's name, several together ('1+2'), 'last' or 'all'.",
)
_ROLES: dict[str, Role] = {"task": "task", "control": "auxiliary", "aux_weight": "weight", TARGET: "target"}
_ROLES_OF_SECTIONS: dict[str, Role] = {"network": "network", "self_model": "option"}


@dataclass(frozen=True)
class TrialField:
    """One field of a trial's configuration."""

    name: str  # flat, as in `TrialConfig.flat`
    path: str  # with its section, `training.learning_rate`
    info: FieldInfo  # type, bounds, default and description
    role: Role

    @cached_property
    def section(self) -> str:
        """Its section of TrialConfig; "" if it is in none."""
        return self.path.rpartition(".")[0]

    @cached_property
    def key(self) -> str:
        """Its name within the section."""
        return self.path.rpartition(".")[2]

    def value_in(self, config: TrialConfig) -> Any:
        """Its value in a configuration, which has a target by its depths."""
        key = "target_depths" if self.role == "target" else self.key
        return getattr(getattr(config, self.section) if self.section else config, key)


def _fields() -> Iterator[TrialField]:
    for section, info in TrialConfig.model_fields.items():
        if section == "seeds":
            continue  # They tell replicates apart, not trials.
        if section not in SECTIONS:
            yield TrialField(section, section, info, _ROLES.get(section, "setting"))
            continue
        for key, inner in SECTIONS[section].model_fields.items():
            if key == "target_depths":
                yield TrialField(TARGET, f"{section}.{TARGET}", _TARGET_INFO, "target")
                continue
            name = field_name(section, key)
            yield TrialField(
                name, f"{section}.{key}", inner, _ROLES.get(name, _ROLES_OF_SECTIONS.get(section, "setting"))
            )


FIELDS: dict[str, TrialField] = {field.name: field for field in _fields()}
_NAMES = {
    section: [(field.key, field.name) for field in FIELDS.values() if field.section == section and field.name != TARGET]
    for section in SECTIONS
}
PATHS: dict[str, str] = {field.path: field.name for field in FIELDS.values()}


def with_effect(values: Mapping[str, Any]) -> frozenset[str]:
    """Names of the fields that change a trial with these values; fields that are left out have their defaults.

    This is all that is known of fields that depend on others: no target without self-modeling, no `width` for a network
    without hidden layers.

    Raises:
        ConfigError: the architecture or the control is unknown.
    """
    auxiliary, weight = get_auxiliary_task(_value("control", values)), _value("aux_weight", values)
    targeted = auxiliary.needs_targets(weight)
    architecture = get_architecture(_value("architecture", values))
    used = {"architecture", *architecture.used(_section("network", NetworkConfig, values))}
    unused = {
        field_name(section, key)
        for section, model in SECTIONS.items()
        if section not in _ROLES_OF_SECTIONS and model.unused is not Section.unused
        for key in _section(section, model, values).unused
    }
    return frozenset(
        name
        for name, field in FIELDS.items()
        if (field.role == "network" and name in used)
        or (field.role == "weight" and auxiliary.strength is not None)
        or (field.role == "target" and targeted)
        or (field.role == "option" and targeted and name in auxiliary.options)
        or field.role in ("task", "auxiliary")
        or (field.role == "setting" and name not in unused)
    )


def _value(name: str, values: Mapping[str, Any]) -> Any:
    return values[name] if name in values else FIELDS[name].info.get_default()


def _section(section: str, model: type[Section], values: Mapping[str, Any]) -> Any:
    given = {key: values[name] for key, name in _NAMES[section] if name in values}
    return model.model_construct(**given)
