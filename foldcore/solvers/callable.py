"""Any callable as a solver: program -> (B, n) tensor or Solution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..config import PluginConfig
from ..errors import ConfigError
from ..interfaces import API_VERSION
from ..interfaces.solver import Capabilities, IterationMap, Session, Solver
from ..portable import PortableFunction
from ..program.program import SmoothProgram
from ..program.structure import ProblemClass, ProgramStructure
from ..solution import Solution, Status

SolveFunction = Callable[[SmoothProgram], Tensor | Solution]


class CallableConfig(PluginConfig):
    """A callable has no options."""


class CallableSolver(Solver):
    """Adapter that lets a function solve: it gets the bound program, detached.

    The function returns the primal (B, n), with NaN rows for samples it could not solve, or a
    :class:`Solution`.
    """

    api_version = API_VERSION
    config_class = CallableConfig
    capabilities = Capabilities(
        problem_classes=frozenset(ProblemClass), native_batch=True, regularizers=True
    )

    def __init__(self, function: SolveFunction) -> None:
        self._function = PortableFunction(function)
        self.config = CallableConfig()
        self.name = getattr(function, "__name__", type(function).__name__)

    def open(self, structure: ProgramStructure) -> Session:
        return _CallableSession(self._function, self.name)


class _CallableSession(Session):
    def __init__(self, function: PortableFunction, name: str) -> None:
        self._function, self._name = function, name

    def solve(
        self,
        program: SmoothProgram,
        *,
        changed: frozenset[str],
        warm_start: Solution | None = None,
        iteration: IterationMap | None = None,
    ) -> Solution:
        answer = self._function(program)
        if isinstance(answer, Solution):
            self._check(answer, program)
            return answer
        if not isinstance(answer, Tensor):
            raise ConfigError(
                f"solver: the callable {self._name!r} returned {type(answer).__name__}; "
                f"expected a tensor of shape ({program.batch}, {program.n}) or a Solution."
            )
        if answer.shape != (program.batch, program.n):
            raise ConfigError(
                f"solver: the callable {self._name!r} returned shape {tuple(answer.shape)}; "
                f"expected ({program.batch}, {program.n}): one row per sample."
            )
        finite = torch.isfinite(answer).all(-1).tolist()
        return Solution(
            primal=answer.to(program.dtype),
            status=tuple(Status.OPTIMAL if ok else Status.NUMERICAL for ok in finite),
            messages=tuple("" if ok else "the callable returned NaN or inf" for ok in finite),
        )

    def _check(self, answer: Solution, program: SmoothProgram) -> None:
        given = {"primal": tuple(answer.primal.shape), "status": (len(answer.status),)}
        expected: dict[str, tuple[int, ...]] = {
            "primal": (program.batch, program.n),
            "status": (program.batch,),
        }
        if answer.duals is not None:
            given.update({name: tuple(value.shape) for name, value in vars(answer.duals).items()})
            rows = (program.n_equality, program.n_inequality, program.n, program.n)
            names = ("equality", "inequality", "lower", "upper")
            expected.update({k: (program.batch, m) for k, m in zip(names, rows, strict=True)})
        for name, shape in expected.items():
            if given[name] != shape:
                raise ConfigError(
                    f"solver: the callable {self._name!r} returned a Solution whose {name} has "
                    f"shape {given[name]}; expected {shape}: one row per sample."
                )


def solver(function: SolveFunction) -> CallableSolver:
    """Turn a function into a solver; usable as a decorator.

    Args:
        function: Takes a :class:`SmoothProgram` of B samples (``program.quadratic`` holds its
            matrices, ``program.params`` the parameters by name) and returns a (B, n) tensor or
            a :class:`Solution`.
    """
    return CallableSolver(function)
