"""Problem: a parametric problem given by PyTorch functions of one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..atoms import Regularizer, SetAtom
from ..errors import ProblemError, RecognitionError
from ..param import Param
from ..portable import PortableFunction
from ..program.functions import BatchedFunction
from ..program.lowering import lowered_structure, without_rows
from ..program.program import SmoothProgram
from ..program.structure import ProblemClass, ProgramStructure, quadratic_structure
from ..program.user_function import UserFunction
from ..quadratic.data import QuadraticData, merge_data
from ..quadratic.template import QuadraticTemplate
from ..solution import Duals
from .declaration import Bound, Declaration
from .parametric import ParametricProblem, integer_columns
from .recognition.extraction import Extracted, constant_values, extract
from .recognition.separable import is_separable
from .recognition.trace import NotPolynomial

Function = Callable[..., Tensor]

_ALLOWED: dict[str, frozenset[ProblemClass]] = {
    "lp": frozenset({ProblemClass.LP}),
    "qp": frozenset({ProblemClass.LP, ProblemClass.QP, ProblemClass.NONCONVEX_QP}),
    "qcqp": frozenset(ProblemClass) - {ProblemClass.NLP},
}


class Problem(ParametricProblem):
    """minimise objective(x) + Σ regularizers  s.t.  inequality(x) <= 0, equality(x) = 0, bounds, sets.

    Functions are written for ONE sample: ``function(x, **params)`` with x of shape (n,), and each
    asks for the parameters it uses by name. Where they are proven quadratic or affine in x
    (:mod:`foldcore.problem.recognition`), LP, QP and QCQP solvers accept the problem.

    Args:
        n: Number of variables.
        objective: Returns a scalar tensor.
        params: Parameters by name.
        inequality, equality: Return vectors (m,) and (p,).
        lower, upper: Bounds: a number, a tensor (n,) or a ``Param(n)``; ±inf means absent.
        regularizers: Nonsmooth terms of the objective, such as ``L1(weight)``.
        constraints: Sets that x lies in, such as ``CappedSimplex(k)``.
        module: A network that functions may call under the name ``module``; its parameters are
            the layer's.
        structure: Assert "lp", "qp" or "qcqp". Where the proof fails the assertion is taken, and
            compared with the functions at every returned point.
        convex: Declare convexity, where it cannot be known from constant matrices.
        integer: Columns of x that must be whole numbers: indices, or a bool tensor (n,).

    Raises:
        ProblemError: If a function fails on one sample or returns a wrong shape, names repeat or
            shapes disagree.
        CapturedTensorError: If a function captured a tensor that needs a gradient.
        RecognitionError: If an asserted structure cannot hold.
        UnsupportedError: If terms or sets that cannot be lowered meet further constraints.
    """

    def __init__(
        self,
        n: int,
        objective: Function,
        params: Mapping[str, Param] | None = None,
        *,
        inequality: Function | None = None,
        equality: Function | None = None,
        lower: Bound = None,
        upper: Bound = None,
        regularizers: Sequence[Regularizer] = (),
        constraints: Sequence[SetAtom] = (),
        module: nn.Module | None = None,
        structure: Literal["lp", "qp", "qcqp"] | None = None,
        convex: bool | None = None,
        integer: Sequence[int] | Tensor | None = None,
    ) -> None:
        self._arguments = (
            n, PortableFunction(objective), params, _portable(inequality), _portable(equality),
            lower, upper, regularizers, constraints, module, structure, convex, integer,
        )  # fmt: skip
        if not isinstance(n, int) or n < 1:
            raise ProblemError(f"Problem: n is {n!r}, expected an integer >= 1.")
        self._n = n
        columns = integer_columns(integer, n, "Problem")
        self._module = module
        self._sets, self._regularizers = tuple(constraints), tuple(regularizers)
        bounds = {"lower": lower, "upper": upper}
        self._declared = Declaration(
            n, params or {}, bounds, self._sets, self._regularizers, module
        )
        self._functions = self._wrap(
            {"objective": objective, "equality": equality, "inequality": inequality}
        )
        example = self._declared.example()
        for function in self._functions.values():
            function.check(torch.full((n,), 0.5, dtype=torch.float64), example)
        self._extracted: dict[str, Extracted] = {}
        reasons = self._recognise(example, asserted=structure is not None)
        self._constants = dict(self._declared.constants)
        for role, extracted in self._extracted.items():
            self._constants.update(constant_values(role, extracted, example))
        described = self._describe(example, convex, "; ".join(reasons))
        self._structure = replace(described, integer=columns)
        self._lowered_structure = lowered_structure(
            self._structure, self._regularizers, self._sets, {**example, **self._constants}
        )
        if structure is not None and self._structure.problem_class not in _ALLOWED[structure]:
            raise RecognitionError(
                f"Problem: structure={structure!r} is asserted, but the problem is of class "
                f"{self._structure.problem_class.value}. {self._structure.reason}"
            )

    def __reduce__(self) -> tuple[Callable[..., Problem], tuple[object, ...]]:
        return _rebuild, self._arguments

    # Set-up

    def _wrap(self, given: Mapping[str, Function | None]) -> dict[str, UserFunction]:
        declared = frozenset(self._declared.params)
        return {
            role: UserFunction(role, function, declared, self._module)
            for role, function in given.items()
            if function is not None
        }

    def _recognise(self, example: Mapping[str, Tensor], asserted: bool) -> list[str]:
        reasons: list[str] = []
        for role, function in self._functions.items():
            found = extract(function, self._n, example, asserted)
            if isinstance(found, NotPolynomial):
                reasons.append(f"{role}: {found.reason}")
            else:
                self._extracted[role] = found
        return reasons

    def _describe(
        self, example: Mapping[str, Tensor], convex: bool | None, reason: str
    ) -> ProgramStructure:
        data = self._bind_data({**example, **self._constants}, frozenset())
        varying = self._varying_fields()
        template = QuadraticTemplate.template(data, varying)
        smooth = {role for role in self._functions if role not in self._extracted}
        rows = {
            role: int(self._functions[role](self._probe(), example).shape[0])
            for role in smooth - {"objective"}
        }
        base = quadratic_structure(template)
        known = base.convex if convex is None else convex
        if "objective" in smooth or smooth:
            known = convex
        return replace(
            base,
            n_equality=base.n_equality + rows.get("equality", 0),
            n_inequality=base.n_inequality + rows.get("inequality", 0),
            problem_class=ProblemClass.NLP if smooth else _classify(base, data, known),
            convex=known,
            smooth_objective="objective" in smooth,
            separable_objective="objective" in smooth
            and is_separable(self._functions["objective"], self._n, example),
            smooth_constraints=bool(smooth - {"objective"}),
            reason=reason,
            sets=tuple(type(atom).__name__ for atom in self._sets),
            varying_atoms=self._declared.varying_atoms(),
            without_rows=without_rows(self._regularizers, self._sets),
            only_set=len(self._sets) == 1
            and not self._declared.bounds
            and len(self._functions) == 1,
            has_regularizers=bool(self._regularizers),
            has_prox=len(self._regularizers) == 1 and self._regularizers[0].has_prox,
            has_image_prox=bool(self._regularizers)
            and all(term.has_image_prox for term in self._regularizers),
        )

    def _probe(self) -> Tensor:
        return torch.full((self._n,), 0.5, dtype=torch.float64)

    def _varying_fields(self) -> frozenset[str]:
        varying = {
            piece.field
            for extracted in self._extracted.values()
            for piece in extracted.pieces
            if piece.depends
        }
        varying |= {
            name for name, bound in self._declared.bounds.items() if isinstance(bound, Param)
        }
        for atom in self._sets:
            if atom.has_rows:
                varying |= set(atom.declared_rows(self._n).varying)
        return frozenset(varying)

    # ParametricProblem

    @property
    def n(self) -> int:
        return self._n

    @property
    def params(self) -> Mapping[str, Param]:
        return self._declared.params

    @property
    def constants(self) -> Mapping[str, Tensor]:
        return self._constants

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self._declared.modules

    @property
    def structure(self) -> ProgramStructure:
        return self._structure

    @property
    def lowered_structure(self) -> ProgramStructure:
        return self._lowered_structure

    def relaxed(self) -> Problem:
        return _rebuild(*self._arguments[:-1], None) if self._structure.integer else self

    def may_be_infinite(self, name: str) -> bool:
        return self._declared.may_be_infinite(name)

    def bind(self, values: Mapping[str, Tensor], batch: int) -> SmoothProgram:
        batched = frozenset(
            name
            for name, param in self._declared.params.items()
            if values[name].ndim == len(param.shape) + 1
        )
        functions = {
            role: BatchedFunction(
                function,
                {name: values[name] for name in function.parameter_names},
                batched & function.parameter_names,
            )
            for role, function in self._functions.items()
            if role not in self._extracted or not self._extracted[role].proven
        }
        smooth = {role: f for role, f in functions.items() if role not in self._extracted}
        template = self._structure.template
        linear = [0 if v is None else int(v.shape[0]) for v in (template.b, template.h)]
        curved = 0 if template.quadratic_r is None else int(template.quadratic_r.shape[0])
        atoms = self._declared.bound_atoms(values)
        return SmoothProgram(
            self._bind_data(values, batched),
            batch=batch,
            structure=self._structure,
            params={name: values[name] for name in self._declared.params},
            batched=batched,
            objective=smooth.get("objective"),
            equality=smooth.get("equality"),
            inequality=smooth.get("inequality"),
            function_rows=(
                self._structure.n_equality - linear[0],
                self._structure.n_inequality - linear[1] - curved,
            ),
            sets=tuple(a for a in atoms if isinstance(a, SetAtom)),
            regularizers=tuple(a for a in atoms if isinstance(a, Regularizer)),
            asserted={
                role: (f, self._user_rows(role))
                for role, f in functions.items()
                if role in self._extracted
            },
        )

    def _bind_data(self, values: Mapping[str, Tensor], batched: frozenset[str]) -> QuadraticData:
        parts = []
        for role, extracted in self._extracted.items():
            found = {
                piece.field: piece.value(values, batched)
                if piece.depends
                else values[f"{role}.{piece.field}"]
                for piece in extracted.pieces
            }
            parts.append(QuadraticData(n=self._n, **found))
        bounds = self._declared.bound_values(values)
        parts.append(QuadraticData(n=self._n, **bounds))
        for atom in self._declared.bound_atoms(values):
            if isinstance(atom, SetAtom) and atom.has_rows:
                parts.append(atom.rows(self._n))
        return merge_data(self._n, parts)

    def order_duals(self, duals: Duals, *, inverse: bool = False) -> Duals:
        extracted = self._extracted.get("inequality")
        if extracted is None or not extracted.curved_rows:
            return duals
        order = self._user_rows("inequality")
        order += sorted(set(range(self._structure.n_inequality)) - set(order))
        if inverse:
            order = torch.argsort(torch.tensor(order)).tolist()
        return replace(duals, inequality=duals.inequality[..., order])

    def _user_rows(self, role: str) -> list[int]:
        """Return the program's row of each row of an extracted function."""
        extracted = self._extracted[role]
        linear = self._structure.template.h
        offset = 0 if role != "inequality" or linear is None else int(linear.shape[0])
        position = {row: i for i, row in enumerate(extracted.affine_rows)}
        position.update({row: offset + i for i, row in enumerate(extracted.curved_rows)})
        return [position[row] for row in sorted(position)]


def _portable(function: Function | None) -> PortableFunction | None:
    return None if function is None else PortableFunction(function)


def _rebuild(
    n: int,
    objective: PortableFunction,
    params: Mapping[str, Param] | None,
    inequality: PortableFunction | None,
    equality: PortableFunction | None,
    lower: Bound,
    upper: Bound,
    regularizers: Sequence[Regularizer],
    constraints: Sequence[SetAtom],
    module: nn.Module | None,
    structure: Literal["lp", "qp", "qcqp"] | None,
    convex: bool | None,
    integer: Sequence[int] | Tensor | None,
) -> Problem:
    """Make a problem again from its arguments: what copies and pickles carry."""
    return Problem(
        n,
        objective.function,
        params,
        inequality=None if inequality is None else inequality.function,
        equality=None if equality is None else equality.function,
        lower=lower,
        upper=upper,
        regularizers=regularizers,
        constraints=constraints,
        module=module,
        structure=structure,
        convex=convex,
        integer=integer,
    )


def _classify(base: ProgramStructure, data: QuadraticData, convex: bool | None) -> ProblemClass:
    quadratic_rows = data.n_quadratic > 0
    if data.P is None and not quadratic_rows:
        return ProblemClass.LP
    if convex is False:
        return ProblemClass.NONCONVEX_QCQP if quadratic_rows else ProblemClass.NONCONVEX_QP
    return ProblemClass.QCQP if quadratic_rows else ProblemClass.QP
