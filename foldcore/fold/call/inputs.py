"""The arguments of one call: checked, completed with the layer's own tensors, bad samples replaced."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

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

    @cached_property
    def needing_grad(self) -> Mapping[str, Tensor]:
        """The values that require a gradient, whether or not gradients are enabled, by name."""
        found: dict[str, Tensor] = {}
        for name, value in self.values.items():
            if value.requires_grad:
                found[name] = value
        return found

    @property
    def needs_grad(self) -> bool:
        """Whether gradients are enabled, and some value requires one."""
        return torch.is_grad_enabled() and bool(self.needing_grad)

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


@dataclass(frozen=True)
class Signature:
    """What a call of a layer is given, and what the layer adds; made once per layer.

    Attributes:
        arguments: The parameters that are passed, by name.
        learnable: Names of those that the layer owns.
    """

    arguments: Mapping[str, Param]
    learnable: tuple[str, ...]

    @classmethod
    def of(cls, declared: Mapping[str, Param]) -> Signature:
        """Return the signature of a problem's parameters."""
        return cls(
            {name: param for name, param in declared.items() if not param.learnable},
            tuple(name for name, param in declared.items() if param.learnable),
        )


def collect(
    signature: Signature, passed: Mapping[str, Tensor], owned: Mapping[str, Tensor], subject: str
) -> Inputs:
    """Check the arguments of a call and complete them.

    Args:
        signature: Of the layer.
        passed: What the caller passed.
        owned: The layer's learnable parameters, module parameters and constants.
        subject: How messages call the layer.

    Raises:
        MissingParameterError, UnexpectedParameterError, ShapeError, DtypeError, InputError: With
            the argument's name.
    """
    if passed.keys() != signature.arguments.keys():
        _raise_for_names(signature, passed, subject)
    values: dict[str, Tensor] = {}
    for name in signature.arguments:
        value = passed[name]
        if not isinstance(value, Tensor):
            raise InputError(
                f"{subject}: parameter {name!r} is a {type(value).__name__}, expected a torch.Tensor; "
                f"convert it with torch.as_tensor."
            )
        values[name] = value
    for name in signature.learnable:
        values[name] = owned[name]
    dtype, device = _common_type(values, owned, subject)
    batch, batched = _batch(signature.arguments, values, subject)
    for name, value in owned.items():
        if value.device != device:
            raise DtypeError(
                f"{subject}: the parameters are on {device}, the layer's own {name!r} is on "
                f"{value.device}. Move the layer with layer.to({str(device)!r})."
            )
        if value.dtype != dtype and value.is_floating_point():
            value = value.to(dtype)
        values[name] = value
    return Inputs(values, batch, batched, dtype, device)


def _raise_for_names(signature: Signature, passed: Mapping[str, Tensor], subject: str) -> None:
    expected = list(signature.arguments)
    unexpected = [name for name in passed if name not in expected]
    if unexpected:
        name = unexpected[0]
        if name in signature.learnable:
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
    for name, param in declared.items():
        value, shape = values[name], param.shape
        if value.shape == shape:
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
