"""QuadraticTemplate: quadratic data with a Param for what varies, the declared form of QuadraticData."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ProblemError
from ..numerics.orthogonal import has_independent_rows
from ..numerics.sparse import Matrix, SparseMatrix
from ..param import Param, Sparse
from .data import DATA_FIELDS, QuadraticData

if TYPE_CHECKING:
    from typing_extensions import Self

VectorField = Tensor | Param | None
MatrixField = Tensor | Sparse | Param | None


@dataclass(frozen=True, eq=False)
class QuadraticTemplate:
    """Quadratic data before any parameter has a value: shapes, patterns and constants.

    A tensor is a constant, a :class:`Param` varies, None is absent. Fields are those of
    :class:`QuadraticData`, one sample each; :class:`foldcore.QuadraticProgram` is one that users declare.

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

    def __post_init__(self) -> None:
        n = self._infer_n()
        for name in ("lower", "upper"):
            value = getattr(self, name)
            if isinstance(value, (int, float)):
                object.__setattr__(self, name, torch.full((n,), float(value), dtype=torch.float64))
        object.__setattr__(self, "_n", n)
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
    def template(cls, data: QuadraticData, varying: Collection[str]) -> Self:
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
    def has_dependent_equalities(self) -> bool:
        """Whether A is a dense constant whose rows depend linearly on each other."""
        return isinstance(self.A, Tensor) and not has_independent_rows(self.A)

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
