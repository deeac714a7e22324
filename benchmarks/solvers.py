"""What each installed solver does with problems of each class, by running it.

Prints the table of docs/solvers.md: ``python benchmarks/solvers.py``. For every solver and class: the
largest scaled KKT residual over a batch of five; whether its multipliers have foldcore's signs; what
it says of an infeasible, an unbounded, a time-limited and an iteration-limited instance; warm start
and batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import foldcore as fc
from foldcore.building.defaults import solver_reason
from foldcore.fold.sessions import session_for
from foldcore.problem.fixed_integers import WHOLE_NUMBERS, FixedIntegers
from foldcore.program.lowering import Lowering
from foldcore.registry import solvers
from foldcore.registry.discovery import known_packages
from foldcore.testing.problems import declare, random_qp

B, N, EQUALITIES, INEQUALITIES = 5, 30, 5, 15
F64 = torch.float64
Instance = tuple[fc.ParametricProblem, Mapping[str, Tensor]]


def instances() -> dict[str, Instance]:
    """Return one problem with a batch of parameters for each class."""
    data = random_qp(0, N, EQUALITIES, INEQUALITIES, batch=B)
    one = {name: value if name == "q" else value[0] for name, value in data.items()}
    q = {"q": data["q"]}
    linear = {k: v for k, v in one.items() if k != "P"}
    indefinite = one["P"] - 0.6 * torch.eye(N, dtype=F64)
    ball = {
        "quadratic_P": 2 * torch.eye(N, dtype=F64)[None],
        "quadratic_q": torch.zeros(1, N, dtype=F64),
        "quadratic_r": torch.full((1,), 4.0, dtype=F64),
    }
    bounds = {name: one[name] for name in ("lower", "upper")}
    smooth = fc.Problem(
        N, lambda x, q: x.exp().sum() + q @ x, {"q": fc.Param(N)}, lower=-1.0, upper=1.0,
        inequality=lambda x: (x * x).sum().reshape(1) - 4.0,
    )  # fmt: skip
    differences = torch.diff(torch.eye(N, dtype=F64), dim=0)
    denoising = fc.Problem(
        N, lambda x, q: ((x + q) ** 2).sum() / 2, {"q": fc.Param(N)},
        regularizers=[fc.L1(0.3, differences)],
    )  # fmt: skip
    whole = fc.QuadraticProgram(
        q=fc.Param(N), G=one["G"].abs() + 0.1, h=torch.full((INEQUALITIES,), 3.3, dtype=F64),
        lower=0.0, upper=2.0, integer=range(0, N, 2),
    )  # fmt: skip
    return {
        "LP": (declare(linear, {"q"}), q),
        "QP": (declare(one, {"q"}), q),
        "QCQP": (fc.QuadraticProgram(P=one["P"], q=fc.Param(N), **ball, **bounds), q),
        "nonconvex QP": (fc.QuadraticProgram(P=indefinite, q=fc.Param(N), **bounds), q),
        "NLP": (smooth, q),
        "QP + l1": (denoising, q),
        "integer LP": (whole, {"q": -data["q"].abs() - 0.1}),
    }


def bad_instances() -> dict[str, Instance]:
    """Return an infeasible and an unbounded convex QP."""
    eye, one = torch.eye(N, dtype=F64), torch.ones(N, dtype=F64)
    rows = torch.stack([one, -one])
    crossed = fc.QuadraticProgram(
        P=eye, q=fc.Param(N), G=rows, h=torch.tensor([-1.0, -1.0], dtype=F64)
    )
    half = eye.clone()
    half[-1, -1] = 0.0
    falling = fc.QuadraticProgram(P=half, q=fc.Param(N), lower=-one)
    return {
        "infeasible": (crossed, {"q": one[None]}),
        "unbounded": (falling, {"q": -eye[-1:]}),
    }


def long_instances() -> list[Instance]:
    """Return problems of three classes that no solver finishes in an instant or in one iteration."""
    data = random_qp(0, 2 * N, 2 * EQUALITIES, 2 * INEQUALITIES)
    usual = instances()
    return [(declare(data, {"q"}), {"q": data["q"][None]}), usual["NLP"], usual["QP + l1"]]


def signs(solver: fc.Solver) -> str:
    """Return whether the multipliers of a QP with one active constraint of each kind are right."""
    unit = torch.eye(4, dtype=F64)
    inf = float("inf")
    problem = fc.QuadraticProgram(
        P=unit, q=fc.Param(4), A=unit[:1], b=torch.tensor([0.25], dtype=F64),
        G=unit[1:2], h=torch.tensor([0.25], dtype=F64),
        lower=torch.tensor([-inf, -inf, 0.25, -inf], dtype=F64),
        upper=torch.tensor([inf, inf, inf, 0.25], dtype=F64),
    )  # fmt: skip
    if solver_reason(solver, problem.structure) is not None:
        return "–"
    answer, _ = run(solver, (problem, {"q": torch.tensor([[-1.0, -1.0, 1.0, -1.0]], dtype=F64)}))
    if answer.duals is None:
        return "none"
    found = answer.duals
    values = [found.equality[0, 0], found.inequality[0, 0], found.lower[0, 2], found.upper[0, 3]]
    expected = torch.tensor([0.75, 0.75, 1.25, 0.75], dtype=F64)
    right = bool(((torch.stack(values).detach() - expected).abs() < 1e-4).all())
    return "foldcore's" if right else "WRONG"


def run(solver: fc.Solver, instance: Instance) -> tuple[fc.Solution, Lowering]:
    """Solve once, without the layer around it, so that nothing judges the answer but this script."""
    problem, values = instance
    batch = len(next(iter(values.values())))
    lowering = Lowering(problem.bind({**problem.constants, **values}, batch))
    owner = fc.WarmStarts()  # anything that lives as long as the session
    structure = problem.lowered_structure
    answer = session_for(owner, solver, structure).solve(
        lowering.original if solver.capabilities.regularizers else lowering.program,
        changed=frozenset(structure.template.varying),
    )
    return answer, lowering


def residual(solver: fc.Solver, instance: Instance) -> str:
    """Return the KKT residual reached, with * where the multipliers were recovered."""
    problem, values = instance
    if solver_reason(solver, problem.lowered_structure) is not None:
        return "–"
    answer, lowering = run(solver, instance)
    if answer.failed:
        return "/".join(sorted({answer.status[i].value for i in answer.failed}))
    x, duals = answer.primal.detach(), answer.duals
    integer = list(problem.structure.integer)
    if integer:  # of the problem in which they are fixed
        whole = {WHOLE_NUMBERS: x[:, integer].round()}
        fixed = FixedIntegers(problem).bind({**problem.constants, **values, **whole}, len(x))
        lowering, duals = Lowering(fixed), None
    if solver.capabilities.regularizers:
        duals = None
    report, _ = fc.kkt_report(lowering.program, lowering.complete(x), duals)
    return f"{float(report.residual.max()):.0e}{'' if duals is not None else '*'}"


def status(solver: fc.Solver, instance: Instance) -> str:
    """Return what the solver says of the first sample."""
    if solver_reason(solver, instance[0].lowered_structure) is not None:
        return "–"
    return run(solver, instance)[0].status[0].value


def limited(solver_class: type[fc.Solver], option: str, value: float) -> str:
    """Return what the solver says of a problem it does, under a limit that it cannot keep."""
    if option not in solver_class.config_class.model_fields:
        return "no such option"
    solver = solver_class(solver_class.config_class(**{option: value}))
    for instance in long_instances():
        found = status(solver, instance)
        if found != "–":
            return found
    return "–"


def columns() -> dict[str, Callable[[type[fc.Solver]], str]]:
    """Return the columns by their heading: what each says of a solver class."""

    def default(solver_class: type[fc.Solver]) -> fc.Solver:
        return solver_class(solver_class.config_class())

    found: dict[str, Callable[[type[fc.Solver]], str]] = {}
    for kind, good in instances().items():
        found[kind] = lambda cls, good=good: residual(default(cls), good)  # type: ignore[misc]
    found["signs"] = lambda cls: signs(default(cls))
    for kind, bad in bad_instances().items():
        found[kind] = lambda cls, bad=bad: status(default(cls), bad)  # type: ignore[misc]
    found["time-limited"] = lambda cls: limited(cls, "time_limit", 1e-9)
    found["iteration-limited"] = lambda cls: limited(cls, "max_iter", 1)
    found["warm start"] = lambda cls: "yes" if cls.capabilities.warm_start else "no"
    found["batch"] = lambda cls: "native" if cls.capabilities.native_batch else "loop"
    return found


def table() -> str:
    """Return the table in Markdown, for every published solver usable here that runs without a rule."""
    cells = columns()
    lines = ["| solver | " + " | ".join(cells) + " |", "|---" * (len(cells) + 1) + "|"]
    for name, solver_class in sorted(solvers.usable_classes().items()):
        published = name in known_packages(solvers.group)
        if published and not solver_class.capabilities.needs_rule:
            row = [cell(solver_class) for cell in cells.values()]
            lines.append(f"| `{name}` | " + " | ".join(row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(table())
