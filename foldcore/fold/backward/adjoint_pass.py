"""The backward pass of one fold: solve for the adjoint, check it per sample, act on failures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ... import hooks
from ...config import DegeneracyConfig
from ...errors import AdjointError, AdjointWarning, name_samples
from ...interfaces.adjoint import AdjointSolver
from ...interfaces.fixed_point_operator import FixedPointOperator
from ...interfaces.rule import BoundRule
from ...solution import AdjointSolution
from ..call.degeneracy import check_ambiguities, check_uniqueness
from ..call.policy import act


@dataclass(frozen=True)
class AdjointPass:
    """g -> v with (I - Φᵀ) v = g; holds what backward needs, and not the layer.

    Attributes:
        solver: The adjoint solver.
        operator: Φ at the fixed point.
        policy: What to do with samples that did not converge.
        path, subject: How hooks and messages name the fold.
        updated: U(z*, θ) on the graph, to test singular samples with.
        parameters: The tensors that need a gradient, by name.
        bound: The rule, which knows where its own step's system is singular.
        degeneracy: Policy for singular samples.
    """

    solver: AdjointSolver
    operator: FixedPointOperator
    policy: Literal["raise", "warn", "mask"]
    path: str
    subject: str
    updated: Tensor
    parameters: Mapping[str, Tensor]
    bound: BoundRule
    degeneracy: DegeneracyConfig

    def __call__(self, cotangent: Tensor) -> Tensor:
        """Return v. Shapes (B, s) -> (B, s). A cotangent of NaN gives NaN for its sample alone.

        Raises:
            AdjointError: If the policy is "raise" and a sample did not converge.
            DegenerateError: If a singular sample's gradient is not unique and not accepted.
        """
        started = time.perf_counter()
        finite = torch.isfinite(cotangent).all(-1, keepdim=True)
        answer = self.solver.solve(self.operator, torch.where(finite, cotangent, 0.0))
        hooks.adjoint_finished(self.path, answer, time.perf_counter() - started)
        adjoint = torch.where(finite, answer.adjoint, float("nan"))
        if answer.null_vector is not None:
            check_uniqueness(
                self.updated,
                tuple(self.parameters.values()),
                answer.null_vector,
                self.degeneracy,
                self.subject,
            )
        with torch.no_grad():
            adjoint_of_finite = torch.where(finite, answer.adjoint, 0.0)
            found = self.bound.ambiguities(adjoint_of_finite, self.parameters)
        if found:
            check_ambiguities(found, self.degeneracy, self.subject)
        if bool(answer.converged.all()):
            return adjoint
        return self._act(answer, adjoint)

    def _act(self, answer: AdjointSolution, adjoint: Tensor) -> Tensor:
        samples = torch.nonzero(~answer.converged).flatten().tolist()
        worst = float(answer.residual[samples].max())
        message = (
            f"{self.subject}: {type(self.solver).__name__} did not converge for {len(samples)} of "
            f"{len(answer.converged)} samples ({name_samples(samples)}): residual {worst:.1e} after "
            f"{int(answer.iterations[samples].max())} products. Raise adjoint.max_iter, loosen "
            f"adjoint.rtol, or use another adjoint solver."
        )
        if answer.messages:
            message = f"{message} Sample {samples[0]}: {answer.messages[samples[0]]}."
        consequence = "zero" if self.policy == "mask" else "inexact"
        act(
            self.policy,
            samples,
            raised=(AdjointError, message),
            warned=(AdjointWarning, f"{message} Their gradients are {consequence}."),
        )
        if self.policy == "mask":
            return torch.where(answer.converged[:, None], adjoint, torch.zeros_like(adjoint))
        return adjoint
