"""What each installed solver does with small problems of each class, by running it.

Prints the table of docs/solvers.md: ``python benchmarks/solvers.py``. For every solver and class: the
largest scaled KKT residual over a batch of five, with the solver's own multipliers where it gives
any (which proves their signs), and what it says of an infeasible, an unbounded and a limited instance.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

import foldcore as fc
from foldcore.registry import solvers
from foldcore.sessions import session_for
from foldcore.testing.problems import declare, random_qp

B, N = 5, 8


def instances() -> dict[str, tuple[fc.ParametricProblem, Mapping[str, Tensor]]]:
    """Return one problem with a batch of parameters for each class."""
    data = random_qp(0, N, 1, 3, batch=B)
    one = {name: value if name == "q" else value[0] for name, value in data.items()}
    q = {"q": data["q"]}
    linear = {k: v for k, v in one.items() if k != "P"}
    indefinite = one["P"] - 0.6 * torch.eye(N, dtype=torch.float64)
    ball = {
        "quadratic_P": 2 * torch.eye(N, dtype=torch.float64)[None],
        "quadratic_q": torch.zeros(1, N, dtype=torch.float64),
        "quadratic_r": torch.full((1,), 4.0, dtype=torch.float64),
    }
    bounds = {name: one[name] for name in ("lower", "upper")}
    smooth = fc.Problem(
        N, lambda x, q: x.exp().sum() + q @ x, {"q": fc.Param(N)}, lower=-1.0, upper=1.0
    )
    return {
        "LP": (declare(linear, {"q"}), q),
        "QP": (declare(one, {"q"}), q),
        "QCQP": (fc.QuadraticProgram(P=one["P"], q=fc.Param(N), **ball, **bounds), q),
        "nonconvex QP": (fc.QuadraticProgram(P=indefinite, q=fc.Param(N), **bounds), q),
        "NLP": (smooth, q),
    }


def bad_instances() -> dict[str, tuple[fc.QuadraticProgram, Mapping[str, Tensor]]]:
    """Return an infeasible and an unbounded problem, both convex QPs or LPs."""
    eye, one = torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    rows = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    crossed = fc.QuadraticProgram(
        P=eye, q=fc.Param(2), G=rows, h=torch.tensor([-1.0, -1.0], dtype=torch.float64)
    )
    half = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    falling = fc.QuadraticProgram(P=half, q=fc.Param(2), lower=-one)
    return {
        "infeasible": (crossed, {"q": torch.ones(1, 2, dtype=torch.float64)}),
        "unbounded": (falling, {"q": torch.tensor([[0.0, -1.0]], dtype=torch.float64)}),
    }


def run(
    solver: fc.Solver, problem: fc.ParametricProblem, values: Mapping[str, Tensor]
) -> tuple[fc.Solution, fc.SmoothProgram]:
    """Solve once, without the layer around it, so that nothing judges the answer but this script."""
    batch = len(next(iter(values.values())))
    program = problem.bind({**problem.constants, **values}, batch)
    owner = fc.WarmStarts()  # anything that lives as long as the session
    session = session_for(owner, solver, problem.structure)
    changed = frozenset(problem.structure.template.varying)
    return session.solve(program, changed=changed), program


def cell(solver: fc.Solver, problem: fc.ParametricProblem, values: Mapping[str, Tensor]) -> str:
    """Return the KKT residual reached, with * where the multipliers were recovered."""
    if solver.unsupported_reason(problem.structure) is not None:
        return "–"
    answer, program = run(solver, problem, values)
    if answer.failed:
        return "/".join(sorted({answer.status[i].value for i in answer.failed}))
    report, _ = fc.kkt_report(program, answer.primal.detach(), answer.duals)
    return f"{float(report.residual.max()):.0e}{'' if answer.duals is not None else '*'}"


def row(name: str, solver_class: type[fc.Solver]) -> str:
    """Return a line of the table."""
    solver = solver_class(solver_class.config_class())
    cells = [cell(solver, *instance) for instance in instances().values()]
    for problem, values in bad_instances().values():
        if solver.unsupported_reason(problem.structure) is not None:
            cells.append("–")
        else:
            cells.append(run(solver, problem, values)[0].status[0].value)
    cells.append(limited(solver_class))
    abilities = solver_class.capabilities
    cells += [
        "yes" if abilities.warm_start else "no",
        "native" if abilities.native_batch else "loop",
    ]
    return f"| `{name}` | " + " | ".join(cells) + " |"


def limited(solver_class: type[fc.Solver]) -> str:
    """Return what the solver says of a QP (else an NLP) after one iteration."""
    if "max_iter" not in solver_class.config_class.model_fields:
        return "–"
    solver = solver_class(solver_class.config_class(max_iter=1))
    for kind in ("QP", "NLP"):
        problem, values = instances()[kind]
        if solver.unsupported_reason(problem.structure) is None:
            return run(solver, problem, values)[0].status[0].value
    return "–"


def table() -> str:
    """Return the table in Markdown, for every usable solver that runs without an update rule."""
    heads = [*instances(), *bad_instances(), "one iteration", "warm start", "batch"]
    lines = ["| solver | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, solver_class in sorted(solvers.usable_classes().items()):
        if not solver_class.capabilities.needs_rule:
            lines.append(row(name, solver_class))
    return "\n".join(lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(table())
