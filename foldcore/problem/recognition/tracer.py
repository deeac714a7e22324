"""Tracer: sees every torch operation of a function and applies the rules for degrees in x."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .degrees import Parts, RefusalError, Traced, leaves, subject, touches_x, union
from .operations import RULES, Call, Rule, named, operation_key, operation_name

LEAK = "hides from the trace how a tensor depends on x or a parameter"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RANDOM = _names(
    "rand randn randint randperm rand_like randn_like randint_like normal bernoulli multinomial "
    "poisson binomial dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout "
    "feature_alpha_dropout rrelu gumbel_softmax uniform_ normal_ random_ bernoulli_ cauchy_ "
    "exponential_ geometric_ log_normal_ _standard_gamma _sample_dirichlet"
)
_FORCED = _names(
    "__float__ __int__ __index__ __complex__ __array__ __contains__ __dlpack__ __format__ "
    "__repr__ __reduce_ex__ __deepcopy__ item tolist numpy data_ptr equal allclose "
    "is_nonzero"
)
_CUTS = _names("detach detach_copy data grad tensor new_tensor scalar_tensor")
_HIDDEN_WRITES = _names("batch_norm instance_norm native_batch_norm embedding embedding_bag")
_SHARING = _names("as_tensor asarray from_numpy frombuffer from_file")
_METADATA = frozenset(
    named(
        "shape ndim dtype itemsize layout size dim ndimension numel nelement element_size "
        "is_floating_point is_complex is_signed result_type __len__",
        torch,
        torch.Tensor,
    )
)
_DEVICE: Any = torch.Tensor.device
_TO: Any = torch.Tensor.to
_GETITEM: Any = torch.Tensor.__getitem__
_FILLED = frozenset(
    named("zeros_like ones_like full_like new_zeros new_ones new_full", torch, torch.Tensor)
)
_SAME_VALUE = frozenset(named("cpu cuda", torch.Tensor))
_WRITES = _names(
    "__setitem__ __iadd__ __isub__ __imul__ __idiv__ __itruediv__ __ifloordiv__ __imod__ __ipow__ "
    "__iand__ __ior__ __ixor__ __ilshift__ __irshift__"
)


class Tracer(TorchFunctionMode):
    """Sees every torch operation of the function, whether it touches traced tensors or not.

    Args:
        device: Of x, as the function shall see it.
        rules: What each operation on x does to the parts of its operands; others are refused.

    Attributes:
        refusal: The first reason against a proof. It is kept because the function may catch the
            exception that carried it and go on along another path.
    """

    def __init__(self, device: torch.device, rules: Mapping[Any, Rule] = RULES) -> None:
        super().__init__()
        self._rules = rules
        self.refusal: str | None = None
        self._device = device
        self._created: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        try:
            return self._apply(func, args, kwargs or {})
        except Exception as error:
            if self.refusal is None:
                self.refusal = raised(error)
            raise

    def _apply(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        # Overloads of operators are called "add_.Tensor".
        name, found = operation_name(func).split(".")[0], list(leaves([args, kwargs]))
        traced = [v for v in found if isinstance(v, Traced)]
        if any(isinstance(v, Tensor) and not isinstance(v, Traced) and v.is_meta for v in found):
            raise RefusalError(LEAK)
        if name in _RANDOM or any(isinstance(v, torch.Generator) for v in found):
            raise RefusalError(f"draws random numbers ({name})")
        if any(callable(v) and not isinstance(v, (type, torch.device)) for v in found):
            raise RefusalError(f"passes a Python function to {name}")
        self._check_writes(func, name, args, kwargs, traced)
        if not traced:
            return self._run_plain(func, name, args, kwargs, found)
        if type(func).__module__ == "torch._ops" or name in _HIDDEN_WRITES:
            # They may write to arguments, which their names do not tell.
            raise RefusalError(f"passes {subject(traced)} to the operator {func}")
        key = operation_key(func)
        if key in _METADATA:
            return func(*to_meta(args), **to_meta(kwargs))
        if key is _DEVICE:
            return self._device
        if name == "__bool__":
            raise RefusalError(f"branches on {subject(traced)}")
        if name in _FORCED:
            raise RefusalError(f"leaves torch with {subject(traced)} ({name})")
        if key in _FILLED and not any(isinstance(v, Traced) for v in leaves([args[1:], kwargs])):
            # Real tensors, so that they can serve as masks and be filled in place.
            return self._keep(func(*to_meta(args), **{"device": self._device, **kwargs}))
        _check_context(traced)
        if name in _CUTS:
            raise RefusalError(f"cuts the gradient of {subject(traced)} ({name})")
        parts = self._parts_after(key, name, args, kwargs, traced)
        return _wrap(_run_traced(func, key, name, args, kwargs), parts, name)

    def _parts_after(
        self, key: Any, name: str, args: Any, kwargs: Any, traced: list[Traced]
    ) -> Parts:
        seen = union(*(tensor.parts for tensor in traced))
        if not touches_x(seen):
            return seen
        if key not in self._rules:
            raise RefusalError(f"applies {name} to x")
        call = Call(name, args, kwargs)
        parts = self._rules[key](call)
        call.check_finished()
        return parts

    def _run_plain(
        self, func: Callable[..., Any], name: str, args: Any, kwargs: Any, found: list[Any]
    ) -> Any:
        result = func(*args, **kwargs)
        if name not in _SHARING and not any(isinstance(v, Tensor) for v in found):
            self._keep(result)
        return result

    def _keep(self, result: Any) -> Any:
        """Remember a tensor that the function made itself, and may therefore write to."""
        self._created += [result] if isinstance(result, Tensor) else []
        return result

    def _check_writes(
        self, func: Any, name: str, args: Any, kwargs: Any, traced: list[Traced]
    ) -> None:
        out = kwargs.get("out")
        in_place = name.endswith("_") and not name.endswith("__")
        in_place = in_place or name in _WRITES or bool(kwargs.get("inplace"))
        setter = getattr(func, "__name__", "") in ("__set__", "__delete__")
        if not (in_place or setter or out is not None):
            return
        if setter or traced:
            what = f"with {subject(traced)}" if traced else "an attribute of a tensor"
            raise RefusalError(f"writes in place {what} ({name})")
        made = {tensor.untyped_storage().data_ptr() for tensor in self._created}
        written = leaves(out if out is not None else args[0])
        if any(tensor.untyped_storage().data_ptr() not in made for tensor in written):
            raise RefusalError(f"writes to a tensor that it did not make itself ({name})")


def _check_context(traced: list[Traced]) -> None:
    if not torch.is_grad_enabled():
        raise RefusalError(f"cuts the gradient of {subject(traced)} (no_grad)")
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise RefusalError(f"computes with {subject(traced)} under autocast")


def _run_traced(func: Callable[..., Any], key: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Run an operation on shapes alone."""
    if key in _SAME_VALUE:
        return args[0].payload
    if key is _TO:
        return _cast(*args, **kwargs)
    if key is _GETITEM and isinstance(args[0], Traced):
        args = (args[0], _without_masks(args[1]))
    return func(*to_meta(args), **to_meta(kwargs))


def _cast(tensor: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Cast as Tensor.to does, without the move to a device."""
    payload: Tensor = to_meta(tensor)
    for value in leaves([args, kwargs]):
        if isinstance(value, torch.dtype):
            return payload.to(value)
        if isinstance(value, Tensor):
            return payload.to(value.payload.dtype if isinstance(value, Traced) else value.dtype)
    return payload


def _without_masks(index: Any) -> Any:
    """Replace constant masks by the indices they select, which have a shape without data."""
    items: list[Any] = []
    for item in index if isinstance(index, tuple) else (index,):
        mask = isinstance(item, Tensor) and not isinstance(item, Traced)
        mask = mask and item.dtype is torch.bool and item.ndim > 0
        items.extend(item.nonzero(as_tuple=True) if mask else (item,))
    return tuple(items) if isinstance(index, tuple) or len(items) > 1 else items[0]


def to_meta(value: Any) -> Any:
    """Return arguments with every tensor replaced by one on the meta device."""
    if isinstance(value, Traced):
        return value.payload
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            raise RefusalError("computes with a sparse tensor")
        return value.detach().to("meta")
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, slice) and any(isinstance(v, Traced) for v in leaves(value)):
        raise RefusalError(f"leaves torch with {subject(value)} (slice)")
    if isinstance(value, (tuple, list)):
        return _rebuild(value, [to_meta(item) for item in value])
    if isinstance(value, dict):
        return {key: to_meta(item) for key, item in value.items()}
    return value


def _rebuild(like: Any, items: list[Any]) -> Any:
    named_tuple = isinstance(like, tuple) and hasattr(like, "_fields")
    return type(like)(*items) if named_tuple else type(like)(items)


def _wrap(result: Any, parts: Parts, name: str) -> Any:
    if isinstance(result, (tuple, list)) and not isinstance(result, torch.Size):
        return _rebuild(result, [_wrap(item, parts, name) for item in result])
    if not isinstance(result, Tensor):
        raise RefusalError(f"leaves torch with a value that depends on data ({name})")
    if not result.is_meta:
        raise RefusalError(LEAK)
    if touches_x(parts) and result.dtype not in (torch.float32, torch.float64):
        raise RefusalError(f"casts x to {result.dtype} ({name})")
    return Traced.wrap(result, parts)


def raised(error: Exception) -> str:
    """Return the reason that an exception inside a trace amounts to."""
    if isinstance(error, RefusalError):
        return str(error)
    lines = str(error).splitlines() or [""]
    return f"raises {type(error).__name__} when traced: {lines[0][:120]}"
