"""Which named set the constraints of quadratic data form."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..errors import ProblemError
from ..numerics.products import to_dense
from ..numerics.sparse import Matrix
from ..param import Sparse
from ..quadratic.data import QuadraticData
from ..quadratic.template import QuadraticTemplate
from .base import SetAtom
from .sets import AffineSet, Box, BoxHyperplane, HalfSpace


def recognise_set(template: QuadraticTemplate) -> Callable[[QuadraticData], SetAtom] | None:
    """Return how to build the one atom that is the template's feasible set, or None if there is none.

    Only bounds (or nothing) are a Box, one equality with or without bounds is a BoxHyperplane, several
    without are an AffineSet, one inequality alone is a HalfSpace. Several sparse equalities are
    none: their closed form would need a dense factorisation. Neither are constant ones whose rows
    depend on each other.

    Args:
        template: Its objective is ignored.

    Returns:
        A function from bound data of that template to the bound atom.
    """
    equalities, inequalities, curved = (
        0 if v is None else v.shape[0] for v in (template.b, template.h, template.quadratic_r)
    )
    bounded = template.lower is not None or template.upper is not None
    if curved or (inequalities and (equalities or bounded or inequalities > 1)):
        return None
    if inequalities:
        return _half_space
    if equalities == 0:
        return _box
    if equalities == 1:
        return _box_hyperplane
    if bounded or isinstance(template.A, Sparse):
        return None
    # Dependent rows have no closed form that is differentiable in each of them; an inner problem copes.
    return None if template.has_dependent_equalities else _affine_set


def _box(data: QuadraticData) -> SetAtom:
    return Box(data.lower, data.upper)


def _half_space(data: QuadraticData) -> SetAtom:
    return HalfSpace(*_single_row("G", data.G, "h", data.h))


def _box_hyperplane(data: QuadraticData) -> SetAtom:
    return BoxHyperplane(*_single_row("A", data.A, "b", data.b), data.lower, data.upper)


def _affine_set(data: QuadraticData) -> SetAtom:
    matrix, right = _present("A", data.A), _present("b", data.b)
    return AffineSet(matrix, right)


def _single_row(
    matrix: str, left: Matrix | None, vector: str, right: Tensor | None
) -> tuple[Tensor, Tensor]:
    return _present(matrix, left).squeeze(-2), _present(vector, right).squeeze(-1)


def _present(name: str, value: Matrix | None) -> Tensor:
    if value is None:
        raise ProblemError(f"recognise_set: the data lacks {name}, which its template has.")
    return to_dense(value)
