"""Configurations: short forms, frozen, described, read from files, errors with their path."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch

import foldcore as fc
from foldcore.config import IterativeConfig

ONES = torch.ones(2, dtype=torch.float64)
PROBLEM = fc.QuadraticProgram(P=torch.eye(2).double(), q=fc.Param(2), lower=-ONES, upper=ONES)


@pytest.fixture
def importable() -> Any:
    module = types.ModuleType("planted_problems")
    module.box, module.number = PROBLEM, 3  # type: ignore[attr-defined]
    sys.modules["planted_problems"] = module
    yield "planted_problems"
    del sys.modules["planted_problems"]


def test_short_and_long_references_say_the_same() -> None:
    short = fc.FoldConfig(solver="osqp", rule={"kind": "pgd", "step_size": 0.5})
    long = fc.FoldConfig(
        solver={"kind": "osqp", "options": {}}, rule={"kind": "pgd", "options": {"step_size": 0.5}}
    )
    assert short == long
    assert fc.PluginReference.model_validate(len).instance is len


def test_references_with_functions_are_pickled() -> None:
    config = fc.FoldConfig(
        solver=lambda program: 1, rule={"kind": "pgd", "inner": {"solver": lambda program: 2}}
    )
    again = pickle.loads(pickle.dumps(config))
    assert again.solver.instance(None) == 1
    assert again.rule.options["inner"]["solver"](None) == 2
    assert again.solver.kind is None
    assert again.model_fields_set == config.model_fields_set


def test_configs_are_frozen_and_refuse_unknown_fields() -> None:
    for model in (fc.FoldConfig, fc.FixedPointConfig, fc.KKTConfig, fc.DegeneracyConfig):
        assert model.model_config["frozen"]
        assert model.model_config["extra"] == "forbid"
    with pytest.raises(pydantic.ValidationError):
        fc.FoldConfig().mode = "unfold"  # type: ignore[misc]


def test_every_field_is_described() -> None:
    models = (fc.FoldConfig, fc.FixedPointConfig, fc.KKTConfig, fc.DegeneracyConfig)
    for model in (*models, fc.PluginReference, IterativeConfig):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no problem": ({}, "problem: missing"),
    "problem of wrong type": ({"problem": 3}, "problem: got 3"),
    "unknown option": ({"solvr": "osqp"}, "solvr: unknown option. Did you mean 'solver'"),
    "nested unknown": ({"kkt": {"atoll": 1.0}}, "kkt.atoll: unknown option. Did you mean 'atol'"),
    "out of range": ({"kkt": {"atol": -1.0}}, "kkt.atol: .*greater than 0.*-1.0"),
    "no such policy": ({"on_failure": "mask it"}, "on_failure: .*'mask it'"),
    "mapping without kind": ({"rule": {"step_size": 1.0}}, "rule.*'kind'"),
    "unknown kind": ({"rule": "pdg"}, "'pdg' at rule"),
    "not a solver": ({"solver": 3}, "solver: got 3; expected a name"),
    "not a rule": ({"rule": len}, "rule: got .*UpdateRule"),
    "iterations without effect": ({"iterations": 3}, "iterations has no effect"),
    "relaxation of nothing": ({"relaxation": "fixed_integers"}, "relaxation: .* has no effect"),
    "no such relaxation": ({"relaxation": "round"}, "relaxation: .*'fixed_integers'.*'round'"),
    "plugin option": ({"rule": {"kind": "pgd", "step": 1.0}}, "rule.step: .*'step_size'"),
    "inner kind": (
        {"rule": {"kind": "pgd", "projection": "inner", "inner": {"solver": "osqpp"}}},
        "'osqpp' at rule.inner.solver",
    ),
    "inner option": (
        {"rule": {"kind": "pgd", "inner": {"kkt": {"atoll": 1.0}}}},
        "rule.inner.kkt.atoll: .*'atol'",
    ),
    "inner problem": (
        {"rule": {"kind": "pgd", "projection": "inner", "inner": {"problem": PROBLEM}}},
        "rule.inner.problem: the rule defines",
    ),
    "inner plugin option": (
        {"rule": {"kind": "pgd", "projection": "inner",
                  "inner": {"rule": "newton", "adjoint": {"kind": "direct", "rtoll": 1.0}}}},
        "rule.inner.adjoint.rtoll: .*'rtol'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_configurations_name_their_path(name: str) -> None:
    for plugin in ("pgd", "newton", "direct", "osqp"):
        pytest.importorskip(f"foldcore_{plugin}", reason=f"some paths lead to foldcore-{plugin}")
    config, message = WRONG[name]
    if "problem" not in config and name != "no problem":
        config = {"problem": PROBLEM, **config}
    with pytest.raises(fc.ConfigError, match=message):
        fc.build(config)


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml"])
def test_files_build_the_same_layer(suffix: str, tmp_path: Path, importable: str) -> None:
    pytest.importorskip("foldcore_pgd", reason="the file names foldcore-pgd")
    content = {
        "problem": f"{importable}:box", "solver": "iterate",
        "rule": {"kind": "pgd", "step_size": 0.25}, "kkt": {"atol": 1e-4},
    }  # fmt: skip
    file = tmp_path / f"layer.{suffix}"
    # JSON is YAML
    file.write_text(json.dumps(content))
    for given in (file, str(file), content, fc.FoldConfig.model_validate(content)):
        layer = fc.build(given)
        assert layer.config.kkt.atol == 1e-4
        assert layer.rule is not None
        assert layer.rule.config.step_size == 0.25  # type: ignore[attr-defined]
        assert torch.equal(layer(q=0 * ONES), 0 * ONES)


def test_broken_files_are_named(tmp_path: Path) -> None:
    for suffix in ("json", "yaml"):
        file = tmp_path / f"broken.{suffix}"
        file.write_text("{ a: [")
        with pytest.raises(fc.ConfigError, match=f"broken.{suffix}: not valid {suffix.upper()}"):
            fc.build(file)
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(fc.ConfigError, match="holds a list"):
        fc.build(tmp_path / "list.yaml")
    with pytest.raises(fc.ConfigError, match="no file"):
        fc.build(tmp_path / "absent.yaml")
    with pytest.raises(fc.ConfigError, match="configuration is a int"):
        fc.build(3)  # type: ignore[arg-type]


def test_problems_by_name(importable: str) -> None:
    for given, message in (
        (f"{importable}:absent", "cannot import"),
        (f"{importable}:number", "is a int"),
        ("no_such_module:x", "cannot import"),
        ("no colon", "expected a problem object"),
    ):
        with pytest.raises(fc.ConfigError, match=message):
            fc.build({"problem": given})


def test_inner_tolerances_default_to_a_hundredth() -> None:
    for plugin in ("pgd", "newton", "gmres", "osqp"):
        pytest.importorskip(f"foldcore_{plugin}", reason=f"nests foldcore-{plugin}")
    inner = {"solver": "osqp", "rule": "newton", "adjoint": {"kind": "gmres", "atol": 1e-7}}
    layer = fc.build(
        {"problem": PROBLEM, "solver": "osqp", "on_failure": "mask",
         "rule": {"kind": "pgd", "projection": "inner", "inner": inner}, "adjoint": "gmres",
         "kkt": {"atol": 1e-4}, "fixed_point": {"atol": 1e-5}}
    )  # fmt: skip
    nested = layer.inner["inner"]
    assert nested.config.kkt.atol == pytest.approx(1e-6)
    assert nested.config.fixed_point.atol == pytest.approx(1e-7)
    assert nested.config.on_failure == "mask"
    assert nested.adjoint.config.atol == 1e-7, "what the user set is kept"
    assert nested.adjoint.config.rtol == pytest.approx(layer.adjoint.config.rtol / 100)
    assert nested.path == "rule.inner"
    given = {**inner, "kkt": {"atol": 3e-3}}
    layer = fc.build({"problem": PROBLEM, "solver": "osqp",
                      "rule": {"kind": "pgd", "projection": "inner", "inner": given}})  # fmt: skip
    assert layer.inner["inner"].config.kkt.atol == 3e-3


def test_objects_and_classes_stand_for_names() -> None:
    pytest.importorskip("foldcore_pgd", reason="builds with foldcore-pgd")
    pytest.importorskip("foldcore_direct", reason="builds with foldcore-direct")
    from foldcore_direct import DirectAdjoint
    from foldcore_pgd import PGDConfig, PGDRule

    rule = PGDRule(PGDConfig(step_size=0.3))
    layer = fc.build(
        {"problem": PROBLEM, "solver": lambda p: -p.data.q, "rule": rule, "adjoint": DirectAdjoint}
    )
    assert layer.rule is rule
    assert isinstance(layer.adjoint, DirectAdjoint)
    assert isinstance(layer.solver, fc.CallableSolver)


def test_left_out_parts_are_chosen() -> None:
    for plugin in ("newton", "osqp", "direct"):
        pytest.importorskip(f"foldcore_{plugin}", reason=f"foldcore-{plugin} may be chosen")
    layer = fc.build({"problem": PROBLEM})
    assert layer.solver is not None
    assert layer.rule is not None
    assert layer.adjoint is not None
    q = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
    layer(q=q).sum().backward()
    torch.testing.assert_close(q.grad, torch.tensor([-1.0, 0.0], dtype=torch.float64))
