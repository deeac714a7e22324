"""The cascade: each sample is served by the first method that can, cheap ones first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from foldcore import UnsupportedError
from foldcore.adjoints import (
    AdjointProgress,
    ScaledAdjoint,
    ScaledSystem,
    refine_adjoint,
    solve_dense,
)
from foldcore.interfaces import AdjointSolution, FixedPointOperator, PluginConfig

from .config import AutoConfig
from .stages import contract, krylov
from .uniqueness import probe_null_space

REFINEMENTS = 2
"""Steps of iterative refinement after LU and after the rule's own solve."""


class AutoAdjoint(ScaledAdjoint):
    """Zero, the rule's own way, contraction, GMRES, LU, least norm: per sample, as far as needed.

    Invariant: a sample goes on to the next stage only while its measured residual is above
    tolerance; one that is served is frozen, and no sample's result depends on another's. Singular
    samples whose g lies in the range of I - Φᵀ converge, with a ``null_vector``; those whose g does
    not lie in it do not. ``solved_by`` names the stage that served a sample and ``messages`` says
    why the earlier ones did not:

    ============  ==========================================================================
    trivial       Φ = 0 is known, or g = 0: v = g
    rule          the update rule knows a direct way (``solve_transposed``)
    lfpi          Φ contracts fast enough for a few steps of v <- Φᵀv + g
    gmres         restarted GMRES; up to ``dense_limit`` with no more products than LU costs
    lu            the assembled matrix, regular, s <= ``dense_limit``
    minimum_norm  the assembled matrix, singular: least squares of least norm
    unsolved      none: inconsistent, or too large for the dense stages
    ============  ==========================================================================
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = AutoConfig
    config: AutoConfig
    rank: ClassVar[float] = 15.0

    def solve_trivial(self, operator: FixedPointOperator, system: ScaledSystem) -> AdjointSolution:
        record = _Record(system, system.untouched())
        record.note(system.finite, "trivial", "Φ = 0" if operator.zero else "g = 0")
        return record.report()

    def solve_scaled(self, operator: FixedPointOperator, system: ScaledSystem) -> AdjointSolution:
        record = _Record(system, system.untouched())
        record.note(system.finite & ~system.nonzero, "trivial", "g = 0")
        known = self._by_the_rule(operator, system)
        record.progress = system.started(operator) if known is None else known
        if known is not None:
            record.note(system.nonzero, "rule", "the rule's own direct solve")
            record.failed(system.nonzero, "the rule's own direct solve was not accurate enough")
        self._iterate(operator, record)
        self._assemble(operator, record)
        return record.report()

    def _by_the_rule(
        self, operator: FixedPointOperator, system: ScaledSystem
    ) -> AdjointProgress | None:
        """Return what the rule's direct way gives, or None where it knows none."""
        try:
            adjoint = operator.solve_transposed(system.cotangent)
        except UnsupportedError:
            return None
        usable = system.nonzero & adjoint.isfinite().all(-1)
        progress = system.started(operator).attempt(system, operator, adjoint, usable)
        return refine_adjoint(
            operator, system, progress, operator.solve_transposed, usable, REFINEMENTS
        )

    def _iterate(self, operator: FixedPointOperator, record: _Record) -> None:
        config, system = self.config, record.system
        entering = system.nonzero & ~record.named("rule")
        steps = min(config.contraction_steps, config.max_iter - 1)
        record.progress, rate = contract(operator, system, record.progress, steps)
        record.note(entering, "lfpi", "Φ contracts")
        measured = [f"a step leaves {one:.2g} of the residual" for one in rate.tolist()]
        record.failed(entering, "lfpi gave up", measured)

        entering = system.nonzero & ~record.served()
        limit: Tensor | int = config.max_iter
        if operator.size <= config.dense_limit:
            # Assembling the matrix costs s products, so that more of them are better spent there.
            limit = (record.progress.products + operator.size + 2).clamp_max(config.max_iter)
        record.progress = krylov(
            operator, system, record.progress, restart=config.restart, max_iter=limit
        )
        record.note(entering, "gmres", "GMRES converged")
        left = [f"residual {one:.1e}" for one in (record.progress.norm * system.scale).tolist()]
        record.failed(entering, f"gmres({config.restart}) gave up", left)

    def _assemble(self, operator: FixedPointOperator, record: _Record) -> None:
        config, system = self.config, record.system
        suspicious = torch.zeros_like(system.nonzero)
        if config.check_unique:
            suspicious = self._probe(operator, record)
        unsolved = system.unsolved(record.progress)
        needed = unsolved | suspicious
        if not bool(needed.any()):
            return
        if operator.size > config.dense_limit:
            record.failed(needed, f"s = {operator.size} is above dense_limit")
            return
        dense = solve_dense(operator, system.cotangent, needed)
        before = record.progress
        # A singular sample takes the solution of least norm, whatever iteration found before.
        singular = dense.singular
        start = replace(
            before,
            norm=torch.where(singular, torch.inf, before.norm),
            products=before.products + dense.products,
        )
        after = start.attempt(system, operator, dense.adjoint, unsolved | singular)
        after = refine_adjoint(
            operator, system, after, dense.inverse, unsolved & ~singular, REFINEMENTS
        )
        record.progress = after
        record.null_vector = torch.where(needed.unsqueeze(-1), dense.null_vector, 0.0)
        record.note(unsolved & ~singular, "lu", "I - Φᵀ is regular")
        record.note(singular, "minimum_norm", "I - Φᵀ is singular and g lies in its range")
        record.failed(singular, "I - Φᵀ is singular and g does not lie in its range")
        record.failed(unsolved & ~singular, "LU was not accurate enough")

    def _probe(self, operator: FixedPointOperator, record: _Record) -> Tensor:
        """Return the samples served by iteration whose I - Φᵀ may be singular. Shape (B,), bool."""
        iterated = record.served() & record.named("lfpi", "gmres")
        if not bool(iterated.any()):
            return iterated
        probe = probe_null_space(
            operator,
            iterated,
            rtol=self.config.rtol,
            restart=self.config.restart,
            max_iter=self.config.max_iter,
            polish=operator.size > self.config.dense_limit,
        )
        progress = record.progress
        record.progress = replace(progress, products=progress.products + probe.products)
        record.null_vector = probe.null_vector
        return probe.suspicious


@dataclass
class _Record:
    """Where the cascade stands, which stage served each sample, and why.

    Attributes:
        system: The scaled system.
        progress: The best iterates.
        null_vector: Of samples found singular; 0 for others. Shape (B, s).
    """

    system: ScaledSystem
    progress: AdjointProgress
    null_vector: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.null_vector = torch.zeros_like(self.system.cotangent)
        batch = self.system.cotangent.shape[0]
        self._names = ["unsolved"] * batch
        self._reasons: list[list[str]] = [[] for _ in range(batch)]

    def served(self) -> Tensor:
        """Return the samples whose measured residual meets the tolerance. Shape (B,), bool."""
        return self.system.finite & (self.progress.norm <= self.system.tolerance)

    def named(self, *names: str) -> Tensor:
        """Return the samples that a stage of these names served. Shape (B,), bool."""
        matches = [name in names for name in self._names]
        return torch.tensor(matches, device=self.system.tolerance.device)

    def note(self, entered: Tensor, name: str, reason: str) -> None:
        """Name the stage for those that entered it and are served now."""
        for i in torch.nonzero(entered & self.served()).flatten().tolist():
            self._names[i] = name
            self._reasons[i].append(reason)

    def failed(self, entered: Tensor, reason: str, details: list[str] | None = None) -> None:
        """Note why a stage did not serve those that entered it and are not served now."""
        for i in torch.nonzero(entered & ~self.served()).flatten().tolist():
            self._names[i] = "unsolved"
            self._reasons[i].append(reason if details is None else f"{reason} ({details[i]})")

    def report(self) -> AdjointSolution:
        answer = self.progress.report(self.system)
        null_vector = torch.where(answer.converged.unsqueeze(-1), self.null_vector, 0.0)
        return replace(
            answer,
            solved_by=tuple(self._names),
            messages=tuple("; ".join(reasons) for reasons in self._reasons),
            null_vector=null_vector if bool(null_vector.any()) else None,
        )
