"""Studies in files: the named ones that come with the project, and YAML files of the user."""

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from study.errors import StudyError
from study.shown import plain, shortened
from study.spec.explain import explain_errors
from study.spec.study import StudySpec
from study.spec.yaml_text import MOST_BYTES, read_yaml
from trainables.registry import did_you_mean

LONGEST_PATH = 200  # in a message


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
            with path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        except (OSError, ValueError) as error:
            # A path with a NUL is a ValueError.
            reason = error.strerror if isinstance(error, OSError) else error
            raise StudyError(f"study file {_in_words(name_or_file)} cannot be read: {reason}.") from error
        raw = _fields(content, _in_words(name_or_file))
        raw.setdefault("name", path.stem)
        return raw
    known = named_studies()
    if name_or_file not in known:
        hint = did_you_mean(name_or_file, known).capitalize()
        raise StudyError(
            f"study {_in_words(name_or_file)!r} is unknown. {hint}Named studies: {', '.join(known)}; or give a YAML "
            "file by its path."
        )
    content = (resources.files("study") / "studies" / f"{name_or_file}.yaml").read_bytes()
    return _fields(content, name_or_file)


def build_spec(raw: dict[str, Any], source: str) -> StudySpec:
    """Validate the fields of a study.

    Raises:
        StudyError: fields are wrong; the message names each, its value and what would be right.
    """
    try:
        return StudySpec.model_validate(raw)
    except ValidationError as error:
        lines = [f"the study {_in_words(source)!r} cannot be run:", *explain_errors(error, raw, StudySpec)]
        raise StudyError("\n  ".join(lines)) from error


def _fields(content: bytes, source: str) -> dict[str, Any]:
    raw = read_yaml(content, source)
    if not isinstance(raw, dict):
        raise StudyError(f"{source} must be a mapping of study fields, such as 'task: digits'")
    return raw


def _in_words(name_or_file: str) -> str:
    return shortened(plain(name_or_file), LONGEST_PATH)
