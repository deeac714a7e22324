"""Checks of adjoint solvers: (I - Φᵀ) v = g against a dense solve, and honest reports."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor

from ...interfaces.fixed_point_operator import ZeroOperator
from ...solution import AdjointSolution
from ..check import CheckList, Kind, require, require_close, require_equal
from ..operators import adjoint_residual, random_cotangent, reference_adjoint
from ..subjects.adjoint import ASKED, AdjointSubject
from ..subjects.settings import require_effects
from ..subjects.side_effects import Untouched

checks = CheckList(Kind.ADJOINT)

_FIELDS = ("adjoint", "residual", "iterations", "converged")


def _relative(given: Tensor, expected: Tensor) -> float:
    return float((given.double() - expected).norm() / expected.norm())


def _require_solved(
    subject: AdjointSubject, answer: AdjointSolution, expected: Tensor, what: str
) -> None:
    require(bool(answer.converged.all()), f"it did not converge on {what}.")
    error = _relative(answer.adjoint, expected)
    bound = 100 * subject.asked(ASKED)
    require(error <= bound, f"on {what} v is off by {error:.1e} relative to its size.")


@checks(clause=2)
def check_dense_solve(subject: AdjointSubject) -> None:
    """v agrees with a dense solve of (I - Φᵀ) v = g, one matrix per sample or one for all."""
    solver = subject.accurate()
    matrix, cotangent = subject.matrix(8, 20, 0.7), random_cotangent(8, 20)
    answer = subject.solve(solver, subject.operator(matrix), cotangent)
    family = "nonsymmetric" if subject.serves_nonsymmetric else "symmetric"
    expected = reference_adjoint(matrix, cotangent)
    _require_solved(subject, answer, expected, f"{family} systems of radius 0.7")
    shared = subject.operator(matrix[0], batch=8)
    answer = subject.solve(solver, shared, cotangent)
    expected = reference_adjoint(matrix[0], cotangent)
    _require_solved(subject, answer, expected, "one matrix shared by the batch")


@checks(clause=2)
def check_true_residual(subject: AdjointSubject) -> None:
    """The reported residual is that of the returned v, and decides what counts as converged."""
    variants: list[dict[str, float]] = [{}]
    if subject.has_field("max_iter"):
        variants = [{"max_iter": 40}, {"max_iter": 3}, {"max_iter": 1}]
    rtol = 1e-4
    for radius in (0.5, 0.95, 1.3):
        matrix, cotangent = subject.matrix(6, 25, radius), random_cotangent(6, 25)
        for variant in variants:
            solver = subject.plugin(**subject.tolerances(rtol), **variant)
            answer = subject.solve(solver, subject.operator(matrix), cotangent)
            true = adjoint_residual(matrix, answer.adjoint, cotangent)
            case = f"radius {radius}, {variant or 'its own limits'}"
            error = float(((answer.residual - true).abs() / (1e-6 * true + 1e-11)).max())
            require(error <= 1, f"the residual it reports is not that of its v ({case}).")
            if subject.has_field("rtol"):
                met = answer.residual <= rtol * cotangent.norm(dim=-1)
                require(
                    torch.equal(answer.converged, met),
                    f"converged is not residual <= rtol·‖g‖ ({case}).",
                )


@checks(clause=2)
def check_nonconvergence(subject: AdjointSubject) -> None:
    """A system without a solution is reported as not converged, its neighbours are served."""
    matrix, cotangent = subject.matrix(3, 8, 0.6), random_cotangent(3, 8)
    matrix[1, 0, :] = 0
    matrix[1, :, 0] = 0
    matrix[1, 0, 0] = 1  # component 0 reads 0·v = g
    cotangent[1, 0] = 1
    answer = subject.solve(subject.plugin(), subject.operator(matrix), cotangent)
    require(
        answer.converged.tolist() == [True, False, True],
        f"converged is {answer.converged.tolist()} where only the second system has no solution.",
    )
    require(bool(answer.adjoint.isfinite().all()), "v is not finite where there is no solution.")
    require(float(answer.residual[1]) >= 1 - 1e-9, "the residual it reports cannot be reached.")


@checks(clause=4)
def check_zero_cotangent(subject: AdjointSubject) -> None:
    """A cotangent of zero gives exactly zero without a product; so it does among others."""
    solver = subject.accurate()
    matrix, cotangent = subject.matrix(3, 6, 0.7), random_cotangent(3, 6)
    zero = torch.zeros_like(cotangent)
    operator = subject.operator(matrix)
    answer = subject.solve(solver, operator, zero)
    require_equal(answer.adjoint, zero, "v of a zero cotangent")
    require(operator.products == 0, "a zero cotangent needs no product, but it asked for some.")
    require(bool(answer.converged.all()), "a zero cotangent counts as not converged.")
    require(not bool(answer.residual.any()), "the residual of a zero cotangent is not 0.")
    cotangent[1] = 0
    answer = subject.solve(solver, subject.operator(matrix), cotangent)
    require_equal(answer.adjoint[1], zero[1], "v of a zero cotangent among others")
    expected = reference_adjoint(matrix, cotangent)
    _require_solved(subject, answer, expected, "a batch that holds a zero cotangent")


@checks(clause=4)
def check_zero_jacobian(subject: AdjointSubject) -> None:
    """Where Φ = 0, v is g, whether the operator says that it is zero or not."""
    cotangent = random_cotangent(3, 6)
    solver = subject.accurate()
    zeros = torch.zeros(3, 6, 6, dtype=torch.float64)
    for operator in (ZeroOperator(cotangent), subject.operator(zeros)):
        answer = subject.solve(solver, operator, cotangent)
        require_equal(answer.adjoint, cotangent, "v for Φ = 0")
        require(bool(answer.converged.all()), "Φ = 0 counts as not converged.")


@checks(clause=4)
def check_divergence(subject: AdjointSubject) -> None:
    """A spectral radius of 1 or more is solved or reported, and never becomes NaN."""
    cotangent = random_cotangent(2, 10)
    rotation = torch.eye(10, dtype=torch.float64).roll(1, 0)
    matrices = [subject.matrix(2, 10, radius, seed=3) for radius in (1.0, 2.0, 1e3)]
    if subject.serves_nonsymmetric:
        matrices.append(rotation.expand(2, 10, 10).clone())
    for matrix in matrices:
        solver = subject.plugin(**subject.tolerances(1e-6))
        answer = subject.solve(solver, subject.operator(matrix), cotangent)
        require(bool(answer.adjoint.isfinite().all()), "v is NaN or inf where ρ(Φ) >= 1.")
        require(not bool(answer.residual.isnan().any()), "the residual is NaN where ρ(Φ) >= 1.")
        true = adjoint_residual(matrix, answer.adjoint, cotangent)
        accurate = true <= 10 * subject.asked(1e-6) * cotangent.norm(dim=-1)
        false = answer.converged & ~accurate
        require(not bool(false.any()), "it claims convergence where it diverged (ρ(Φ) >= 1).")


@checks(clause=4)
def check_size_one(subject: AdjointSubject) -> None:
    """One variable and one sample work like any other number."""
    solver = subject.accurate()
    for batch, size in ((1, 1), (1, 7), (5, 1)):
        matrix, cotangent = subject.matrix(batch, size, 0.6), random_cotangent(batch, size)
        answer = subject.solve(solver, subject.operator(matrix), cotangent)
        expected = reference_adjoint(matrix, cotangent)
        _require_solved(subject, answer, expected, f"{batch} samples of {size} variables")


@checks(clause=4)
def check_scale(subject: AdjointSubject) -> None:
    """No cotangent is too small or too large: v scales with g."""
    matrix, cotangent = subject.matrix(3, 12, 0.7), random_cotangent(3, 12)
    expected = reference_adjoint(matrix, cotangent)
    for exponent in (-900, -30, 600):
        scale = 2.0**exponent
        answer = subject.solve(subject.accurate(), subject.operator(matrix), cotangent * scale)
        what = f"cotangents of size {scale:.0e}"
        scaled = AdjointSolution(
            answer.adjoint / scale, answer.residual, answer.iterations, answer.converged
        )
        _require_solved(subject, scaled, expected, what)


@checks(clause=3)
def check_batch(subject: AdjointSubject) -> None:
    """A batch gives each sample what it gets alone."""
    matrix = torch.cat([subject.matrix(2, 15, 0.5), subject.matrix(2, 15, 0.8, seed=3)])
    cotangent = random_cotangent(4, 15)
    solver = subject.accurate()
    together = subject.solve(solver, subject.operator(matrix), cotangent)
    for i in range(4):
        one = slice(i, i + 1)
        alone = subject.solve(solver, subject.operator(matrix[one]), cotangent[one])
        bound = 1e-11 if subject.has_field("rtol") else 1e-6
        what = f"v of sample {i} in a batch, against the sample alone,"
        require_close(together.adjoint[i], alone.adjoint[0], bound, what)


@checks(clause=3)
def check_neighbours(subject: AdjointSubject) -> None:
    """Hard, singular or non-finite neighbours change no bit of a sample."""
    matrix, cotangent = subject.matrix(3, 20, 0.5), random_cotangent(3, 20)
    solver = subject.accurate()
    expected = subject.solve(solver, subject.operator(matrix), cotangent)
    for neighbour in ("harder", "divergent", "singular", "not finite", "cotangent not finite"):
        changed, right = matrix.clone(), cotangent.clone()
        if neighbour == "harder":
            changed[1:] = subject.matrix(2, 20, 0.97, seed=7)
        elif neighbour == "divergent":
            changed[1:] = subject.matrix(2, 20, 4.0, seed=7)
        elif neighbour == "singular":
            changed[1:] = torch.eye(20, dtype=torch.float64)
        elif neighbour == "not finite":
            changed[1, 3, 4], changed[2] = torch.nan, torch.inf
        else:
            right[1, 0], right[2, 0] = torch.nan, torch.inf
        answer = subject.solve(solver, subject.operator(changed), right)
        for name in _FIELDS:
            what = f"{name} of a sample, with neighbours that are {neighbour},"
            require_equal(getattr(answer, name)[0], getattr(expected, name)[0], what)
        require(
            bool(answer.adjoint.isfinite().all()) and not bool(answer.residual.isnan().any()),
            f"v is not finite, or the residual NaN, for samples that are {neighbour}.",
        )
        if neighbour in ("singular", "not finite", "cotangent not finite"):
            require(
                not bool(answer.converged[1:].any()), f"a sample that is {neighbour} converged."
            )


@checks(clause=3)
def check_finite_products(subject: AdjointSubject) -> None:
    """It asks for no product with NaN or inf, which rules with inner solvers refuse."""
    for kind in ("singular", "divergent", "nan", "inf"):
        matrix, cotangent = subject.matrix(3, 6, 0.9, seed=3), random_cotangent(3, 6)
        if kind == "singular":
            matrix[1] = torch.eye(6, dtype=torch.float64)
        elif kind == "divergent":
            matrix[1] *= 1e3
        else:
            matrix[1, 2, 3] = float(kind)
        answer = subject.solve(subject.plugin(), subject.operator(matrix, strict=True), cotangent)
        good = answer.converged[[0, 2]]
        require(bool(good.all()), f"the neighbours of a {kind} sample did not converge.")


@checks(clause=6)
def check_dtype_and_device(subject: AdjointSubject) -> None:
    """float32 stays float32 and converges to its precision; float64 stays; the device is kept."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        for dtype in (torch.float64, torch.float32):
            matrix = subject.matrix(4, 12, 0.6, dtype=dtype).to(device)
            cotangent = random_cotangent(4, 12, dtype=dtype).to(device)
            answer = subject.solve(subject.accurate(), subject.operator(matrix), cotangent)
            for name in ("adjoint", "residual"):
                value = getattr(answer, name)
                require(value.dtype == dtype, f"{name} is {value.dtype} for {dtype}.")
                require(value.device == cotangent.device, f"{name} is on {value.device}.")
            require(bool(answer.converged.all()), f"it did not converge in {dtype}.")
            error = _relative(answer.adjoint, reference_adjoint(matrix, cotangent))
            bound = max(100 * subject.asked(ASKED), 1e3 * torch.finfo(dtype).eps)
            require(error <= bound, f"in {dtype} v is off by {error:.1e}.")


@checks(clause=9)
def check_inputs_untouched(subject: AdjointSubject) -> None:
    """It changes neither its inputs nor global state, and its result holds no graph."""
    matrix = subject.matrix(3, 8, 0.7)
    cotangent = random_cotangent(3, 8).requires_grad_()
    before = Untouched({"operator": matrix, "cotangent": cotangent})
    answer = subject.solve(subject.plugin(), subject.operator(matrix), cotangent)
    before.check()
    require(not answer.adjoint.requires_grad, "v carries a graph, which grows from call to call.")


@checks(clause=9)
def check_history(subject: AdjointSubject) -> None:
    """A result depends on no earlier call, and copies and pickles give the same one."""
    matrix, cotangent = subject.matrix(3, 8, 0.7), random_cotangent(3, 8)
    other, right = subject.matrix(5, 8, 0.9, seed=5), random_cotangent(5, 8, seed=6)
    solver = subject.plugin()
    first = subject.solve(solver, subject.operator(matrix), cotangent)
    kept = first.adjoint.clone()
    subject.solve(solver, subject.operator(other), right)
    require_equal(first.adjoint, kept, "an earlier result, after another solve,")
    twins = [solver, pickle.loads(pickle.dumps(solver)), copy.deepcopy(solver)]
    for twin, what in zip(twins, ("solver", "pickle of it", "copy of it"), strict=True):
        again = subject.solve(twin, subject.operator(matrix), cotangent)
        for name in _FIELDS:
            text = f"{name}, from the {what} after another solve,"
            require_equal(getattr(again, name), getattr(first, name), text)


@checks(clause=10)
def check_settings(subject: AdjointSubject) -> None:
    """Every option has an effect that can be observed."""
    require_effects(subject)
