"""The schema accepts what build() reads and refuses what it refuses, at every depth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from foldcore.building.schema import config_schema
from foldcore.config import FoldConfig
from foldcore.registry import REGISTRIES


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return config_schema()


def accepts(schema: Mapping[str, Any], config: object) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(config)


def test_it_is_a_schema_and_plain_json(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


def test_every_usable_plugin_is_there_with_all_its_options(schema: dict[str, Any]) -> None:
    for part, registry in REGISTRIES.items():
        names, *mappings = schema["$defs"][part]["anyOf"]
        found = registry.usable_classes()
        assert names["enum"] == sorted(found)
        options = {one["title"]: set(one["properties"]) - {"kind"} for one in mappings}
        assert options == {name: set(cls.config_class.model_fields) for name, cls in found.items()}


def test_every_field_of_the_core_is_described(schema: dict[str, Any]) -> None:
    fold = schema["$defs"]["FoldConfig"]["properties"]
    assert set(fold) == set(FoldConfig.model_fields)
    assert all(entry.get("description") for entry in fold.values())


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"problem": "package.module:name", "solver": "iterate", "on_failure": "mask"},
        {"solver": {"kind": "iterate", "max_iter": 5}, "kkt": {"atol": 1e-3}},
    ],
)
def test_right_configurations(schema: dict[str, Any], config: object) -> None:
    assert accepts(schema, config)


@pytest.mark.parametrize(
    "config",
    [
        {"solvr": "iterate"},
        {"solver": "iterat"},
        {"solver": {"max_iter": 5}},
        {"solver": {"kind": "iterate", "max_itr": 5}},
        {"solver": {"kind": "iterate", "max_iter": 0}},
        {"solver": {"kind": "iterate", "max_iter": "many"}},
        {"kkt": {"atol": -1}},
        {"mode": "fould"},
        {"problem": "no colon"},
    ],
)
def test_wrong_configurations(schema: dict[str, Any], config: object) -> None:
    assert not accepts(schema, config)


def test_inner_folds_are_folds_again(schema: dict[str, Any]) -> None:
    pytest.importorskip("foldcore_pgd", reason="needs foldcore-pgd")

    def nested(inner: object) -> object:
        return {"rule": {"kind": "pgd", "inner": inner}}

    assert accepts(schema, nested(nested({"solver": "iterate"})))
    assert not accepts(schema, nested(nested({"solver": "iterat"})))
