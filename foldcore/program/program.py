"""SmoothProgram: a problem with its parameters bound, as rules, certificates and solvers see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..numerics.products import concatenate, matvec, rmatvec, to_dense
from ..numerics.sparse import Matrix, SparseMatrix
from ..quadratic.data import SAMPLE_DIMS, QuadraticData
from ..solution import Duals
from .functions import BatchedFunction

if TYPE_CHECKING:
    from ..atoms import Regularizer, SetAtom
    from .structure import ProgramStructure


_ROLES = ("objective", "equality", "inequality")


class SmoothProgram:
    """minimise f(x)  s.t.  h(x) = 0,  g(x) <= 0,  lower <= x <= upper, for B samples.

    Everything quadratic is in ``data``; what is not is in the three functions. Rows of
    ``equality`` are [Ax - b; function rows], rows of ``inequality`` are
    [Gx - h; quadratic rows; function rows]. All tensors may carry gradients of the parameters.

    Attributes:
        n: Number of variables.
        batch: B.
        n_quadratic: Number of quadratic rows.
        n_equality, n_inequality: p and m, the rows of ``equality`` and ``inequality``.
        lower, upper: Bounds, (n,) or (B, n), ±inf where absent; None if there are none.
        quadratic: ``data`` if they are the whole problem, else None.
        structure: What is known of the problem without values.
        data: The quadratic parts; P and q are None where the objective is a function.
        params: The bound parameter values by name, for solvers that know the problem.
        batched: Names of the params that have a leading batch dimension.
        sets: The constraint atoms, bound; their rows are part of ``data`` already.
        regularizers: Nonsmooth terms of the objective, bound; not part of ``objective``.
        function_rows: Numbers of equality and inequality rows that functions contribute.
        functions: The parts that are not quadratic data, by role: objective, equality, inequality.
    """

    def __init__(
        self,
        data: QuadraticData,
        *,
        batch: int,
        structure: ProgramStructure,
        params: Mapping[str, Tensor],
        batched: frozenset[str] = frozenset(),
        objective: BatchedFunction | None = None,
        equality: BatchedFunction | None = None,
        inequality: BatchedFunction | None = None,
        function_rows: tuple[int, int] = (0, 0),
        sets: tuple[SetAtom, ...] = (),
        regularizers: tuple[Regularizer, ...] = (),
        asserted: Mapping[str, tuple[BatchedFunction, Sequence[int]]] | None = None,
    ) -> None:
        self.data = data
        self.batch = batch
        self.structure = structure
        self.params = params
        self.batched = batched
        self.sets = sets
        self.regularizers = regularizers
        self._objective = objective
        self._equality = equality
        self._inequality = inequality
        self.function_rows = function_rows
        self._asserted = dict(asserted or {})
        # Plain attributes, for a call reads them dozens of times.
        self.n = data.n
        self.lower, self.upper = data.lower, data.upper
        equalities = 0 if data.A is None else data.A.shape[-2]
        linear = 0 if data.G is None else data.G.shape[-2]
        self.n_quadratic = 0 if data.quadratic_r is None else data.quadratic_r.shape[-1]
        self.n_equality = equalities + function_rows[0]
        self.n_inequality = linear + self.n_quadratic + function_rows[1]
        self.functions: dict[str, BatchedFunction] = {}
        for role, function in zip(_ROLES, (objective, equality, inequality), strict=True):
            if function is not None:
                self.functions[role] = function
        self.quadratic = None if self.functions or regularizers else data

    @property
    def quadratic_objective(self) -> bool:
        """Whether the smooth objective is ½xᵀPx + qᵀx."""
        return self._objective is None

    @cached_property
    def like(self) -> Tensor:
        """Some tensor of the program's dtype and device."""
        for _, value in self.data.items():
            return value if isinstance(value, Tensor) else value.values
        for param in self.params.values():
            return param
        return torch.empty(0)  # nothing but constants of the user's functions: torch's defaults

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        return self.like.device

    def sample(self, index: int) -> SmoothProgram:
        """Return the program of one sample, as a batch of 1, for solvers that know one at a time.

        Invariant: its values and derivatives at x[i:i+1] are row i of this program's at x. Shared
        tensors stay the same objects. ``sets`` is empty: their rows are part of the data.

        Args:
            index: From 0 to B - 1.

        Raises:
            IndexError: If ``index`` is out of range.
            UnsupportedError: If there are regularizers, or sets without rows.
        """
        if not 0 <= index < self.batch:
            raise IndexError(f"sample: {index} is not in a batch of {self.batch}.")
        return self._converted(
            lambda value, batched: value[index : index + 1] if batched else value, batch=1
        )

    def double(self) -> SmoothProgram:
        """Return the program in float64. Errors and ``sets`` as of :meth:`sample`."""
        return self._converted(
            lambda value, _: value.double() if value.is_floating_point() else value,
            batch=self.batch,
        )

    def detached(self) -> SmoothProgram:
        """Return the program with the same numbers, cut off from the graph."""
        data = self.data.detached()
        if not (self.functions or self._asserted or self.sets or self.regularizers):
            params: dict[str, Tensor] = {}
            for name, value in self.params.items():
                params[name] = value.detach()
            return SmoothProgram(
                data,
                batch=self.batch,
                structure=self.structure,
                params=params,
                batched=self.batched,
            )
        return self._replaced(
            data,
            lambda value, _: value.detach(),
            batch=self.batch,
            sets=tuple([atom.detached() for atom in self.sets]),
            regularizers=tuple([atom.detached() for atom in self.regularizers]),
        )

    def _converted(self, convert: Callable[[Tensor, bool], Tensor], *, batch: int) -> SmoothProgram:
        """Return the program with ``convert(value, is_batched)`` in place of every tensor."""
        left = [type(a).__name__ for a in self.regularizers]
        left += [type(a).__name__ for a in self.sets if not a.has_rows]
        if left:
            raise UnsupportedError(
                f"SmoothProgram: {', '.join(left)} cannot be expressed by rows of the data, and so "
                f"not for one sample alone. Work on the whole batch, or lower the program first."
            )
        return self._replaced(_converted_data(self.data, convert), convert, batch=batch)

    def restated(
        self,
        data: QuadraticData,
        functions: Mapping[str, BatchedFunction],
        *,
        structure: ProgramStructure | None = None,
        sets: tuple[SetAtom, ...] = (),
        regularizers: tuple[Regularizer, ...] = (),
    ) -> SmoothProgram:
        """Return another program of the same parameters and samples.

        Args:
            data, functions: See the attributes.
            structure: That of this program where None.
            sets, regularizers: See the attributes.
        """
        return SmoothProgram(
            data,
            batch=self.batch,
            structure=self.structure if structure is None else structure,
            params=self.params,
            batched=self.batched,
            objective=functions.get("objective"),
            equality=functions.get("equality"),
            inequality=functions.get("inequality"),
            function_rows=self.function_rows,
            sets=sets,
            regularizers=regularizers,
        )

    def _replaced(
        self,
        data: QuadraticData,
        convert: Callable[[Tensor, bool], Tensor],
        *,
        batch: int,
        sets: tuple[SetAtom, ...] = (),
        regularizers: tuple[Regularizer, ...] = (),
    ) -> SmoothProgram:
        functions = {role: f.converted(convert) for role, f in self.functions.items()}
        asserted = {k: (f.converted(convert), rows) for k, (f, rows) in self._asserted.items()}
        return SmoothProgram(
            data,
            batch=batch,
            structure=self.structure,
            params={name: convert(v, name in self.batched) for name, v in self.params.items()},
            batched=self.batched,
            objective=functions.get("objective"),
            equality=functions.get("equality"),
            inequality=functions.get("inequality"),
            function_rows=self.function_rows,
            sets=sets,
            regularizers=regularizers,
            asserted=asserted,
        )

    def objective(self, x: Tensor) -> Tensor:
        """Return the smooth part of f. Shapes (B, n) -> (B,)."""
        if self._objective is not None:
            return self._objective.value(x)
        return self.data.objective(x)

    def gradient(self, x: Tensor) -> Tensor:
        """Return ∇f. Shapes (B, n) -> (B, n)."""
        if self._objective is not None:
            return self._objective.jacobian(x)
        return self.data.gradient(x)

    def hessian(self, x: Tensor) -> Tensor:
        """Return ∇²f. Shape (n, n) where shared by the batch, else (B, n, n)."""
        diagonal = self.hessian_diagonal(x)
        if diagonal is not None:
            return torch.diag_embed(diagonal)
        if self._objective is not None:
            return self._objective.hessian(x)
        if self.data.P is None:
            return x.new_zeros(self.n, self.n)
        return to_dense(self.data.P)

    def hessian_diagonal(self, x: Tensor) -> Tensor | None:
        """Return the diagonal of ∇²f, (B, n), where the objective is a proven sum over variables.

        None where it is not. One product with ∇²f gives it: H·(1, …, 1).
        """
        if self._objective is None or not self.structure.separable_objective:
            return None
        return self._objective.hessian_product(x, torch.ones_like(x))

    def hessian_product(self, x: Tensor, tangent: Tensor) -> Tensor:
        """Return ∇²f·t. Shapes (B, n), (B, n) -> (B, n)."""
        if self._objective is not None:
            return self._objective.hessian_product(x, tangent)
        return torch.zeros_like(x) if self.data.P is None else matvec(self.data.P, tangent)

    def equality(self, x: Tensor) -> Tensor:
        """Return h(x). Shapes (B, n) -> (B, p)."""
        if self._equality is None and self.data.A is not None and self.data.b is not None:
            return matvec(self.data.A, x) - self.data.b
        rows = []
        if self.data.A is not None and self.data.b is not None:
            rows.append(matvec(self.data.A, x) - self.data.b)
        if self._equality is not None:
            rows.append(self._equality.value(x))
        return _joined(rows, x)

    def inequality(self, x: Tensor) -> Tensor:
        """Return g(x); -inf where a row of h is +inf. Shapes (B, n) -> (B, m)."""
        if not self.n_inequality:
            return x.new_zeros(x.shape[0], 0)
        rows = []
        if self.data.G is not None and self.data.h is not None:
            rows.append(matvec(self.data.G, x) - self.data.h)
        if self.n_quadratic:
            rows.append(self.data.quadratic_rows(x))
        if self._inequality is not None:
            rows.append(self._inequality.value(x))
        return _joined(rows, x)

    def equality_jacobian(self, x: Tensor) -> Tensor:
        """Return ∂h/∂x, dense: (p, n) where shared by the batch, else (B, p, n)."""
        if self._equality is None and isinstance(self.data.A, Tensor):
            return self.data.A
        blocks = []
        if self.data.A is not None:
            blocks.append(to_dense(self.data.A))
        if self._equality is not None:
            blocks.append(self._equality.jacobian(x))
        return _stack_rows(blocks, x)

    def inequality_jacobian(self, x: Tensor) -> Tensor:
        """Return ∂g/∂x, dense: (m, n) where shared by the batch, else (B, m, n)."""
        if not self.n_inequality:
            return x.new_zeros(0, self.n)
        blocks = []
        if self.data.G is not None:
            blocks.append(to_dense(self.data.G))
        if self.n_quadratic:
            blocks.append(self.data.quadratic_jacobian(x))
        if self._inequality is not None:
            blocks.append(self._inequality.jacobian(x))
        return _stack_rows(blocks, x)

    def lagrangian_gradient(self, x: Tensor, duals: Duals) -> Tensor:
        """Return ∇f + Jₕᵀν + J_gᵀμ - λ_lower + λ_upper. Shapes (B, n) -> (B, n)."""
        return self.gradient(x) + self.constraint_pull(x, duals)

    def constraint_pull(self, x: Tensor, duals: Duals) -> Tensor:
        """Return ∇L - ∇f = Jₕᵀν + J_gᵀμ - λ_lower + λ_upper. Shapes (B, n) -> (B, n)."""
        return self.pull(self.constraint_rows(x), duals)

    def constraint_rows(self, x: Tensor) -> tuple[Matrix | None, Matrix | None]:
        """Return ∂h/∂x and ∂g/∂x, sparse where the data are; None for no rows.

        Shapes (p, n) and (m, n) where shared by the batch, else (B, p, n) and (B, m, n).
        """
        curved = self._inequality is not None or self.n_quadratic
        return (
            self.data.A if self._equality is None else self.equality_jacobian(x),
            self.inequality_jacobian(x) if curved else self.data.G,
        )

    def pull(self, rows: tuple[Matrix | None, Matrix | None], duals: Duals) -> Tensor:
        """Return ``constraint_pull`` where ``constraint_rows`` are known. Shape (B, n)."""
        value = None
        if rows[0] is not None:
            value = rmatvec(rows[0], duals.equality)
        if rows[1] is not None:
            pulled = rmatvec(rows[1], duals.inequality)
            value = pulled if value is None else value + pulled
        if self.lower is not None:
            value = -duals.lower if value is None else value - duals.lower
        if self.upper is not None:
            value = duals.upper if value is None else value + duals.upper
        return torch.zeros_like(duals.lower) if value is None else value

    def lagrangian_hessian(self, x: Tensor, duals: Duals) -> Tensor:
        """Return ∇²L in x: (n, n) where shared by the batch, else (B, n, n)."""
        value = self.hessian(x)
        if self.n_quadratic or self._equality is not None or self._inequality is not None:
            value = value + self.constraint_hessian(x, duals)
        return value

    def constraint_hessian(self, x: Tensor, duals: Duals) -> Tensor:
        """Return Σ ν_i ∇²h_i + Σ μ_i ∇²g_i: (n, n) where shared by the batch, else (B, n, n)."""
        value = x.new_zeros(self.n, self.n)
        linear, quadratic = self.data.n_linear, self.n_quadratic
        if quadratic and self.data.quadratic_P is not None:
            pattern = "bk,kij->bij" if self.data.quadratic_P.ndim == 3 else "bk,bkij->bij"
            weights = duals.inequality[:, linear : linear + quadratic]
            value = value + torch.einsum(pattern, weights, self.data.quadratic_P)
        if self._inequality is not None:
            weights = duals.inequality[:, linear + quadratic :]
            value = value + self._inequality.weighted_hessian(x, weights)
        if self._equality is not None:
            weights = duals.equality[:, self.data.n_equality :]
            value = value + self._equality.weighted_hessian(x, weights)
        return value

    @property
    def hessian_is_constant(self) -> bool:
        """Whether ∇²L depends neither on x nor on the duals: the program is an LP or QP."""
        return self.quadratic is not None and not self.n_quadratic

    def asserted_mismatch(self, x: Tensor, rtol: float = 1e-6) -> str | None:
        """Compare asserted quadratic data with the functions they stand for, at points x (B, n).

        Returns:
            The role of a function whose gradient (objective) or value (constraints) differs, or
            None.
        """
        for role, (function, rows) in self._asserted.items():
            if role == "objective":
                model, truth = self.data.gradient(x), function.jacobian(x)
            elif role == "equality":
                model, truth = self.equality(x)[:, rows], function.value(x)
            else:
                model, truth = self.inequality(x)[:, rows], function.value(x)
            if bool(((model - truth).abs() > rtol * (1 + truth.abs())).any()):
                return role
        return None

    def pad_duals(self, duals: Duals | None) -> Duals:
        """Return zero duals of this program's shapes if none are given."""
        if duals is not None:
            return duals
        zeros = [
            torch.zeros(self.batch, k, dtype=self.dtype, device=self.device)
            for k in (self.n_equality, self.n_inequality, self.n, self.n)
        ]
        return Duals(*zeros)


def _joined(rows: list[Tensor], x: Tensor) -> Tensor:
    if len(rows) == 1:
        return rows[0]
    return torch.cat(rows, -1) if rows else x.new_zeros(x.shape[0], 0)


def _stack_rows(blocks: list[Tensor], x: Tensor) -> Tensor:
    if not blocks:
        return x.new_zeros(0, x.shape[-1])
    return concatenate(blocks, dim=-2, sample_dims=2)


def _converted_data(
    data: QuadraticData, convert: Callable[[Tensor, bool], Tensor]
) -> QuadraticData:
    fields: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, SparseMatrix):
            values = convert(value.values, value.batched)
            fields[name] = SparseMatrix(value.rows, value.cols, value.shape, values)
        else:
            fields[name] = convert(value, value.ndim > SAMPLE_DIMS[name])
    return QuadraticData(data.n, **fields)
