"""Read an experiment's settings: one YAML file, whose ``quick`` and ``tiny`` sections override it."""

from __future__ import annotations

import difflib
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from .errors import PaperError
from .experiment import AnyExperiment, Settings


class Size(str, Enum):
    """How much of an experiment is run.

    ``full`` is what the paper did, as far as 2 cores take it in hours; ``quick`` ends in minutes;
    ``tiny`` is what the tests check.
    """

    FULL = "full"
    QUICK = "quick"
    TINY = "tiny"


def read_settings(experiment: AnyExperiment, size: Size, path: Path | None = None) -> Settings:
    """Return the settings of a run.

    Args:
        experiment: The experiment.
        size: Which section is laid over the top level of the file.
        path: A YAML file of the user's; by default that of the package.

    Raises:
        PaperError: If the file is missing, is no YAML mapping, or holds an unknown or wrong setting.
    """
    source = str(path or f"{experiment.name}.yaml")
    content = _load(experiment, path)
    sections = {one: _section(content, one, source) for one in (Size.QUICK, Size.TINY)}
    try:
        return experiment.settings_class.model_validate({**content, **sections.get(size, {})})
    except ValidationError as error:
        raise PaperError(_explain(error, source, experiment.settings_class)) from error


def _load(experiment: AnyExperiment, path: Path | None) -> dict[str, Any]:
    if path is not None and not path.is_file():
        raise PaperError(f"{path}: no such file. Give --config a YAML file of settings.")
    resource = path or files("foldcore_paper") / "configs" / f"{experiment.name}.yaml"
    try:
        content = yaml.safe_load(resource.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        words = " ".join(str(error).split())
        raise PaperError(f"{resource}: not readable as YAML: {words}") from error
    if not isinstance(content, dict):
        raise PaperError(
            f"{resource}: expected a mapping of settings, found {type(content).__name__}."
        )
    return content


def _section(content: dict[str, Any], size: Size, source: str) -> dict[str, Any]:
    """Take a section out of the file's content."""
    section = content.pop(size.value, None)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise PaperError(
            f"{source}: {size.value}: expected a mapping of settings, found {type(section).__name__}."
        )
    return section


def _explain(error: ValidationError, source: str, model: type[Settings]) -> str:
    """Say of the first wrong setting, in one line, what was given and what is possible."""
    # A misspelt name is often also a missing one; its name tells more.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, model.model_fields, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return (
            f"{source}: unknown setting {where!r}.{hint} Possible: {', '.join(model.model_fields)}."
        )
    given = "" if first["type"] == "missing" else f", got {first['input']!r}"
    return f"{source}: {where}: {first['msg']}{given}."
