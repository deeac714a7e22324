"""The arguments of one call: checked, completed with the layer's own tensors, bad samples replaced."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import (
    DtypeError,
    InputError,
    MissingParameterError,
    ShapeError,
    UnexpectedParameterError,
)
from ...param import Param


@dataclass(frozen=True)
class Inputs:
    """Values of all parameters and constants for one call.

    Attributes:
        values: By name; parameters are ``(*shape)`` or ``(B, *shape)``.
        batch: B; 1 if nothing is batched.
        batched: Names of the values that have a batch dimension.
        dtype, device: Of the call; every floating value has them.
    """

    values: Mapping[str, Tensor]
    batch: int
    batched: frozenset[str]
    dtype: torch.dtype
    device: torch.device

    @property
    def needs_grad(self) -> bool:
        return torch.is_grad_enabled() and any(v.requires_grad for v in self.values.values())

    def detached(self) -> Mapping[str, Tensor]:
        return {name: value.detach() for name, value in self.values.items()}

    def with_donor(self, failed: Tensor, donor: int) -> Inputs:
        """Return inputs whose failed rows are copies of a good row, without gradient.

        Args:
            failed: Shape (B,), bool.
            donor: Index of the good row.
        """
        values = dict(self.values)
        for name in self.batched:
            value = values[name]
            mask = failed.reshape(-1, *(1 for _ in value.shape[1:]))
            values[name] = torch.where(mask, value[donor].detach(), value)
        return replace(self, values=values)


def collect(
    declared: Mapping[str, Param],
    passed: Mapping[str, Tensor],
    owned: Mapping[str, Tensor],
    subject: str,
) -> Inputs:
    """Check the arguments of a call and complete them.

    Args:
        declared: The problem's parameters.
        passed: What the caller passed.
        owned: The layer's learnable parameters, module parameters and constants.
        subject: How messages call the layer.

    Raises:
        MissingParameterError, UnexpectedParameterError, ShapeError, DtypeError, InputError: With
            the argument's name.
    """
    _check_names(declared, passed, subject)
    values = {name: passed[name] for name in declared if not declared[name].learnable}
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{subject}: parameter {name!r} is a {type(value).__name__}, expected a torch.Tensor; "
                f"convert it with torch.as_tensor."
            )
    learnable = {name: owned[name] for name in declared if declared[name].learnable}
    dtype, device = _common_type({**values, **learnable}, owned, subject)
    batch, batched = _batch(declared, values, subject)
    for name, value in owned.items():
        if value.device != device:
            raise DtypeError(
                f"{subject}: the parameters are on {device}, the layer's own {name!r} is on "
                f"{value.device}. Move the layer with layer.to({str(device)!r})."
            )
        if value.is_floating_point() and name not in learnable:
            value = value.to(dtype)
        values[name] = value
    return Inputs(values, batch, batched, dtype, device)


def _check_names(declared: Mapping[str, Param], passed: Mapping[str, Tensor], subject: str) -> None:
    expected = [name for name, param in declared.items() if not param.learnable]
    unexpected = [name for name in passed if name not in expected]
    if unexpected:
        name = unexpected[0]
        if name in declared:
            raise UnexpectedParameterError(
                f"{subject}: {name!r} is a learnable parameter of the layer and is not passed; "
                f"set layer.{name}.data, or declare it without init."
            )
        near = difflib.get_close_matches(name, expected, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnexpectedParameterError(
            f"{subject}: unexpected parameter {name!r}.{hint} "
            f"The problem declares: {', '.join(expected) or 'none'}."
        )
    missing = [name for name in expected if name not in passed]
    if missing:
        raise MissingParameterError(
            f"{subject}: missing parameter {', '.join(map(repr, missing))}. "
            f"Pass each declared parameter by name: {', '.join(expected)}."
        )


def _common_type(
    values: Mapping[str, Tensor], owned: Mapping[str, Tensor], subject: str
) -> tuple[torch.dtype, torch.device]:
    first = ""
    for name, value in values.items():
        if not value.is_floating_point():
            raise DtypeError(
                f"{subject}: parameter {name!r} has dtype {value.dtype}, expected a floating dtype; "
                f"convert it with .double() or .float()."
            )
        if value.dtype not in (torch.float32, torch.float64):
            raise DtypeError(
                f"{subject}: parameter {name!r} has dtype {value.dtype}, in which no factorisation "
                f"works; convert it with .double() or .float()."
            )
        first = first or name
        if value.dtype != values[first].dtype or value.device != values[first].device:
            raise DtypeError(
                f"{subject}: parameters differ in dtype or device: {first!r} is "
                f"{values[first].dtype} on {values[first].device}, {name!r} is {value.dtype} on "
                f"{value.device}. Convert them to one dtype and device."
            )
    if first:
        return values[first].dtype, values[first].device
    for value in owned.values():
        if value.is_floating_point():
            return value.dtype, value.device
    return torch.get_default_dtype(), torch.device("cpu")


def _batch(
    declared: Mapping[str, Param], values: Mapping[str, Tensor], subject: str
) -> tuple[int, frozenset[str]]:
    sizes: dict[str, int] = {}
    for name, value in values.items():
        shape = declared[name].shape
        if tuple(value.shape) == shape:
            continue
        if value.ndim == len(shape) + 1 and tuple(value.shape[1:]) == shape:
            sizes[name] = int(value.shape[0])
            continue
        raise ShapeError(
            f"{subject}: parameter {name!r} has shape {tuple(value.shape)}, expected {shape} "
            f"(shared by the batch) or (B, {', '.join(map(str, shape))})."
        )
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name!r} has {size}" for name, size in sizes.items())
        raise ShapeError(
            f"{subject}: batch sizes differ: {shown}. Give all batched parameters one batch size."
        )
    batch = next(iter(sizes.values()), 1)
    if batch == 0:
        raise ShapeError(f"{subject}: the batch is empty (size 0); pass at least one sample.")
    return batch, frozenset(sizes)
