"""Studies in files: the named ones that come with the project, and YAML files of the user."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from study.errors import StudyError
from study.spec.explain import explain_errors
from study.spec.study import StudySpec
from trainables.registry import did_you_mean


def named_studies() -> list[str]:
    """Names of the studies that come with the project."""
    folder = resources.files("study") / "studies"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def read_study(name_or_file: str) -> dict[str, Any]:
    """The fields of a named study or of a YAML file, not yet validated.

    Raises:
        StudyError: the study or file does not exist, or is not a mapping in YAML.
    """
    if name_or_file.endswith((".yaml", ".yml")) or "/" in name_or_file:
        path = Path(name_or_file)
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"study file {path} cannot be read: {error}") from error
        raw = _parse_yaml(text, str(path))
        raw.setdefault("name", path.stem)
        return raw
    known = named_studies()
    if name_or_file not in known:
        hint = did_you_mean(name_or_file, known).capitalize()
        raise StudyError(
            f"study {name_or_file!r} is unknown. {hint}Named studies: {', '.join(known)}; or give a YAML file "
            "by its path."
        )
    text = (resources.files("study") / "studies" / f"{name_or_file}.yaml").read_text()
    return _parse_yaml(text, name_or_file)


def build_spec(raw: dict[str, Any], source: str) -> StudySpec:
    """Validate the fields of a study.

    Raises:
        StudyError: fields are wrong; the message names each, its value and what would be right.
    """
    try:
        return StudySpec.model_validate(raw)
    except ValidationError as error:
        lines = explain_errors(error, raw, StudySpec)
        raise StudyError(f"the study {source!r} cannot be run:\n" + "\n".join(f"  {line}" for line in lines)) from error


def _parse_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        # PyYAML's C parser, if it was built, is ten times as fast.
        raw = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise StudyError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise StudyError(f"{source} must be a mapping of study fields, such as 'task: digits'")
    return raw
