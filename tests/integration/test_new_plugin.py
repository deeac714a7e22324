"""A new plugin, as its author meets it: made, installed by pip, tested, listed and used elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ("foldcore", "pyproject.toml", "README.md", "LICENSE")
USE = """
import json, torch, foldcore as fc
problem = fc.QuadraticProgram(
    P=torch.eye(3), q=fc.Param(3), A=torch.ones(1, 3), b=torch.ones(1), lower=torch.zeros(3)
)
layer = fc.build({"problem": problem, "solver": "brand-new", "rule": "newton", "adjoint": "gmres"})
q = torch.tensor([[0.0, 0.5, 3.0]], dtype=torch.float64, requires_grad=True)
x = layer(q=q)
x[:, 0].sum().backward()
print(json.dumps([type(layer.solver).__module__, x[0].tolist(), q.grad[0].tolist()]))
"""


def run(*command: object, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    environment.update(COLUMNS="200", OMP_NUM_THREADS="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copied(project: Path, names: tuple[str, ...], target: Path) -> Path:
    """Copy a project's sources, so that building it leaves nothing in the checkout."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    target.mkdir(parents=True)
    for name in names:
        if (project / name).is_dir():
            shutil.copytree(project / name, target / name, ignore=ignored)
        else:
            shutil.copy(project / name, target)
    return target


def test_from_nothing_to_a_layer_that_uses_it(tmp_path: Path) -> None:
    venv.create(tmp_path / "environment", with_pip=True)
    python = tmp_path / "environment" / "bin" / "python"
    work = tmp_path / "empty"
    work.mkdir()

    run(sys.executable, "-m", "foldcore", "new-plugin", "brand-new", cwd=work)
    made = work / "foldcore-brand-new"
    projects = [copied(ROOT, SOURCES, tmp_path / "sources" / "core")]
    for name in ("newton", "gmres"):
        folder = ROOT / "plugins" / f"foldcore-{name}"
        names = (f"foldcore_{name}", "pyproject.toml", "README.md")
        projects.append(copied(folder, names, tmp_path / "sources" / name))
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", *projects,
        "-e", f"{made}[test]", cwd=work)  # fmt: skip

    assert " passed" in run(python, "-m", "pytest", "-q", cwd=made)
    listed = json.loads(run(python, "-m", "foldcore", "plugins", "--json", cwd=work))
    (line,) = [one for one in listed if one["package"] == "foldcore-brand-new"]
    assert (line["kind"], line["name"], line["state"]) == ("solver", "brand-new", "usable")
    assert "checks of brand-new are in order" in run(
        python, "-m", "foldcore", "check", "brand-new", cwd=work
    )
    module, x, gradient = json.loads(run(python, "-c", USE, cwd=work))
    assert module == "foldcore_brand_new.solver"
    # The third entry is at its bound; the others share the budget: x = (0.75, 0.25, 0).
    assert x == pytest.approx([0.75, 0.25, 0.0])
    assert gradient == pytest.approx([-0.5, 0.5, 0.0])
