"""The protocol of a study: the settings that all its trials share."""

import json
from typing import Any

from study.spec import StudySpec
from trainables.config import PROTOCOL_VERSION


def protocol_of(spec: StudySpec, data_digest: str) -> dict[str, Any]:
    """The settings that all trials of a study share, by dotted name, with the data digest and the protocol version."""
    flat: dict[str, Any] = {}
    for name, value in spec.protocol.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    # The order of the objectives counts: they are the columns of the Optuna study.
    flat["objectives"] = [list(item) for item in spec.objectives.items()]
    return flat | {"data_digest": data_digest, "protocol_version": PROTOCOL_VERSION}


def differences(stored: str, spec: StudySpec, data_digest: str) -> list[str]:
    """'epochs: 60 then, 9 now' for each setting that differs from the stored protocol (JSON)."""
    before, now = json.loads(stored), protocol_of(spec, data_digest)
    return [
        f"{name}: {before.get(name)!r} then, {now.get(name)!r} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
