"""What every named set or term offers.

A DECLARED atom holds constants and Params as the user wrote them; ``bind`` gives a BOUND atom, whose
fields are all tensors, each shared by the batch or with a leading batch dimension. A number in
place of a vector is broadcast: bound, it is () or (B, 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ..errors import ProblemError, UnsupportedError
from ..numerics.products import to_dense
from ..numerics.sparse import Matrix
from ..param import Param
from ..quadratic.data import QuadraticData
from ..quadratic.template import QuadraticTemplate

Data = float | Tensor | Param
AtomT = TypeVar("AtomT", bound="Atom")


@dataclass(frozen=True)
class FieldSpec:
    """What an atom expects of one of its fields.

    Attributes:
        dims: Sizes of one sample's value: "n" variables, "m" rows of the atom's matrix (n where it
            has none); () is a number.
        number: Whether a number may stand for a constant vector.
        optional: Whether it may be None.
        infinite: Whether ±inf is allowed and means absent.
    """

    dims: tuple[str, ...] = ()
    number: bool = False
    optional: bool = False
    infinite: bool = False


Specs = Mapping[str, FieldSpec]


@dataclass(frozen=True, eq=False)
class Atom(ABC):
    """A named piece of a problem. Numbers among its fields become float64 tensors.

    Attributes:
        specs: What each field must be, by its name.
    """

    specs: ClassVar[Specs]

    def __post_init__(self) -> None:
        for name in self.specs:
            value = getattr(self, name)
            if isinstance(value, (int, float)):
                tensor = torch.tensor(float(value), dtype=torch.float64)
                object.__setattr__(self, name, tensor)
            elif not isinstance(value, (Tensor, Param)) and not self._may_lack(name, value):
                raise ProblemError(
                    f"{type(self).__name__}: {name} is a {type(value).__name__}, "
                    "expected a number, a tensor or a Param."
                )

    def _may_lack(self, name: str, value: object) -> bool:
        return value is None and self.specs[name].optional

    def _declared(self) -> dict[str, tuple[str, Param]]:
        """Return field -> (parameter name, Param)."""
        return {
            field: (value.name or field, value)
            for field in self.specs
            if isinstance(value := getattr(self, field), Param)
        }

    def params(self, prefix: str) -> dict[str, Param]:
        """Return the Params by parameter name: the Param's own, else its field's.

        Args:
            prefix: How the problem calls this atom; names it in errors.

        Raises:
            ProblemError: If two fields use one name for different Params.
        """
        found: dict[str, Param] = {}
        for field, (name, param) in self._declared().items():
            if found.setdefault(name, param) is not param:
                raise ProblemError(
                    f"{type(self).__name__} ({prefix}): {field} uses the parameter name {name!r} "
                    "of another field. Give one of them Param(..., name=...)."
                )
        return found

    def constants(self, prefix: str) -> dict[str, Tensor]:
        """Return the constant tensors as ``{prefix}.{field}``."""
        return {
            f"{prefix}.{field}": value
            for field in self.specs
            if isinstance(value := getattr(self, field), Tensor)
        }

    def may_be_infinite(self, name: str) -> bool:
        """Whether ±inf in the parameter of that name means absent."""
        return any(
            name == declared and self.specs[field].infinite
            for field, (declared, _) in self._declared().items()
        )

    def bind(self: AtomT, values: Mapping[str, Tensor], prefix: str) -> AtomT:
        """Return the bound atom, with values by the names of ``params`` and ``constants``."""
        bound: dict[str, Tensor] = {}
        for field, spec in self.specs.items():
            declared = getattr(self, field)
            if isinstance(declared, Param):
                value = values[declared.name or field]
                per_sample = spec.number and not declared.shape and value.ndim == 1
                bound[field] = value.unsqueeze(-1) if per_sample else value
            elif isinstance(declared, Tensor):
                bound[field] = values[f"{prefix}.{field}"]
        return replace(self, **bound)

    def detached(self: AtomT) -> AtomT:
        """Return the bound atom with the same numbers, cut off from the graph.

        Atoms that keep tensors elsewhere than in their dataclass fields override it.
        """
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self,
            **{n: v.detach() for n, v in held.items() if isinstance(v, Tensor)},
            **{n: v.detached() for n, v in held.items() if isinstance(v, Atom)},
        )

    def check(self, n: int) -> None:
        """Check the declared atom for n variables.

        Raises:
            ProblemError: If a shape is wrong, or a constant is not floating point, is NaN, is
                infinite where that means nothing, or needs a gradient.
        """
        sizes = self._sizes(n)
        for field, spec in self.specs.items():
            value = getattr(self, field)
            if value is None:
                continue
            shape, expected = tuple(value.shape), tuple(sizes[d] for d in spec.dims)
            if shape != expected and not (spec.number and shape == ()):
                either = f"{expected} or ()" if spec.number else f"{expected}"
                raise ProblemError(
                    f"{type(self).__name__}: {field} has shape {shape}, expected {either} (n = {n}). "
                    "Constants have no batch dimension; use a Param for data that varies."
                )
            if isinstance(value, Tensor):
                self._check_constant(field, value, spec)

    def _sizes(self, n: int) -> dict[str, int]:
        """Return the numbers that ``FieldSpec.dims`` names."""
        sizes = {"n": n, "m": n}
        for field, spec in self.specs.items():
            value = getattr(self, field)
            if value is not None and spec.dims == ("m", "n") and len(value.shape) == 2:
                sizes["m"] = value.shape[0]
        return sizes

    def _check_constant(self, field: str, value: Tensor, spec: FieldSpec) -> None:
        subject = f"{type(self).__name__}: {field}"
        if not value.is_floating_point():
            raise ProblemError(f"{subject} must be floating point, got {value.dtype}.")
        if value.requires_grad:
            raise ProblemError(
                f"{subject} needs a gradient but is given as a constant. Declare {field}="
                f"Param{tuple(value.shape)} and pass it at the call, or Param(..., init=...)."
            )
        if bool(value.isnan().any()) or (bool(value.isinf().any()) and not spec.infinite):
            raise ProblemError(f"{subject} contains NaN or inf, expected finite numbers.")

    def _tensor(self, field: str) -> Tensor:
        value = self._optional(field)
        if value is None:
            raise ProblemError(f"{type(self).__name__}: {field} is None, expected a tensor.")
        return value

    def _optional(self, field: str) -> Tensor | None:
        value = getattr(self, field)
        if isinstance(value, Param):
            raise ProblemError(
                f"{type(self).__name__}: {field} is a Param without a value. Call bind() first."
            )
        return value if isinstance(value, Tensor) else None


@dataclass(frozen=True)
class Projection:
    """A projection, (B, n) -> (B, n), with its factorisations done once.

    Attributes:
        apply: The projection.
        failed: Samples without one that is differentiable, (B,) bool, for which it gives NaN without
            gradient; None for none.
    """

    apply: Callable[[Tensor], Tensor]
    failed: Tensor | None = None

    def __call__(self, y: Tensor) -> Tensor:
        return self.apply(y)


@dataclass(frozen=True, eq=False)
class SetAtom(Atom):
    """A closed convex set that x lies in.

    Attributes:
        has_rows: Whether ``rows`` knows a lowering.
        polyhedral: Whether that lowering consists of linear rows and bounds alone.
        factored: The quadratic data fields that ``factor`` depends on, where the set is recognised from
            such data.
    """

    has_rows: ClassVar[bool] = True
    polyhedral: ClassVar[bool] = True
    factored: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def project(self, y: Tensor) -> Tensor:
        """Return the Euclidean projection, differentiable in y and the data. (B, n) -> (B, n)."""

    def factor(self) -> object:
        """Return what a projection factors of the set's ``factored`` fields; None for nothing."""
        return None

    def prepare(self, factors: Any = None) -> Projection:
        """Return ``project`` with its factorisations done once, and the samples that it fails for.

        Args:
            factors: What ``factor`` of a set with the same ``factored`` fields returned; None factors anew.
        """
        return Projection(self.project)

    @abstractmethod
    def rows(self, n: int) -> QuadraticData:
        """Return the lowering of the bound atom: its constraint fields, on the graph.

        Raises:
            UnsupportedError: If ``has_rows`` is False.
        """

    def declared_rows(self, n: int) -> QuadraticTemplate:
        """Return the lowering of the declared atom, with a Param for each field that depends on one.

        Raises:
            UnsupportedError: If ``has_rows`` is False.
        """
        with torch.enable_grad():
            example = {
                field: torch.ones(param.shape, dtype=torch.float64, requires_grad=True)
                for field, (_, param) in self._declared().items()
            }
            data = replace(self, **example).rows(n)
        fields = {name: _template_field(name, value) for name, value in data.items()}
        absent = torch.full((n,), -torch.inf, dtype=torch.float64)
        return QuadraticTemplate(**fields or {"lower": absent})

    def empty(self, n: int | None = None) -> Tensor:
        """Return whether the bound set is certainly empty. Shape () or (B,), bool, without gradient.

        Args:
            n: Number of variables; without it a test that needs it is left out.
        """
        with torch.no_grad():
            return self._empty(n)

    @abstractmethod
    def _empty(self, n: int | None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Regularizer(Atom):
    """A convex, possibly nonsmooth term of the objective."""

    @property
    def has_prox(self) -> bool:
        """Whether ``prox`` knows a closed form."""
        return type(self).prox is not Regularizer.prox

    @property
    def has_image_prox(self) -> bool:
        """Whether the g of ``split`` has a proximal operator in closed form."""
        return self.has_prox

    @property
    def has_absolute_terms(self) -> bool:
        """Whether the term is a weighted sum of absolute values, and so can be lowered to rows."""
        return type(self).absolute_terms is not Regularizer.absolute_terms

    def value(self, x: Tensor) -> Tensor:
        """Return the term per sample. Shapes (B, n) -> (B,).

        Raises:
            UnsupportedError: If unknown.
        """
        raise UnsupportedError(f"{type(self).__name__} has no value.")

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Return argmin_x value(x) + ‖x - y‖²/(2 step). Shapes (B, n) -> (B, n).

        Args:
            y: (B, n).
            step: A number, () or (B,); > 0.

        Raises:
            UnsupportedError: If there is no closed form.
        """
        raise UnsupportedError(f"{type(self).__name__} has no proximal operator in closed form.")

    def dual_prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Return the proximal operator of the convex conjugate, scaled by ``step``, at y.

        By Moreau's decomposition: y - step·prox(y/step, 1/step). Source: Beck, First-Order Methods in
        Optimization (2017), theorem 6.45. Arguments and errors are those of ``prox``.
        """
        column = as_column(step)
        return y - column * self.prox(y / column, 1 / step)

    def split(self) -> tuple[Tensor | None, Regularizer]:
        """Return D, None for the identity, and g with value(x) = g(Dx) of the bound term.

        D has shape (k, n) or (B, k, n). Where ``g.has_prox`` holds, dual methods can treat the term.
        """
        return None, self

    def absolute_terms(self, n: int) -> tuple[Tensor, Tensor]:
        """Return D, (k, n) or (B, k, n), and w, (k,) or (B, k), with value(x) = Σ w_i |(Dx)_i|.

        Raises:
            UnsupportedError: If the term is not of this form.
        """
        raise UnsupportedError(f"{type(self).__name__} is no weighted sum of absolute values.")


def as_column(value: float | Tensor) -> float | Tensor:
    """Return a per-sample number (B,) as (B, 1), to broadcast against (B, n); others as they are."""
    return value.unsqueeze(-1) if isinstance(value, Tensor) and value.ndim else value


def _template_field(name: str, value: Matrix) -> Tensor | Param:
    dense = to_dense(value)
    # Contiguous, for a broadcast number cannot be loaded from a state_dict.
    return Param(*dense.shape, name=name) if dense.requires_grad else dense.contiguous()


def expanded(value: Tensor, n: int) -> Tensor:
    """Return a view of a number, () or (B, 1), as a vector; vectors as they are."""
    return value.expand(*value.shape[:-1], n)
