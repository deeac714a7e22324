"""QuadraticProgram: the declaration of an LP, QP or QCQP."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import ProblemError
from ..numerics.sparse import Matrix, Sparse, SparseMatrix
from ..param import Param
from ..program.program import SmoothProgram
from ..quadratic.data import DATA_FIELDS, QuadraticData
from .parametric import ParametricProblem, ProblemClass, ProgramStructure, integer_columns

VectorField = Tensor | Param | None
MatrixField = Tensor | Sparse | Param | None
# Param is refused at run time; it is here so that typed code may still pass all fields as **fields.
IntegerField = Sequence[int] | Tensor | Param | None


@dataclass(frozen=True, eq=False)
class QuadraticProgram(ParametricProblem):
    """minimise ½ xᵀ½(P+Pᵀ)x + qᵀx  s.t.  Ax = b,  Gx <= h,  lower <= x <= upper, quadratic rows.

    A tensor is a constant, a :class:`Param` an input of the layer, None is absent. Quadratic rows
    read ½ xᵀP_i x + q_iᵀx <= r_i. Parameters are named after their field unless the Param has a name.

    Args:
        P: Hessian (n, n): dense, Sparse or Param.
        q: (n,).
        A, b: Equalities, (p, n) and (p,).
        G, h: Inequalities, (m, n) and (m,); +inf in h means absent.
        lower, upper: Bounds, (n,) or a number; ±inf means absent.
        quadratic_P, quadratic_q, quadratic_r: Quadratic rows, (k, n, n), (k, n), (k,).
        integer: Columns of x that must be whole numbers: indices, or a bool tensor (n,).

    Raises:
        ProblemError: If shapes disagree, a partner is missing (A without b) or a constant is NaN.
    """

    P: MatrixField = None
    q: VectorField = None
    A: MatrixField = None
    b: VectorField = None
    G: MatrixField = None
    h: VectorField = None
    lower: VectorField | float = None
    upper: VectorField | float = None
    quadratic_P: VectorField = None
    quadratic_q: VectorField = None
    quadratic_r: VectorField = None
    integer: IntegerField = None

    def __post_init__(self) -> None:
        n = self._infer_n()
        for name in ("lower", "upper"):
            value = getattr(self, name)
            if isinstance(value, (int, float)):
                object.__setattr__(self, name, torch.full((n,), float(value), dtype=torch.float64))
        object.__setattr__(self, "_n", n)
        columns = integer_columns(self.integer, n, "QuadraticProgram")
        object.__setattr__(self, "_integer", columns)
        self._check_shapes(n)
        names = [name for _, (name, _) in self._params_by_field().items()]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise ProblemError(f"QuadraticProgram: parameter names used twice: {sorted(repeated)}.")

    def _infer_n(self) -> int:
        for name in ("P", "A", "G", "q", "lower", "upper", "quadratic_q"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, (int, float)):
                if len(value.shape) == 0:
                    raise ProblemError(f"QuadraticProgram: {name} is a scalar; give it a shape.")
                return int(value.shape[-1])
        raise ProblemError(
            "QuadraticProgram: nothing tells the number of variables; give P, q, A, G or a bound tensor."
        )

    def _check_shapes(self, n: int) -> None:
        rows = {
            "A": self._rows("A", "b"),
            "G": self._rows("G", "h"),
            "quadratic": self._rows("quadratic_q", "quadratic_r"),
        }
        if (self.quadratic_P is None) != (self.quadratic_q is None):
            raise ProblemError("QuadraticProgram: quadratic_P and quadratic_q go together.")
        expected = {
            "P": (n, n), "q": (n,), "A": (rows["A"], n), "b": (rows["A"],), "G": (rows["G"], n),
            "h": (rows["G"],), "lower": (n,), "upper": (n,),
            "quadratic_P": (rows["quadratic"], n, n), "quadratic_q": (rows["quadratic"], n),
            "quadratic_r": (rows["quadratic"],),
        }  # fmt: skip
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is None:
                continue
            if tuple(value.shape) != shape:
                raise ProblemError(
                    f"QuadraticProgram: {name} has shape {tuple(value.shape)}, expected {shape} "
                    f"(n = {n}). Constants have no batch dimension; use a Param for data that varies."
                )
            tensor = value.values if isinstance(value, Sparse) else value
            if isinstance(tensor, Tensor):
                self._check_constant(name, tensor)

    @classmethod
    def template(cls, data: QuadraticData, varying: Collection[str]) -> QuadraticProgram:
        """Return a declaration with the constants of ``data`` and a Param for what varies.

        Args:
            data: Example data of one sample; only shapes matter for varying fields.
            varying: Names of the fields that are parameters; each Param is named after its field.
        """
        fields: dict[str, Any] = {}
        for name, value in data.items():
            if name in varying:
                fields[name] = Param(*value.shape, name=name)
            elif isinstance(value, SparseMatrix):
                fields[name] = Sparse(value.rows, value.cols, value.shape, value.values)
            else:
                fields[name] = value
        return cls(**(fields or {"q": torch.zeros(data.n, dtype=torch.float64)}))

    @staticmethod
    def _check_constant(name: str, tensor: Tensor) -> None:
        if not tensor.is_floating_point():
            raise ProblemError(
                f"QuadraticProgram: {name} must be floating point, got {tensor.dtype}."
            )
        if bool(tensor.isnan().any()):
            raise ProblemError(f"QuadraticProgram: {name} contains NaN.")
        if tensor.requires_grad:
            raise ProblemError(
                f"QuadraticProgram: {name} needs a gradient but is given as a constant. Declare "
                f"{name}=Param{tuple(tensor.shape)} and pass it at the call, or Param(..., init=...)."
            )
        if name not in ("h", "lower", "upper", "quadratic_r") and bool(tensor.isinf().any()):
            raise ProblemError(f"QuadraticProgram: {name} contains inf.")

    def _rows(self, matrix: str, vector: str) -> int:
        left, right = getattr(self, matrix), getattr(self, vector)
        if (left is None) != (right is None):
            missing, present = (vector, matrix) if right is None else (matrix, vector)
            raise ProblemError(f"QuadraticProgram: {present} is given without {missing}.")
        return 0 if right is None else int(right.shape[0])

    def _params_by_field(self) -> dict[str, tuple[str, Param]]:
        found: dict[str, tuple[str, Param]] = {}
        for field in DATA_FIELDS:
            value = getattr(self, field)
            param = value.values if isinstance(value, Sparse) else value
            if isinstance(param, Param):
                found[field] = (param.name or field, param)
        return found

    @property
    def n(self) -> int:
        return int(self.__dict__["_n"])

    @cached_property
    def params(self) -> Mapping[str, Param]:
        return dict(self._params_by_field().values())

    @cached_property
    def varying(self) -> Mapping[str, str]:
        """Field -> parameter name, for the fields that depend on a parameter."""
        return {field: name for field, (name, _) in self._params_by_field().items()}

    @cached_property
    def constants(self) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        for field in DATA_FIELDS:
            value = getattr(self, field)
            if isinstance(value, Tensor):
                found[field] = value
            elif isinstance(value, Sparse):
                found[f"{field}.rows"], found[f"{field}.cols"] = value.rows, value.cols
                if isinstance(value.values, Tensor):
                    found[field] = value.values
        return found

    @cached_property
    def structure(self) -> ProgramStructure:
        convex = self._convexity()
        if self.quadratic_r is not None:
            kind = ProblemClass.NONCONVEX_QCQP if convex is False else ProblemClass.QCQP
        elif self.P is None:
            kind = ProblemClass.LP
        else:
            kind = ProblemClass.NONCONVEX_QP if convex is False else ProblemClass.QP
        count = [0 if v is None else int(v.shape[0]) for v in (self.b, self.h, self.quadratic_r)]
        return ProgramStructure(
            n=self.n,
            n_equality=count[0],
            n_inequality=count[1] + count[2],
            problem_class=kind,
            convex=convex,
            template=self,
            integer=self.__dict__["_integer"],
        )

    def relaxed(self) -> QuadraticProgram:
        return replace(self, integer=None) if self.structure.integer else self

    def _convexity(self) -> bool | None:
        known: list[bool | None] = []
        for value in (self.P, self.quadratic_P):
            param = value.values if isinstance(value, Sparse) else value
            if value is None:
                continue
            if isinstance(param, Param):
                known.append(True if param.psd else None)
            elif isinstance(value, Sparse):
                known.append(None)
            elif isinstance(value, Tensor):
                known.append(bool(is_positive_semidefinite(value).all()))
        if False in known:
            return False
        return None if None in known else True

    def bind(self, values: Mapping[str, Tensor], batch: int) -> SmoothProgram:
        params = {name: values[name] for name in self.params}
        batched = frozenset(
            name for name, p in self.params.items() if values[name].ndim > len(p.shape)
        )
        return SmoothProgram(
            self.bind_data(values),
            batch=batch,
            structure=self.structure,
            params=params,
            batched=batched,
        )

    def bind_data(self, values: Mapping[str, Tensor]) -> QuadraticData:
        """Return the data with every Param and constant replaced by its value."""
        bound: dict[str, Matrix] = {}
        for field in DATA_FIELDS:
            declared = getattr(self, field)
            if declared is None:
                continue
            value = values[self.varying.get(field, field)]
            if isinstance(declared, Sparse):
                rows, cols = values[f"{field}.rows"], values[f"{field}.cols"]
                matrix = SparseMatrix(rows, cols, declared.shape, value)
                bound[field] = matrix.symmetrised() if field == "P" else matrix
            elif field in ("P", "quadratic_P"):
                bound[field] = (value + value.mT) / 2
            else:
                bound[field] = value
        return QuadraticData(n=self.n, **bound)  # type: ignore[arg-type]


def is_positive_semidefinite(matrix: Tensor) -> Tensor:
    """Return whether the symmetric part is positive semidefinite up to rounding. Shape (*batch,), bool."""
    symmetric = (matrix + matrix.mT) / 2
    values = torch.linalg.eigvalsh(symmetric.detach())
    size = values.abs().amax(-1)
    tolerance = 100 * matrix.shape[-1] * torch.finfo(matrix.dtype).eps
    result: Tensor = values.amin(-1) >= -tolerance * size
    return result
