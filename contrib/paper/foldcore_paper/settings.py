"""Read an experiment's settings: one YAML file, whose ``quick`` and ``tiny`` sections override it."""

from __future__ import annotations

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
    source = f"{path or experiment.name + '.yaml'}"
    content = _load(experiment, path)
    sections = {name: content.pop(name.value, {}) for name in (Size.QUICK, Size.TINY)}
    values = {**content, **sections.get(size, {})}
    try:
        return experiment.settings_class.model_validate(values)
    except ValidationError as error:
        raise PaperError(f"{source}: {error}") from error


def _load(experiment: AnyExperiment, path: Path | None) -> dict[str, Any]:
    if path is not None and not path.is_file():
        raise PaperError(f"{path}: no such file. Give --config a YAML file of settings.")
    resource = path or files("foldcore_paper") / "configs" / f"{experiment.name}.yaml"
    content = yaml.safe_load(resource.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise PaperError(
            f"{resource}: expected a mapping of settings, found {type(content).__name__}."
        )
    return content
