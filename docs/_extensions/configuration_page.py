"""The configuration reference, from the pydantic models."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from foldcore import FoldConfig
from foldcore.config import DegeneracyConfig, FixedPointConfig, KKTConfig

INTRODUCTION = """\
# Configuration

`foldcore.build` reads a mapping, a `foldcore.FoldConfig`, or the path of a YAML or JSON file. Every model
is frozen and refuses unknown entries; an error names the entry's path, such as `rule.inner.solver`. A rule
that contains an optimisation takes a whole configuration again under the name of that inner problem, so
configurations nest.

`foldcore schema` prints the JSON schema of such a file with the options of every plugin that is installed:
point your editor at it to have names completed and checked.

`solver`, `rule` and `adjoint` take a name (`osqp`), a mapping with the plugin's options
(`{kind: osqp, rtol: 1.0e-9}`), an object, or, for the solver, any callable. Each plugin's options are on
[its page](plugins/index.md).
"""
SECTIONS = {
    "The layer": (FoldConfig, ""),
    "fixed_point": (FixedPointConfig, "fixed_point."),
    "kkt": (KKTConfig, "kkt."),
    "degeneracy": (DegeneracyConfig, "degeneracy."),
}
_NAMES = {
    "FoldConfig": "a configuration",
    "PluginReference": "a plugin",
    "FixedPointConfig": "entries below",
    "KKTConfig": "entries below",
    "DegeneracyConfig": "entries below",
    "Any": "any",
    "int": "integer",
    "float": "number",
    "str": "text",
    "bool": "true or false",
    "Mapping": "mapping",
}


def configuration_page() -> str:
    """Return the page as Markdown."""
    parts = [INTRODUCTION]
    for title, (model, prefix) in SECTIONS.items():
        heading = title if not prefix else f"`{title}`"
        summary = (model.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        parts.append(f"## {heading}\n\n{summary}\n\n{options_table(model, prefix)}")
    return "\n".join(parts)


def options_table(model: type[BaseModel], prefix: str = "") -> str:
    """Return one row per field of a model: name, type, default, meaning."""
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for name, info in model.model_fields.items():
        meaning = (info.description or "").replace("|", "\\|").replace("\n", " ")
        lines.append(f"| `{prefix}{name}` | {_type(info)} | {_default(info)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _type(info: FieldInfo) -> str:
    limits = [limit for one in info.metadata if (limit := _limit(one))]
    return ", ".join([_spelt(info.annotation), *limits])


def _spelt(annotation: Any) -> str:
    """Return a type as a reader of YAML thinks of it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "none"
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        limits = [limit for one in _constraints(arguments[1:]) if (limit := _limit(one))]
        return " ".join([_spelt(arguments[0]), *limits])
    if origin in (Union, UnionType):
        return " or ".join(_spelt(one) for one in arguments)
    if isinstance(origin, type):
        return f"{_NAMES.get(origin.__name__, origin.__name__)} of {_spelt(arguments[-1])}"
    name = getattr(annotation, "__name__", str(annotation))
    return _NAMES.get(name, name)


def _constraints(metadata: tuple[Any, ...]) -> list[Any]:
    return [inner for one in metadata for inner in getattr(one, "metadata", [one])]


def _limit(constraint: Any) -> str:
    for attribute, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
        if getattr(constraint, attribute, None) is not None:
            return f"{sign} {getattr(constraint, attribute)}"
    return ""


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None:
        return "" if "Config" in str(info.annotation) else "empty"
    if info.default is PydanticUndefined:
        return "required"
    return "none" if info.default is None else f"`{info.default}`"
