"""Terms made of other things: of a set, of another term and an operator, of any proximal operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ProblemError, UnsupportedError
from ..numerics.products import matvec
from ..param import Param
from ..portable import PortableFunction
from .base import Data, FieldSpec, Regularizer, SetAtom, Specs, as_column


@dataclass(frozen=True, eq=False)
class Indicator(Regularizer):
    """0 on a set and +inf outside: a constraint as a term, for rules that take one term by its prox."""

    set_atom: SetAtom
    specs: ClassVar[Specs] = {}

    def params(self, prefix: str) -> dict[str, Param]:
        return self.set_atom.params(prefix)

    def constants(self, prefix: str) -> dict[str, Tensor]:
        return self.set_atom.constants(prefix)

    def may_be_infinite(self, name: str) -> bool:
        return self.set_atom.may_be_infinite(name)

    def bind(self, values: Mapping[str, Tensor], prefix: str) -> Indicator:
        return replace(self, set_atom=self.set_atom.bind(values, prefix))

    def check(self, n: int) -> None:
        self.set_atom.check(n)

    def value(self, x: Tensor) -> Tensor:
        """Return 0 where x is its own projection up to 100·n roundings, else +inf."""
        gap = (x - self.set_atom.project(x)).abs().amax(-1)
        limit = 100 * x.shape[-1] * torch.finfo(x.dtype).eps * (1 + x.abs().amax(-1))
        return torch.where(gap <= limit, torch.zeros_like(gap), float("inf"))

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Project y on the set, whatever the step. Source: Beck (2017), theorem 6.24."""
        return self.set_atom.project(y)


@dataclass(frozen=True, eq=False)
class Composition(Regularizer):
    """term(operator x), such as isotropic total variation. operator (m, n); term in m variables.

    It has no proximal operator in closed form; dual rules use that of ``term``.
    """

    term: Regularizer
    operator: Tensor | Param
    specs: ClassVar[Specs] = {"operator": FieldSpec(("m", "n"))}

    @property
    def has_prox(self) -> bool:
        return False

    @property
    def has_image_prox(self) -> bool:
        return self.term.has_image_prox

    @property
    def has_absolute_terms(self) -> bool:
        return self.term.has_absolute_terms

    def params(self, prefix: str) -> dict[str, Param]:
        found = super().params(prefix)
        for name, param in self.term.params(f"{prefix}.term").items():
            if found.setdefault(name, param) is not param:
                raise ProblemError(
                    f"Composition ({prefix}): the term uses the parameter name {name!r} of the "
                    "operator. Give one of them Param(..., name=...)."
                )
        return found

    def constants(self, prefix: str) -> dict[str, Tensor]:
        return {**super().constants(prefix), **self.term.constants(f"{prefix}.term")}

    def may_be_infinite(self, name: str) -> bool:
        return self.term.may_be_infinite(name)

    def bind(self, values: Mapping[str, Tensor], prefix: str) -> Composition:
        bound = super().bind(values, prefix)
        return replace(bound, term=self.term.bind(values, f"{prefix}.term"))

    def check(self, n: int) -> None:
        super().check(n)
        self.term.check(int(self.operator.shape[-2]))

    def value(self, x: Tensor) -> Tensor:
        return self.term.value(matvec(self._tensor("operator"), x))

    def split(self) -> tuple[Tensor | None, Regularizer]:
        operator = self._tensor("operator")
        inner, outer = self.term.split()
        return (operator if inner is None else inner @ operator), outer

    def absolute_terms(self, n: int) -> tuple[Tensor, Tensor]:
        operator = self._tensor("operator")
        inner, weights = self.term.absolute_terms(int(operator.shape[-2]))
        return inner @ operator, weights


class ProximalTerm(Regularizer):
    """A term known by any callable proximal operator.

    Both functions are called on a whole batch: ``prox(y, step, **params)`` with y (B, n) and step a
    number, () or (B, 1), returning (B, n), and ``value(x, **params)`` returning (B,). Each parameter
    comes as ``(*shape)`` or ``(B, *shape)``; a scalar one as () or (B, 1), so that it broadcasts.

    Args:
        prox: argmin_x R(x) + ‖x - y‖²/(2 step), differentiable by autograd in y and the parameters.
            R should be convex; this is taken on trust.
        value: R; None where unknown.
        params: Numbers, tensors or Params by the name under which the functions receive them.
    """

    specs: ClassVar[Specs] = {}

    def __init__(
        self,
        prox: Callable[..., Tensor],
        value: Callable[..., Tensor] | None = None,
        params: Mapping[str, Data] | None = None,
    ) -> None:
        own = {
            "_prox": _portable(prox),
            "_value": None if value is None else _portable(value),
            "_data": {name: _as_data(name, given) for name, given in (params or {}).items()},
        }
        for name, attribute in own.items():
            object.__setattr__(self, name, attribute)

    _prox: PortableFunction
    _value: PortableFunction | None
    _data: dict[str, Tensor | Param]

    def _declared(self) -> dict[str, tuple[str, Param]]:
        return {
            name: (value.name or name, value)
            for name, value in self._data.items()
            if isinstance(value, Param)
        }

    def constants(self, prefix: str) -> dict[str, Tensor]:
        return {
            f"{prefix}.{name}": value
            for name, value in self._data.items()
            if isinstance(value, Tensor)
        }

    def may_be_infinite(self, name: str) -> bool:
        return False

    def bind(self, values: Mapping[str, Tensor], prefix: str) -> ProximalTerm:
        bound: dict[str, Data] = {}
        for name, declared in self._data.items():
            if isinstance(declared, Param):
                value = values[declared.name or name]
                per_sample = not declared.shape and value.ndim == 1
                bound[name] = value.unsqueeze(-1) if per_sample else value
            else:
                bound[name] = values[f"{prefix}.{name}"]
        return ProximalTerm(self._prox, self._value, bound)

    def detached(self) -> ProximalTerm:
        values = {n: v.detach() if isinstance(v, Tensor) else v for n, v in self._data.items()}
        return ProximalTerm(self._prox, self._value, values)

    def check(self, n: int) -> None:
        for name, value in self._data.items():
            if isinstance(value, Tensor):
                self._check_constant(name, value, FieldSpec())

    def value(self, x: Tensor) -> Tensor:
        if self._value is None:
            raise UnsupportedError("ProximalTerm: its value is unknown; declare it with value=.")
        result: Tensor = self._value(x, **self._data)
        return result

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Return what the user's function returns.

        Raises:
            ProblemError: If it is no tensor of y's shape.
        """
        result = self._prox(y, as_column(step), **self._data)
        if not isinstance(result, Tensor) or result.shape != y.shape:
            shown = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ProblemError(
                f"ProximalTerm: prox returned {shown}, expected a tensor of shape {tuple(y.shape)}: "
                "it is called on a whole batch."
            )
        return result


def _portable(function: Callable[..., Tensor]) -> PortableFunction:
    return function if isinstance(function, PortableFunction) else PortableFunction(function)


def _as_data(name: str, value: Data) -> Tensor | Param:
    if isinstance(value, (int, float)):
        return torch.tensor(float(value), dtype=torch.float64)
    if not isinstance(value, (Tensor, Param)):
        raise ProblemError(
            f"ProximalTerm: {name} is a {type(value).__name__}, "
            "expected a number, a tensor or a Param."
        )
    return value
