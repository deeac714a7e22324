"""Read a configuration: from a mapping, a file or an object, with errors that name the entry."""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..config import FoldConfig
from ..errors import ConfigError
from ..problem.parametric import ParametricProblem


def parse_config(config: FoldConfig | Mapping[str, Any] | str | Path) -> FoldConfig:
    """Return the configuration that a mapping or a YAML or JSON file holds; errors as of :func:`build`."""
    if isinstance(config, FoldConfig):
        return config
    if isinstance(config, (str, Path)):
        return _parse_file(Path(config))
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"build: the configuration is a {type(config).__name__}; expected a mapping, a "
            f"FoldConfig or the path of a YAML or JSON file."
        )
    try:
        return FoldConfig.model_validate(dict(config))
    except ValidationError as error:
        raise ConfigError(_explain(error, "", FoldConfig)) from error


def _parse_file(file: Path) -> FoldConfig:
    if not file.is_file():
        raise ConfigError(f"build: no file {str(file)!r}; give the path of a YAML or JSON file.")
    text = file.read_text()
    if file.suffix == ".json":
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{file}: not valid JSON: {error}") from error
    else:
        import yaml  # stays out of `import foldcore`

        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{file}: holds a {type(content).__name__}; expected a mapping.")
    return parse_config(content)


def _problem(given: Any) -> ParametricProblem:
    if isinstance(given, ParametricProblem):
        return given
    if given is None:
        raise ConfigError("problem: missing. Give a problem object or 'package.module:attribute'.")
    if not isinstance(given, str) or given.count(":") != 1:
        raise ConfigError(
            f"problem: got {given!r}; expected a problem object or 'package.module:attribute'."
        )
    module_name, attribute = given.split(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"problem: cannot import {given!r}: {error}") from error
    if not isinstance(found, ParametricProblem):
        raise ConfigError(
            f"problem: {given!r} is a {type(found).__name__}; expected a Problem or QuadraticProgram."
        )
    return found


def _explain(error: ValidationError, path: str, model: type[Any]) -> str:
    """Say of the first wrong entry where it stands, what was given and what is possible."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    where = ".".join([part for part in [path, *location] if part])
    if first["type"] == "extra_forbidden":
        known = _known_fields(model, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"{where}: unknown option.{hint} Possible: {', '.join(known)}."
    return f"{where or 'configuration'}: {first['msg']}, got {first['input']!r}."


def _known_fields(model: type[Any], location: list[str]) -> list[str]:
    """Follow a location into nested models; the fields of the innermost one found."""
    for part in location:
        field = model.model_fields.get(part)
        nested = getattr(field.annotation, "__args__", (field.annotation,)) if field else ()
        for candidate in nested:
            if hasattr(candidate, "model_fields"):
                model = candidate
    return list(model.model_fields)
