"""An adjoint solver under test, and the systems it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedError
from ...interfaces.adjoint import AdjointSolver
from ...interfaces.fixed_point_operator import FixedPointOperator
from ...solution import AdjointSolution
from ..check import require
from ..operators import MatrixOperator, random_cotangent, random_matrix, reference_adjoint
from .settings import Observation
from .subject import Subject

ASKED = 1e-12
"""Relative tolerance that accurate solves ask for, where the config has an ``rtol``."""


class SymmetricOperator(MatrixOperator):
    """A matrix that is symmetric and says so."""

    symmetric = True


class StrictOperator(MatrixOperator):
    """Refuses NaN and inf, as an update rule with an inner solver may."""

    def vjp(self, cotangent: Tensor) -> Tensor:
        self._check(cotangent)
        return super().vjp(cotangent)

    def jvp(self, tangent: Tensor) -> Tensor:
        self._check(tangent)
        return super().jvp(tangent)

    @staticmethod
    def _check(vector: Tensor) -> None:
        require(bool(vector.isfinite().all()), "it asked for a product with NaN or inf.")


class StrictSymmetricOperator(StrictOperator):
    """Likewise, symmetric."""

    symmetric = True


class InexactOperator(MatrixOperator):
    """Offers a direct way whose answers are off by 1e-5."""

    def solve_transposed(self, cotangent: Tensor) -> Tensor:
        return reference_adjoint(self.matrix, cotangent) * (1 + 1e-5)


class AdjointSubject(Subject[AdjointSolver]):
    """Gives the checks systems of the family that the solver serves.

    A solver that refuses general matrices by UnsupportedError, as conjugate gradients do, is
    checked on matrices that are declared symmetric.
    """

    @property
    def serves_nonsymmetric(self) -> bool:
        """Whether it takes matrices that are not declared symmetric."""
        return self.remember("nonsymmetric", self._try_nonsymmetric)

    def _try_nonsymmetric(self) -> bool:
        operator = MatrixOperator(random_matrix(1, 3, 0.3))
        try:
            self.plugin().solve(operator, random_cotangent(1, 3))
        except UnsupportedError:
            return False
        return True

    def accurate(self) -> AdjointSolver:
        """Return the solver asked for :data:`ASKED`, where it can be asked."""
        return self.plugin(**self.tolerances(ASKED))

    def tolerances(self, rtol: float) -> dict[str, Any]:
        """Return options that ask for a relative tolerance and no absolute one."""
        wanted = {"rtol": rtol, "atol": 0.0}
        return {name: value for name, value in wanted.items() if self.has_field(name)}

    def asked(self, rtol: float) -> float:
        """Return the tolerance that :meth:`tolerances` asks for: 1e-6 where it has no ``rtol``."""
        return rtol if self.has_field("rtol") else 1e-6

    def matrix(
        self,
        batch: int,
        size: int,
        radius: float,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Return Φ of a spectral radius, (B, s, s): nonsymmetric where it serves those.

        Symmetric ones have no eigenvalue above ``radius`` and are negative definite from 1 on, so
        that I - Φ is definite.
        """
        if self.serves_nonsymmetric:
            return random_matrix(batch, size, radius, seed=seed, dtype=dtype)
        drawn = random_matrix(batch, size, 1.0, seed=seed)
        drawn = drawn @ drawn.mT
        values = torch.linalg.eigvalsh(drawn)
        middle = 0.0 if radius >= 1 else 0.5
        drawn = drawn / values.amax(-1)[:, None, None] - middle * torch.eye(size).double()
        largest = torch.linalg.eigvalsh(drawn).abs().amax(-1)[:, None, None]
        scaled: Tensor = -radius * drawn / largest
        return scaled.to(dtype)

    def operator(self, matrix: Tensor, *, batch: int | None = None, strict: bool = False) -> Any:
        """Return the operator of a matrix of this family; it counts its products."""
        if self.serves_nonsymmetric:
            return (StrictOperator if strict else MatrixOperator)(matrix, batch)
        return (StrictSymmetricOperator if strict else SymmetricOperator)(matrix, batch)

    def solve(
        self, solver: AdjointSolver, operator: FixedPointOperator, cotangent: Tensor
    ) -> AdjointSolution:
        """Solve, and require the report to have the right shapes and types."""
        answer = solver.solve(operator, cotangent)
        batch = cotangent.shape[0]
        require(
            answer.adjoint.shape == cotangent.shape,
            f"adjoint has shape {tuple(answer.adjoint.shape)}, expected {tuple(cotangent.shape)}.",
        )
        for name in ("residual", "iterations", "converged"):
            shape = tuple(getattr(answer, name).shape)
            require(shape == (batch,), f"{name} has shape {shape}, expected ({batch},).")
        require(answer.converged.dtype == torch.bool, "converged is not boolean.")
        require(answer.iterations.dtype == torch.int64, "iterations is not int64.")
        return answer

    # What its runs show

    def observable(self) -> Sequence[str]:
        return list(self._systems())

    def observe(self, problem: str, options: Mapping[str, Any]) -> Observation | None:
        operator = self._systems()[problem]
        cotangent = random_cotangent(operator.batch, operator.size)
        if problem == "singular":
            cotangent[:, 0] = 0
        try:
            answer = self.plugin(**options).solve(operator, cotangent)
        except UnsupportedError:
            return None
        null = answer.null_vector
        return {
            "adjoint": answer.adjoint.numpy().tobytes(),
            "residual": answer.residual.numpy().tobytes(),
            "iterations": answer.iterations.tolist(),
            "converged": answer.converged.tolist(),
            "solved by": answer.solved_by,
            "null vector": null is None,
            "messages": answer.messages,
        }

    def _systems(self) -> dict[str, FixedPointOperator]:
        singular = random_matrix(2, 6, 0.6)
        singular[:, 0, :] = 0
        singular[:, :, 0] = 0
        singular[:, 0, 0] = 1
        skew = torch.eye(12, dtype=torch.float64).roll(1, 0) * 1.5
        return {
            "fast": self.operator(self.matrix(2, 20, 0.7)),
            "slow": self.operator(self.matrix(2, 60, 0.97)),
            "symmetric": SymmetricOperator(-random_matrix(1, 12, 0.9).square().mean() * _ones(12)),
            "rotation": MatrixOperator(skew.expand(2, 12, 12).clone()),
            "singular": MatrixOperator(singular),
            "inexact direct way": InexactOperator(self.matrix(2, 10, 0.9)),
        }


def _ones(size: int) -> Tensor:
    return torch.ones(1, size, size, dtype=torch.float64)
