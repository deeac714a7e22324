"""What each torch operation does to the degrees in x that its operands can have.

The table errs on one side only: an operation or argument that it does not know is refused, never
guessed. Operations are recognised by identity, so that a function of the same name is not taken
for torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .degrees import (
    CONSTANT,
    MAX_DEGREE,
    Parts,
    RefusalError,
    Traced,
    leaves,
    product,
    subject,
    touches_x,
    union,
)

Rule = Callable[["Call"], Parts]


class Call:
    """The arguments of one operation; remembers which of them a rule accounted for."""

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.name = name
        self._open: dict[int | str, Any] = dict(enumerate(args))
        self._open.update(kwargs)

    def take(self, position: int, *keywords: str) -> Any:
        """Return an argument, None where it is absent, and count it as accounted for."""
        for key in (position, *keywords):
            if key in self._open:
                return self._open.pop(key)
        return None

    def parts(self, position: int, *keywords: str) -> Parts:
        """Return the parts of an operand that may be a number, a tensor or a list of tensors."""
        return _parts_of(self.take(position, *keywords))

    def tensor(self, position: int, *keywords: str) -> Parts:
        """Return the parts of an operand that must be a tensor.

        Deprecated overloads put a number first and so move every operand by one.
        """
        value = self.take(position, *keywords)
        if not isinstance(value, Tensor):
            raise RefusalError(f"calls {self.name} in a form that is not understood")
        return _parts_of(value)

    def rest(self) -> list[Any]:
        """Return all arguments that are left, as accounted for."""
        values = list(self._open.values())
        self._open.clear()
        return values

    def holds(self, kind: type) -> bool:
        """Return whether an argument not yet accounted for is of this type."""
        return any(isinstance(value, kind) for value in leaves(list(self._open.values())))

    def check_finished(self) -> None:
        """Refuse a traced tensor in an argument that no rule accounted for."""
        left = [v for v in leaves(list(self._open.values())) if isinstance(v, Traced)]
        if left:
            raise RefusalError(
                f"passes {subject(left)} to {self.name} in a place that is not understood"
            )


def _parts_of(value: Any) -> Parts:
    found = [v.parts if isinstance(v, Traced) else CONSTANT for v in leaves(value)]
    return union(*found) if found else CONSTANT


def _linear(call: Call) -> Parts:
    return call.parts(0, "input", "self", "tensors", "tensor")


def _shape_of_other(call: Call) -> Parts:
    call.take(1, "other", "tensor")
    return _linear(call)


def _cast(call: Call) -> Parts:
    parts = _linear(call)
    call.rest()
    return parts


def _view(call: Call) -> Parts:
    if call.holds(torch.dtype):
        raise RefusalError("reinterprets the bits of x (view with a dtype)")
    return _linear(call)


def _sum_of_all(call: Call) -> Parts:
    return _parts_of(call.rest())


def _add(call: Call) -> Parts:
    return union(_linear(call), call.parts(1, "other"))


def _diff(call: Call) -> Parts:
    edges = [call.take(3, "prepend"), call.take(4, "append")]
    return union(_linear(call), *(_parts_of(edge) for edge in edges if edge is not None))


def _pad(call: Call) -> Parts:
    parts, value = _linear(call), call.take(3, "value")
    return parts if value is None or value == 0 else union(parts, CONSTANT)


def _scattered(source: int) -> Rule:
    def rule(call: Call) -> Parts:
        if call.take(4, "reduce") is not None:
            raise RefusalError(f"calls {call.name} with a reduction")
        return union(_linear(call), call.parts(source, "src", "source", "value"))

    return rule


def _embedded(call: Call) -> Parts:
    return union(_linear(call), call.tensor(1, "src"))


_SECOND = ("other", "mat2", "vec2", "vec", "tensor")


def _bilinear(call: Call) -> Parts:
    return product(_linear(call), call.parts(1, *_SECOND))


def _affine(call: Call) -> Parts:
    """input ⊗ weight + bias: linear layers and convolutions."""
    parts = product(call.tensor(0, "input"), call.tensor(1, "weight"))
    bias = call.take(2, "bias")
    return parts if bias is None else union(parts, _parts_of(bias))


def _add_product(call: Call) -> Parts:
    left = call.tensor(1, "mat1", "mat", "vec1", "batch1", "tensor1")
    right = call.tensor(2, "mat2", "vec", "vec2", "batch2", "tensor2")
    return union(call.tensor(0, "input", "self"), product(left, right))


def _multilinear(call: Call) -> Parts:
    parts = CONSTANT
    for operand in leaves(call.rest()):
        parts = product(parts, _parts_of(operand))
    return parts


def _square(call: Call) -> Parts:
    parts = _linear(call)
    return product(parts, parts)


def _squared_difference(call: Call) -> Parts:
    parts = union(call.parts(0, "input"), call.parts(1, "target"))
    return product(parts, parts)


def _power(call: Call) -> Parts:
    base, exponent = _linear(call), call.take(1, "exponent", "n", "other")
    if isinstance(exponent, bool) or not isinstance(exponent, (int, float)):
        raise RefusalError("raises x to a power that is not a constant number")
    if exponent != exponent or exponent < 0 or exponent != int(min(exponent, MAX_DEGREE + 1)):
        raise RefusalError(f"raises x to the power {exponent}")
    parts = CONSTANT
    for _ in range(int(exponent)):
        parts = product(parts, base)
    return parts


def _quotient(numerator: Parts, denominator: Parts) -> Parts:
    if touches_x(denominator):
        raise RefusalError("divides by x")
    return product(numerator, denominator)


def _divide(call: Call) -> Parts:
    if call.take(2, "rounding_mode") is not None:
        raise RefusalError("divides with rounding")
    return _quotient(_linear(call), call.parts(1, "other"))


def _divide_reversed(call: Call) -> Parts:
    return _quotient(call.parts(1), call.parts(0))


def _select(condition: Parts, *choices: Parts) -> Parts:
    if touches_x(condition):
        raise RefusalError("selects by a condition on x")
    return product(condition, union(*choices))


def _where(call: Call) -> Parts:
    condition = call.tensor(0, "condition")
    return _select(condition, call.parts(1, "input", "self"), call.parts(2, "other"))


def _where_method(call: Call) -> Parts:
    condition = call.tensor(1, "condition")
    return _select(condition, call.parts(0), call.parts(2, "other"))


def _masked_fill(call: Call) -> Parts:
    return _select(call.tensor(1, "mask"), _linear(call), call.parts(2, "value"))


def operation_key(func: Callable[..., Any]) -> Any:
    """Return what identifies an operation: the function, or the attribute behind a getter."""
    return getattr(func, "__self__", func) if getattr(func, "__name__", "") == "__get__" else func


def operation_name(func: Callable[..., Any]) -> str:
    """Return the name of an operation for a message."""
    key = operation_key(func)
    return str(getattr(key, "__name__", None) or getattr(func, "__name__", None) or func)


def named(names: str, *owners: Any) -> Iterator[Any]:
    """Yield the operations of these names that the owners have; versions of torch differ."""
    for name in names.split():
        for owner in owners:
            if hasattr(owner, name):
                yield getattr(owner, name)


_TORCH = (torch, torch.Tensor)
_F = torch.nn.functional


def _table() -> dict[Any, Rule]:
    groups: list[tuple[Rule, Iterable[Any]]] = [
        (_linear, named(
            "sum mean neg negative positive reshape flatten ravel unflatten squeeze unsqueeze "
            "expand broadcast_to repeat tile roll flip fliplr flipud rot90 cumsum diag diagonal "
            "diag_embed diagflat trace tril triu chunk split split_with_sizes unbind tensor_split "
            "hsplit vsplit dsplit transpose swapaxes swapdims permute movedim moveaxis t T mT H mH "
            "adjoint clone contiguous cpu cuda double float take gather index_select "
            "take_along_dim select narrow unfold cat concat concatenate stack hstack vstack dstack "
            "column_stack row_stack __getitem__ __neg__ __pos__ __reversed__", *_TORCH)),
        (_linear, named("diagonal", torch.linalg)),
        (_view, named("view", torch.Tensor)),
        (_cast, named("to type", torch.Tensor)),
        (_shape_of_other, named("expand_as view_as reshape_as type_as", torch.Tensor)),
        (_sum_of_all, named("broadcast_tensors meshgrid block_diag", torch)),
        (_sum_of_all, named("atleast_1d atleast_2d atleast_3d", torch)),
        (_add, named("add sub subtract rsub __add__ __radd__ __sub__ __rsub__", *_TORCH)),
        (_diff, named("diff", *_TORCH)),
        (_pad, named("pad", _F)),
        (_scattered(3), named("scatter scatter_add index_add index_copy index_fill", *_TORCH)),
        (_embedded, named("select_scatter slice_scatter diagonal_scatter", *_TORCH)),
        (_bilinear, named(
            "mul multiply matmul mm mv bmm dot inner outer ger vdot tensordot kron cross "
            "__mul__ __rmul__ __matmul__ __rmatmul__", *_TORCH)),
        (_bilinear, named("matmul cross", torch.linalg)),
        (_affine, named("linear conv1d conv2d conv3d", _F)),
        (_affine, named("conv1d conv2d conv3d", torch)),
        (_add_product, named("addmm addmv addbmm baddbmm addr addcmul", *_TORCH)),
        (_multilinear, named("einsum", torch)),
        (_multilinear, named("multi_dot", torch.linalg)),
        (_square, named("square var", *_TORCH)),
        (_squared_difference, named("mse_loss", _F)),
        (_power, named("pow __pow__ matrix_power", *_TORCH)),
        (_power, named("matrix_power", torch.linalg)),
        (_divide, named("div divide true_divide __div__ __truediv__", *_TORCH)),
        (_divide_reversed, named("__rdiv__ __rtruediv__", torch.Tensor)),
        (_where, named("where", torch)),
        (_where_method, named("where", torch.Tensor)),
        (_masked_fill, named("masked_fill", *_TORCH)),
    ]  # fmt: skip
    return {key: rule for rule, keys in groups for key in keys}


RULES: Mapping[Any, Rule] = _table()
