"""A trial from the fields that are set for it; the others are from the recipe of its task."""

from collections.abc import Mapping
from typing import Any

from trainables.auxiliary import get_auxiliary_task
from trainables.config import NetworkConfig
from trainables.fields import FIELDS, TARGET, with_effect
from trainables.networks import get_architecture, layers_of
from trainables.targets import has_target, target_depths
from trainables.tasks import get_task
from trainables.trial import SECTIONS, TrialConfig


def recipe_values(task: str, architecture: str | None = None) -> dict[str, Any]:
    """Every field but `seeds`, by flat name, as the recipe of the task has it.

    A recipe's sizes and target belong to its architecture: another one has the defaults of all fields.

    Raises:
        ConfigError: the task or the architecture is unknown.
    """
    recipe = get_task(task).recipe
    network = recipe.network_with({} if architecture is None else {"architecture": get_architecture(architecture).name})
    of_sections = {"network": network, "training": recipe.training, "rlct": recipe.rlct}
    published = network.architecture == recipe.network.architecture
    values = {}
    for name, field in FIELDS.items():
        section = of_sections.get(field.section)
        values[name] = (
            field.info.get_default(call_default_factory=True) if section is None else getattr(section, field.key)
        )
    return values | {"task": task, TARGET: recipe.target_depth if published else "last"}


def network_of(values: Mapping[str, Any]) -> NetworkConfig:
    """The network of complete values; fields that make no difference to it have their defaults."""
    given = {field.key: values[field.name] for field in FIELDS.values() if field.role == "network"}
    network = NetworkConfig(**given)
    used = get_architecture(network.architecture).used(network)
    unused = [name for name in given if name != "architecture" and name not in used]
    if not unused:
        return network
    return NetworkConfig(**{name: value for name, value in given.items() if name not in unused})


def make_trial(values: Mapping[str, Any], seeds: tuple[int, ...]) -> TrialConfig | None:
    """The trial with these values of all fields, by flat name; None if its network does not have the target.

    Two choices that train the same networks make the same trial: a field without effect has its default, a control of
    strength 0 is the baseline, and a target is given by depths.

    Raises:
        ConfigError: the network does not exist.
        pydantic.ValidationError: a value is impossible, or contradicts another.
    """
    chosen = dict(values)
    auxiliary = get_auxiliary_task(chosen["control"])
    if auxiliary.strength is None:
        chosen["aux_weight"] = 0.0
    elif chosen["aux_weight"] == 0 and not auxiliary.may_be_baseline:
        chosen["control"] = FIELDS["control"].info.default
    effective = with_effect(chosen)
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS if name != "network"}
    for name, field in FIELDS.items():
        if field.section not in ("", "network") and name != TARGET and name in effective:
            sections[field.section][field.key] = chosen[name]
    network = network_of(chosen)
    layers = layers_of(network, get_task(chosen["task"]).shape.inputs)
    if TARGET in effective:
        if not has_target(chosen[TARGET], layers):
            return None
        sections["self_model"]["target_depths"] = target_depths(chosen[TARGET], layers)
    others = {name: chosen[name] for name, field in FIELDS.items() if not field.section}
    models = {name: SECTIONS[name](**given) for name, given in sections.items()}
    return TrialConfig(**others, **models, network=network, seeds=seeds)
