"""config_schema(): the JSON schema of a configuration, with the options of every usable plugin."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import (
    GenerateJsonSchema,
    JsonSchemaMode,
    JsonSchemaValue,
    models_json_schema,
)
from pydantic_core import core_schema

from ..config import FoldConfig, PluginConfig, PluginReference
from ..registry.registry import REGISTRIES

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCES = "#/$defs/{model}"
_MODE: Literal["validation"] = "validation"


class _FileSchema(GenerateJsonSchema):
    """Says so where a field holds a Python object, which a file cannot give."""

    def handle_invalid_for_json_schema(
        self, schema: core_schema.CoreSchema, error_info: str
    ) -> JsonSchemaValue:
        return {"description": "A Python object; it cannot be given in a file."}


def config_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a configuration file.

    Invariant: it describes what :func:`foldcore.build` reads here: each of ``solver``, ``rule`` and
    ``adjoint`` is the name of a usable plugin, or a mapping with its ``kind`` and options, at every
    depth of inner folds. Plugins that cannot be used are left out; all others are imported.
    (:func:`~foldcore.build` also reads ``{kind: ..., options: {...}}``, for options named ``kind``.)
    """
    plugins = {part: registry.usable_classes() for part, registry in REGISTRIES.items()}
    models: list[type[PluginConfig]] = list(
        dict.fromkeys(cls.config_class for found in plugins.values() for cls in found.values())
    )
    described: list[type[BaseModel]] = [FoldConfig, PluginReference, *models]
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, _MODE) for model in described]
    references, content = models_json_schema(
        modes,
        title="foldcore configuration",
        ref_template=_REFERENCES,
        schema_generator=_FileSchema,
    )
    definitions: dict[str, Any] = content["$defs"]
    named = {model: references[model, _MODE]["$ref"].rpartition("/")[2] for model in described}
    for part, found in plugins.items():
        definitions[part] = _choice(found, definitions, named)
        _point_to(definitions[named[FoldConfig]], part)
    problem = definitions[named[FoldConfig]]["properties"]["problem"]
    problem.update(type="string", pattern="^[^:]+:[^:]+$")
    for unused in {named[model] for model in described if model is not FoldConfig}:
        del definitions[unused]
    return {"$schema": _DIALECT, "title": content["title"], **references[FoldConfig, _MODE],
            "$defs": dict(sorted(definitions.items()))}  # fmt: skip


def _choice(
    found: dict[str, Any], definitions: dict[str, Any], named: dict[type[BaseModel], str]
) -> dict[str, Any]:
    """Return the schema of one reference: a name alone, or a mapping with ``kind`` and options."""
    mappings = []
    for name, plugin in found.items():
        options = definitions[named[plugin.config_class]]
        kind = {"const": name, "description": "The plugin's name."}
        mappings.append(
            {
                **options,
                "title": name,
                "properties": {"kind": kind, **options.get("properties", {})},
                "required": ["kind", *options.get("required", [])],
            }
        )
    return {"anyOf": [{"enum": sorted(found)}, *mappings]}


def _point_to(fold: dict[str, Any], part: str) -> None:
    entry = fold["properties"][part]
    fold["properties"][part] = {
        "anyOf": [{"$ref": f"#/$defs/{part}"}, {"type": "null"}],
        "default": None,
        "description": entry["description"],
    }
