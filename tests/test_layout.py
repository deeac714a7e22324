"""What keeps the repository's parts apart, and what must not be forgotten when one is added."""

from __future__ import annotations

import ast
import configparser
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
PLUGIN_FILES = sorted(path for plugin in PLUGINS for path in plugin.glob("foldcore_*/**/*.py"))
PUBLIC_MODULES = {
    "foldcore", "foldcore.interfaces", "foldcore.solvers", "foldcore.rules", "foldcore.adjoints",
    "foldcore.numerics", "foldcore.kkt", "foldcore.atoms", "foldcore.testing",
}  # fmt: skip


def plugin_names() -> list[str]:
    """Return the short names of this repository's packages and of all known plugins."""
    known = json.loads((ROOT / "foldcore/registry/known_plugins.json").read_text())
    distributions = {package for group in known.values() for package in group.values()}
    distributions |= {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")}
    return sorted(name.removeprefix("foldcore-") for name in distributions)


def named_plugin_packages(source: str) -> list[str]:
    """Return the plugin packages that a source imports, or names even in a comment."""
    named = re.findall(rf"\bfoldcore[_-](?:{'|'.join(plugin_names())})\b", source)
    return named + [name for name in imported_modules(source) if name.startswith("foldcore_")]


def imported_modules(source: str) -> Iterator[str]:
    """Return the modules that a source imports absolutely, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def forbidden_imports(source: str, own_package: str) -> list[str]:
    """Return imports that a plugin must not have: the core's inside, other plugins."""
    return [
        module
        for module in imported_modules(source)
        if re.match(r"foldcore[._]", module)
        and module.split(".")[0] != own_package
        and module not in PUBLIC_MODULES
    ]


def pins(constraints: str) -> dict[str, str]:
    """Return the version of every package; of those that depend on Python, the last one."""
    lines = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    return dict(line.partition(";")[0].strip().split("==") for line in lines)


def test_core_names_no_plugin_package() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): named
        for path in sorted(ROOT.glob("foldcore/**/*.py"))
        if (named := named_plugin_packages(path.read_text()))
    }
    assert found == {}, "only foldcore/registry/known_plugins.json may name plugin packages"


@pytest.mark.parametrize(
    "planted",
    ["import foldcore_thirdparty", "x = 'foldcore_osqp'", "# pip install foldcore-gurobi"],
)
def test_a_planted_plugin_name_is_found(planted: str) -> None:
    assert named_plugin_packages(planted)
    assert not named_plugin_packages("def foldcore_solve_started(): pass  # foldcore.solvers")


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_plugin_imports_only_public_names_of_the_core(path: Path) -> None:
    package = path.relative_to(ROOT / "plugins").parts[1]
    assert forbidden_imports(path.read_text(), package) == []


def test_planted_forbidden_imports_are_found() -> None:
    source = """
import foldcore_qpth
import foldcore as fc
from foldcore import Solver
from foldcore_osqp.config import OSQPConfig
from . import config
def late():
    from foldcore.linalg import matvec
"""
    assert forbidden_imports(source, "foldcore_osqp") == ["foldcore_qpth", "foldcore.linalg"]


def test_test_folders_are_no_packages() -> None:
    """With an __init__.py, tests of equal names in two plugins would shadow each other."""
    groups = ("tests", "plugins/*/tests", "contrib/*/tests")
    assert [p for group in groups for p in ROOT.glob(f"{group}/**/__init__.py")] == []


def expanded(pattern: str) -> list[str]:
    """Return the names of one line of tox's env_list: a-{b, c} means a-b and a-c."""
    parts = re.split(r"\{(.+?)\}", pattern)
    choices = [re.split(r",\s*", part) if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def environments(env_list: str) -> list[str]:
    """Return all names of tox's env_list."""
    return [name for line in env_list.split("\n") if line for name in expanded(line.strip())]


def environments_of_the_packages() -> set[str]:
    """Return what the matrix must hold, by the entry points of all packages."""
    kinds: dict[str, set[str]] = {
        "solvers": {"iterate"},
        "update_rules": set(),
        "adjoint_solvers": set(),
    }
    needed = set()
    for path in [*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("contrib/*/pyproject.toml")]:
        offers = re.findall(
            r'^\[project\.entry-points\."foldcore\.(\w+)"\].*\n(\w+)', path.read_text(), re.M
        )
        if offers:
            (package,) = path.parent.glob("foldcore_*/__init__.py")
            needed.add(f"plugin-{package.parent.name.removeprefix('foldcore_')}")
        if path.is_relative_to(ROOT / "plugins"):
            for group, name in offers:
                kinds[group].add(name)
    rules = kinds["update_rules"]
    needed |= {f"pair-{rule}-{adjoint}" for rule in rules for adjoint in kinds["adjoint_solvers"]}
    return needed | {f"pair-{solver}-{rule}" for solver in kinds["solvers"] for rule in rules}


def mismatches(env_list: str) -> set[str]:
    """Return what the matrix lacks, and what it has beyond the packages."""
    listed = {name for name in environments(env_list) if name.startswith(("plugin-", "pair-"))}
    return listed ^ environments_of_the_packages()


def env_list() -> str:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    return tox["tox"]["env_list"]


def test_the_matrix_holds_every_plugin_and_every_pair() -> None:
    names = environments(env_list())
    assert mismatches(env_list()) == set(), "only in tox.ini, or only a package"
    assert len(names) == len(set(names)), "listed twice"
    rooms = {"core", "core-all", "oldest", "newest", "conformance", "all", "types", "lint", "docs"}
    assert rooms | {f"py3{minor}-core" for minor in (10, 11, 12, 13)} <= set(names)


@pytest.mark.parametrize(
    ("name", "planted", "missing"),
    [
        ("plugin-{osqp, ", "plugin-{", {"plugin-osqp"}),
        ("proximal, admm, fdpg}-{gmres", "admm, fdpg}-{gmres", None),
        ("plugin-{pgd, ", "plugin-{nobody, pgd, ", {"plugin-nobody"}),
    ],
)
def test_a_hole_in_the_matrix_is_found(name: str, planted: str, missing: set[str] | None) -> None:
    assert name in env_list()
    found = mismatches(env_list().replace(name, planted))
    expected = {f"pair-proximal-{a}" for a in ("gmres", "direct", "auto", "lfpi", "bicgstab", "cg")}
    assert found == (expected if missing is None else missing)


def test_constraints_differ_only_in_what_numpy_2_changes() -> None:
    one = pins((ROOT / "constraints.txt").read_text())
    two = pins((ROOT / "constraints-numpy2.txt").read_text())
    assert one["numpy"].startswith("1.")
    assert two["numpy"].startswith("2.")
    assert {name for name in two if one.get(name) != two[name]} == {"numpy"}
    assert one["torch"] == "2.13.0", "a range would fetch several GB of CUDA libraries"


def test_the_oldest_versions_are_the_declared_ones() -> None:
    """What ``tox -e oldest`` installs is what pyproject.toml promises to work with."""
    table = re.search(
        r"^dependencies = \[(.+?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    assert table is not None
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)', table[1]))
    assert bounds.keys() >= {"numpy", "scipy", "pydantic", "pluggy", "torch"}
    oldest = pins((ROOT / "constraints-oldest.txt").read_text())
    assert oldest.pop("torch") == pins((ROOT / "constraints.txt").read_text())["torch"]
    wrong = {
        name: (bound, oldest[name.lower()])
        for name, bound in bounds.items()
        if name != "torch" and not re.fullmatch(rf"{re.escape(bound)}(\.0)*", oldest[name.lower()])
    }
    assert wrong == {}, "constraints-oldest.txt tests other versions"


def test_the_newest_versions_are_no_older_than_those_of_development() -> None:
    newest = pins((ROOT / "constraints-newest.txt").read_text())
    numpy2 = pins((ROOT / "constraints-numpy2.txt").read_text())
    assert newest["torch"] == numpy2["torch"]
    for name in ("numpy", "scipy", "pydantic", "pluggy"):
        version, development = ([int(n) for n in v[name].split(".")] for v in (newest, numpy2))
        assert version >= development, name


def test_every_clause_of_the_contract_has_its_test() -> None:
    page = (ROOT / "docs/contract.md").read_text()
    clauses = re.findall(
        r"^## (\d+)\. .*?^`tests/test_contract\.py::(test_\w+)`$", page, re.M | re.S
    )
    assert [int(number) for number, _ in clauses] == list(range(1, 12))
    assert all(name.startswith(f"test_clause_{number}_") for number, name in clauses)
    tests = ROOT / "tests/test_contract.py"
    if not tests.exists():
        pytest.skip("tests/test_contract.py is not written yet")
    defined = set(re.findall(r"^def (test_\w+)", tests.read_text(), re.M))
    assert {name for _, name in clauses} <= defined


@pytest.mark.parametrize(
    ("module", "planted", "broken"),
    [
        ("errors.py", "", False),
        ("errors.py", "from . import solution\n", True),
        ("interfaces/solver.py", "from .rule import UpdateRule\n", True),
    ],
)
def test_import_layers_catch_a_planted_import(
    tmp_path: Path, module: str, planted: str, broken: bool
) -> None:
    pytest.importorskip("importlinter", reason="needs import-linter")
    shutil.copytree(ROOT / "foldcore", tmp_path / "foldcore")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "foldcore" / module).open("a") as file:
        file.write(f"\n{planted}")
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as main; main()",
    ]
    result = subprocess.run(
        [*command, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode != 0) == broken, result.stdout + result.stderr
