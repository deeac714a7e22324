"""Print the table of ranks in choosing.md, from the plugins that are installed: ``python docs/ranks.py``."""

from __future__ import annotations

from typing import Any

import torch

import foldcore as fc
from foldcore.registry import Registry, adjoint_solvers, solvers, update_rules
from foldcore.registry.discovery import known_packages


def examples() -> dict[str, fc.ParametricProblem]:
    """Return one problem for each column."""
    n = 3
    eye, indefinite = torch.eye(n), torch.diag(torch.tensor([1.0, -1.0, 1.0]))
    box = {"lower": torch.zeros(n), "upper": torch.ones(n)}
    general = {"G": torch.ones(2, n), "h": torch.ones(2), **box}
    ball = {
        "quadratic_P": eye[None], "quadratic_q": torch.zeros(1, n), "quadratic_r": torch.ones(1)
    }  # fmt: skip
    q = fc.Param(n)
    return {
        "LP": fc.QuadraticProgram(q=q, **general),
        "QP on a box": fc.QuadraticProgram(P=eye, q=q, **box),
        "QP": fc.QuadraticProgram(P=eye, q=q, **general),
        "nonconvex QP": fc.QuadraticProgram(P=indefinite, q=q, **box),
        "QCQP": fc.QuadraticProgram(P=eye, q=q, **ball),
        "NLP": fc.Problem(n, lambda x, q: (x.exp() * q).sum(), {"q": q}, lower=0.0),
        "QP + l1": fc.Problem(
            n, lambda x, q: ((x - q) ** 2).sum() / 2, {"q": q}, regularizers=[fc.L1(0.1)]
        ),
    }


def published(registry: Registry[Any]) -> list[tuple[str, Any]]:
    """Return the usable plugins of this repository, by name; a reader's own are not on the page."""
    known = {*known_packages(registry.group), "iterate"}
    return [item for item in sorted(registry.usable_classes().items()) if item[0] in known]


def table() -> str:
    """Return the table in Markdown; a dash where a plugin cannot serve, 0 where it must be named."""
    problems = examples()
    lines = [
        "| plugin | " + " | ".join(problems) + " |",
        "|---" * (len(problems) + 1) + "|",
    ]
    for name, solver_class in published(solvers):
        solver = solver_class(solver_class.config_class())
        cells = [
            "–"
            if solver.unsupported_reason(p.lowered_structure)
            else f"{solver_class.rank(p.lowered_structure):g}"
            for p in problems.values()
        ]
        lines.append(f"| solver `{name}` | " + " | ".join(cells) + " |")
    for name, rule_class in published(update_rules):
        rule = rule_class(rule_class.config_class())
        cells = [
            "–" if rule.unsupported_reason(p.structure) else f"{rule_class.rank(p.structure):g}"
            for p in problems.values()
        ]
        lines.append(f"| rule `{name}` | " + " | ".join(cells) + " |")
    for name, adjoint_class in published(adjoint_solvers):
        lines.append(
            f"| adjoint `{name}` | "
            + " | ".join([f"{adjoint_class.rank:g}"] * len(problems))
            + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
