"""A function of (x, parameters by name) that the user wrote for one sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CapturedTensorError, ProblemError
from ..portable import PortableFunction

MODULE = "module"
"""Name under which functions receive ``Problem(module=...)`` and prefix of its parameters."""


class UserFunction:
    """One of a problem's functions, callable as (x, params) with the params it asks for by name.

    Args:
        role: "objective", "inequality" or "equality"; used in messages.
        function: ``function(x, **params)``; it may name any of the parameters, and ``module``.
        declared: Names of the problem's parameters.
        module: The module whose parameters the function may use.

    Raises:
        ProblemError: If the function asks for a parameter that is not declared.
    """

    def __init__(
        self,
        role: str,
        function: Callable[..., Tensor],
        declared: frozenset[str],
        module: nn.Module | None,
    ) -> None:
        self.role = role
        self._function = PortableFunction(function)
        self._module = module
        self._names, self._uses_module = _asked_names(role, function, declared, module)

    @property
    def parameter_names(self) -> frozenset[str]:
        """Names of the values it depends on, module parameters with their prefix."""
        if not self._uses_module or self._module is None:
            return frozenset(self._names)
        states = (*self._module.named_parameters(), *self._module.named_buffers())
        return frozenset(self._names) | {f"{MODULE}.{name}" for name, _ in states}

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        arguments: dict[str, Any] = {name: params[name] for name in self._names}
        if self._uses_module:
            arguments[MODULE] = self._functional_module(params)
        value: Tensor = self._function(x, **arguments)
        return value

    def _functional_module(self, params: Mapping[str, Tensor]) -> Callable[..., Any]:
        module = self._module
        if module is None:
            raise ProblemError(f"Problem: {self.role} asks for 'module', but none is given.")
        prefix = f"{MODULE}."
        state = {k[len(prefix) :]: v for k, v in params.items() if k.startswith(prefix)}
        return lambda *inputs: torch.func.functional_call(module, state, inputs)

    def check(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Evaluate once on detached inputs; return the value.

        Raises:
            ProblemError: If the function raises or returns no floating tensor of the right rank.
            CapturedTensorError: If the result needs a gradient, for then a tensor was captured
                instead of passed, and its gradient would be lost.
        """
        try:
            with torch.enable_grad():
                value = self(x, params)
        except Exception as error:
            raise ProblemError(
                f"Problem: {self.role} raised {type(error).__name__} for one sample with x of shape "
                f"{tuple(x.shape)}: {error}. It is called as {self.role}(x, **params), unbatched."
            ) from error
        expected = "a scalar tensor ()" if self.role == "objective" else "a vector (m,)"
        rank = 0 if self.role == "objective" else 1
        if not isinstance(value, Tensor) or value.ndim != rank or not value.is_floating_point():
            shown = (
                f"shape {tuple(value.shape)} and {value.dtype}"
                if isinstance(value, Tensor)
                else type(value).__name__
            )
            raise ProblemError(
                f"Problem: {self.role} returned {shown}; expected {expected} for one sample."
            )
        if value.requires_grad:
            raise CapturedTensorError(self._captured_message())
        return value

    def _captured_message(self) -> str:
        names = _captured(self._function.function)
        shown = f" ({', '.join(names)})" if names else ""
        return (
            f"Problem: {self.role} uses a tensor that needs a gradient but is not a parameter{shown}. "
            f"Its gradient would be lost. Declare it in params and pass it at the call, use "
            f"Param(..., init=...), or give a network as Problem(module=...)."
        )


def _asked_names(
    role: str, function: Callable[..., Tensor], declared: frozenset[str], module: nn.Module | None
) -> tuple[tuple[str, ...], bool]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ProblemError(f"Problem: {role} is no function with a signature: {error}.") from error
    if not parameters:
        raise ProblemError(
            f"Problem: {role} takes no argument; it is called as {role}(x, **params)."
        )
    if any(p.kind is p.VAR_KEYWORD for p in parameters[1:]):
        return tuple(sorted(declared)), module is not None
    named = [p for p in parameters[1:] if p.kind is not p.VAR_POSITIONAL]
    uses_module = any(p.name == MODULE for p in named)
    if uses_module and module is None:
        raise ProblemError(f"Problem: {role} asks for 'module'; give Problem(module=...).")
    asked = [p.name for p in named if p.name in declared]
    undeclared = [
        p.name
        for p in named
        if p.name not in declared and p.name != MODULE and p.default is p.empty
    ]
    if undeclared:
        raise ProblemError(
            f"Problem: {role} asks for {undeclared[0]!r}, which params does not declare. "
            f"Declared: {', '.join(sorted(declared)) or 'none'}."
        )
    return tuple(asked), uses_module


def _captured(function: Callable[..., Any]) -> list[str]:
    """Name the captured tensors and modules that need a gradient, where they can be found."""
    try:
        scope = inspect.getclosurevars(function)
    except TypeError:
        return []
    captured = {**scope.globals, **scope.nonlocals}
    defaults = inspect.signature(function).parameters.values()
    captured.update({p.name: p.default for p in defaults if p.default is not p.empty})
    return [
        repr(name)
        for name, value in captured.items()
        if (isinstance(value, Tensor) and value.requires_grad)
        or (isinstance(value, nn.Module) and any(p.requires_grad for p in value.parameters()))
    ]
