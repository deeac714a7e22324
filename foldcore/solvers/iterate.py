"""iterate: run the update rule's own iteration to convergence, batched, in torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from ..config import IterativeConfig
from ..interfaces import API_VERSION
from ..interfaces.solver import Capabilities, IterationMap, Session, Solver
from ..program.program import SmoothProgram
from ..program.structure import ProblemClass, ProgramStructure
from ..solution import Solution, Status


class IterateConfig(IterativeConfig):
    """Options of ``iterate``."""

    rtol: float = Field(
        1e-10, ge=0, description="Largest rule residual relative to ‖z‖∞ (dimensionless); "
        "floored at 100 machine epsilons of the dtype."
    )  # fmt: skip
    atol: float = Field(1e-10, ge=0, description="Largest rule residual, in units of z / step.")
    max_iter: int = Field(20000, ge=1, description="Largest number of update steps (count).")


class IterateSolver(Solver):
    """The solver that needs nothing else: z <- U(z) until the rule's residual is small."""

    api_version = API_VERSION
    config_class = IterateConfig
    capabilities = Capabilities(
        problem_classes=frozenset(ProblemClass),
        duals=True,
        native_batch=True,
        gpu=True,
        warm_start=True,
        needs_rule=True,
    )

    def __init__(self, config: IterateConfig) -> None:
        self.config: IterateConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 1.0

    def open(self, structure: ProgramStructure) -> Session:
        return _IterateSession(self.config)


class _IterateSession(Session):
    def __init__(self, config: IterateConfig) -> None:
        self._config = config

    def solve(
        self,
        program: SmoothProgram,
        *,
        changed: frozenset[str],
        warm_start: Solution | None = None,
        iteration: IterationMap | None = None,
    ) -> Solution:
        if iteration is None:
            raise TypeError("iterate: called without an iteration; it declares needs_rule.")
        with torch.no_grad():
            run = self._run(iteration, _start(iteration, warm_start))
            primal = iteration.primal(run.state)
            duals = iteration.duals(run.state)
        reasons = {
            Status.OPTIMAL: "",
            Status.ITERATION_LIMIT: f"no fixed point after {self._config.max_iter} steps",
            Status.NUMERICAL: "the update step is singular, or the iteration diverged to inf",
        }
        status = tuple(
            Status.NUMERICAL if dead else Status.OPTIMAL if met else Status.ITERATION_LIMIT
            for dead, met in zip(run.dead.tolist(), run.done.tolist(), strict=True)
        )
        return Solution(
            primal=primal,
            duals=duals,
            status=status,
            messages=tuple(reasons[one] for one in status),
            iterations=tuple(run.count.tolist()),
        )

    def _run(self, iteration: IterationMap, state: Tensor) -> _Run:
        floor = 100 * torch.finfo(state.dtype).eps
        rtol, atol = max(self._config.rtol, floor), max(self._config.atol, floor)
        done = torch.zeros(state.shape[0], dtype=torch.bool, device=state.device)
        dead = done.clone()
        count = torch.zeros(state.shape[0], dtype=torch.int64, device=state.device)
        for _ in range(self._config.max_iter):
            updated = iteration.step(state)
            residual = iteration.residual(state, updated)
            size = state.abs().amax(-1) if state.shape[-1] else residual * 0
            active = ~(done | dead)
            count += active
            # Frozen samples keep their state: none depends on how long its neighbours run.
            state = torch.where(active[:, None], updated, state)
            done = done | (active & (residual <= atol + rtol * size))
            dead = dead | ~torch.isfinite(residual)
            failed = iteration.failed()
            if failed is not None:
                dead = dead | (failed & ~done)
            if bool((done | dead).all()):
                break
        return _Run(state, done, dead, count)


def _start(iteration: IterationMap, warm_start: Solution | None) -> Tensor:
    """Return the first state; rows whose warm start is not finite start cold."""
    cold = iteration.start(None)
    if warm_start is None:
        return cold
    known = torch.isfinite(warm_start.primal).all(-1, keepdim=True)
    warm = iteration.start(
        torch.where(known, warm_start.primal, torch.zeros_like(warm_start.primal))
    )
    return torch.where(known, warm, cold)


@dataclass(frozen=True)
class _Run:
    """Outcome per sample: last state (B, s), converged, given up, steps taken (B,)."""

    state: Tensor
    done: Tensor
    dead: Tensor
    count: Tensor
