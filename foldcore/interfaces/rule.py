"""UpdateRule: one differentiable iteration z -> U(z, params) whose fixed point is the solution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from ..kkt import Ambiguity
from ..problem.parametric import ParametricProblem
from ..program.program import SmoothProgram
from ..program.structure import ProgramStructure
from ..solution import Duals, Solution
from .fixed_point_operator import FixedPointOperator
from .plugin import Plugin


class InnerFold(Protocol):
    """What a rule sees of an inner fold: a differentiable function of the inner problem's parameters."""

    def solve_inner(self, values: Mapping[str, Tensor], *, duals: bool = False) -> Solution:
        """Solve the inner problem for B samples, differentiably.

        Args:
            values: The inner problem's parameters, each ``(*shape)`` or ``(B, *shape)``.
            duals: Whether differentiable duals are wanted too.

        Returns:
            primal (B, n) on the graph; failed samples are marked in ``status`` and hold a benign
            placeholder with zero gradient, never NaN.
        """
        ...


class BoundRule(ABC):
    """An update rule bound to one batch of data. Holds factorisations and inner folds, on the graph.

    The state z is one flat tensor (B, s). ``primal`` and ``duals`` may depend on the parameters
    directly: the fixed-point node wraps z alone, so that this direct term reaches autograd.

    Attributes:
        failure: What messages say of the samples in :meth:`failed`.
    """

    failure: ClassVar[str] = "singular update step"

    @abstractmethod
    def initial(self, primal: Tensor | None = None) -> Tensor:
        """Return a state to start the iteration from, near ``primal`` (B, n) if one is given."""

    @abstractmethod
    def lift(self, solution: Solution) -> Tensor:
        """Return the state z* (B, s) that belongs to a solution, without gradient.

        Duals that the solution lacks are recovered (:func:`foldcore.recover_duals`) if z needs them.
        """

    @abstractmethod
    def step(self, state: Tensor) -> Tensor:
        """Return U(z), (B, s) -> (B, s), differentiable in z and in the parameters."""

    @abstractmethod
    def primal(self, state: Tensor) -> Tensor:
        """Return x (B, n) from a state, differentiable in z and in the parameters."""

    def duals(self, state: Tensor) -> Duals | None:
        """Return the duals that the state carries, on the graph, or None where it carries none."""
        return None

    def at(self, state: Tensor) -> BoundRule:
        """Return the rule with its step-size constants chosen for this fixed point (B, s).

        Any step keeps the fixed point; a step chosen locally makes Φ contract. The default is the
        rule itself. Constants chosen here are constants for autograd.
        """
        return self

    def with_step(self, step: Tensor) -> BoundRule | None:
        """Return the rule with another step size per sample, (B,); None for rules without one."""
        return None

    def jacobian(self, state: Tensor) -> FixedPointOperator | None:
        """Return Φ at a fixed point where the rule knows it in closed form; None for autograd's."""
        return None

    def residual(self, state: Tensor, updated: Tensor) -> Tensor:
        """Return ‖U(z) - z‖∞ divided by the step size, per sample. Shape (B,)."""
        gap = (updated - state).detach().abs()
        largest = gap.amax(dim=-1) if gap.shape[-1] else gap.new_zeros(gap.shape[0])
        return largest / self.step_scale

    @property
    def step_scale(self) -> Tensor | float:
        """The step size that scales the residual: a number or (B,). 1 for rules without one."""
        return 1.0

    def failed(self) -> Tensor | None:
        """Return the samples whose last step could not be evaluated, (B,) bool, or None for none.

        Their rows hold finite placeholders without gradient, so that other samples are unharmed.
        """
        return None

    def saddles(self) -> Tensor | None:
        """Return the samples whose last step tells that they are no local minimum, (B,) bool.

        That is negative curvature along the active constraints (Nocedal and Wright, Numerical
        Optimization (2006), theorem 12.5). None where there are none, or where the rule cannot tell.
        """
        return None

    def ambiguities(
        self, cotangent: Tensor, parameters: Mapping[str, Tensor]
    ) -> Sequence[Ambiguity]:
        """Return which derivatives of the last step do not exist, where its own system is singular.

        Called before a cotangent v (B, s) of U(z) is pulled back to the parameters, given by name. The
        default, none, is right for rules that solve no system of their own.
        """
        return ()

    def inner_reports(self) -> Mapping[str, Solution]:
        """Return the latest reports of the inner folds by the rule's name for them."""
        return {}


class PreparedRule(ABC):
    """A rule opened for one structure: what depends on the problem's constants alone is done once.

    Prepared rules live where solver sessions live: one per layer, process, thread, dtype and device,
    outside of the layer, never pickled. Invariant: what ``bind`` returns does not depend on earlier
    calls.
    """

    @abstractmethod
    def bind(
        self, program: SmoothProgram, inner: Mapping[str, InnerFold], changed: frozenset[str]
    ) -> BoundRule:
        """Bind to a batch of data. Called once per call of the layer.

        Args:
            program, inner: As of :meth:`UpdateRule.bind`.
            changed: Names of the quadratic data fields ("q", "b", …) that may differ from the
                previous call, and "sets" or "regularizers" where an atom of these may. All else that
                the program holds is a constant of the structure, without gradient.
        """

    def close(self) -> None:  # noqa: B027 - most prepared rules hold nothing to release
        """Release what is held. Called when the layer is gone."""


class UpdateRule(Plugin):
    """One iteration of an algorithm, written in PyTorch, whose fixed point solves the problem.

    An implementation is built from its config (``UpdateRule(config)``) and keeps no state.

    Attributes:
        api_version, config_class, config: See :class:`Plugin`.
        decides_active_set: Whether one step tells which constraints hold, where the solver's answer
            is too rough to tell. The layer then takes the step's point where it is the better one.
    """

    decides_active_set: ClassVar[bool] = False

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        """Return a preference for this structure when the user names no rule; 0 means never."""
        return 0.0

    def converges(self, structure: ProgramStructure) -> bool:
        """Return whether iterating from ``initial`` finds a solution, so that ``iterate`` may run it."""
        return False

    @abstractmethod
    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        """Return why this rule cannot serve problems of this structure, or None where it can."""

    def inner_problems(self, problem: ParametricProblem) -> Mapping[str, ParametricProblem]:
        """Return the inner problems this rule needs, by the name of the config field that folds them."""
        return {}

    def open(self, structure: ProgramStructure) -> PreparedRule:
        """Return the rule prepared for a structure, as a solver opens a session. Since version 2.

        A rule overrides it where something depends on constants alone: a factorisation, a step size.
        By default every call binds anew.

        Args:
            structure: Of the declared problem.
        """
        return _BoundEachCall(self)

    @abstractmethod
    def bind(self, program: SmoothProgram, inner: Mapping[str, InnerFold]) -> BoundRule:
        """Bind to a batch of data, with nothing known of it beforehand.

        Args:
            program: The problem with its parameters bound; its tensors are on the graph where a
                parameter needs a gradient.
            inner: One fold per entry of :meth:`inner_problems`.
        """


class _BoundEachCall(PreparedRule):
    """A rule without a session of its own."""

    def __init__(self, rule: UpdateRule) -> None:
        self._rule = rule

    def bind(
        self, program: SmoothProgram, inner: Mapping[str, InnerFold], changed: frozenset[str]
    ) -> BoundRule:
        return self._rule.bind(program, inner)
