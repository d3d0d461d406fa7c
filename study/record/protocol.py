"""The protocol of a study: the settings that all its trials share, and the number of replicates, which can grow."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from study.spec import StudySpec
from trainables.config import PROTOCOL_VERSION

# Replicates can be added to trials, and dimensions to the space.
CHANGEABLE = {"replicates", "varied"}
# The digest of the data of a study's task; if it has several, that of each by its name.
DataDigest = str | Mapping[str, str]


def digest_of(data_digest: DataDigest, task: str) -> str:
    """The digest of the data of one task."""
    return data_digest if isinstance(data_digest, str) else data_digest[task]


def as_digest(stored: str) -> DataDigest:
    """The digest of a study's data from the tag of its run, where those of several tasks are JSON."""
    digests: dict[str, str] = json.loads(stored) if stored.startswith("{") else {}
    return digests or stored


def protocol_of(spec: StudySpec, data_digest: DataDigest) -> dict[str, Any]:
    """The settings that all trials of a study share, by dotted name, with the data digest and the protocol version.

    The number of replicates is among them for readers of the record, and so are the names of the settings that the
    space varies, which trials do not share; both may change. In a study of several tasks `task` is the list of them,
    and a setting in which they differ is a mapping by task.
    """
    of_tasks = {task: _protocol_of_task(spec, task, digest_of(data_digest, task)) for task in spec.tasks}
    first, *others = of_tasks.values()
    if not others:
        return first
    names = dict.fromkeys(name for of_task in of_tasks.values() for name in of_task)
    together = {name: {task: of_task.get(name) for task, of_task in of_tasks.items()} for name in names}
    same = {name for name in names if all(name in other and other[name] == first[name] for other in others)}
    return {name: first[name] if name in same else together[name] for name in names} | {"task": list(spec.tasks)}


def _protocol_of_task(spec: StudySpec, task: str, data_digest: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in spec.protocol(task).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    # The order of the objectives counts: they are the columns of the Optuna study.
    flat["objectives"] = [list(item) for item in spec.objectives.items()]
    flat |= {"replicates": spec.replicates, "varied": spec.varied_settings}
    return flat | {"data_digest": data_digest, "protocol_version": PROTOCOL_VERSION}


def versions(stored: str) -> tuple[int, int]:
    """The protocol version of the project that wrote a stored protocol (JSON), and that of this one."""
    return json.loads(stored)["protocol_version"], PROTOCOL_VERSION


def differences(stored: str, spec: StudySpec, data_digest: DataDigest) -> list[str]:
    """'epochs: 60 then, 9 now' for each setting that differs from the stored protocol (JSON).

    A setting that did not exist then had its default; one that the space varies, then or now, does not count. Tasks may
    be added.
    """
    before, now = json.loads(stored), protocol_of(spec, data_digest)
    tasks_before, tasks_now = _tasks(before), _tasks(now)
    if len(tasks_before) == len(tasks_now) == 1:
        return _differing(before, now)
    gone = [task for task in tasks_before if task not in tasks_now]
    if gone:
        return [f"task: {', '.join(tasks_before)} then, {', '.join(tasks_now)} now. Tasks can be added, not left out"]
    of_tasks = {task: _differing(_of_task(before, task), _of_task(now, task)) for task in tasks_before}
    lines = dict.fromkeys(line for of_task in of_tasks.values() for line in of_task)
    owners = {line: [task for task, of_task in of_tasks.items() if line in of_task] for line in lines}
    return [
        line if len(tasks) == len(tasks_before) > 1 else f"{', '.join(tasks)}: {line}" for line, tasks in owners.items()
    ]


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {then!r} then, {now[name]!r} now"
        for name in sorted(now.keys() - CHANGEABLE - set(before.get("varied", ())))
        if (then := before.get(name, _default(name))) != now[name]
    ]


def _tasks(protocol: Mapping[str, Any]) -> list[str]:
    task = protocol["task"]
    return list(task) if isinstance(task, list) else [task]


def _of_task(protocol: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The protocol as a study of this task alone has it."""
    of_task = {name: value[task] if isinstance(value, dict) else value for name, value in protocol.items()}
    return of_task | {"task": task}


def _default(name: str) -> Any:
    """The default of a setting with this dotted name; None for a name that is no field of a study."""
    model: Any = StudySpec
    for part in name.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields):
            return None
        field = model.model_fields[part]
        model = field.annotation
    return None if field.is_required() else to_jsonable_python(field.get_default(call_default_factory=True))
