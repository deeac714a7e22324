"""Param: a named input of a problem, passed at each call or learned by the layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .errors import ProblemError


@dataclass(frozen=True, init=False, eq=False)
class Param:
    """A parameter of a problem: ``Param(3, 4)`` has shape (3, 4), ``Param()`` is a scalar.

    At a call its value has the declared shape (shared by the batch) or a leading batch dimension.

    Args:
        shape: Sizes of one sample's value.
        init: Initial value of a learnable parameter. The layer then owns it as an
            ``nn.Parameter`` and it is not passed at calls. Shape ``shape``.
        psd: Declares a matrix symmetric positive semidefinite, so that it need not be checked.
        name: Name at calls. Default: the field or key under which the Param is used.

    Raises:
        ProblemError: If ``init`` does not have the declared shape.
    """

    shape: tuple[int, ...]
    init: Tensor | None
    psd: bool
    name: str | None

    def __init__(
        self,
        *shape: int | tuple[int, ...],
        init: Tensor | None = None,
        psd: bool = False,
        name: str | None = None,
    ) -> None:
        sizes: list[int] = []
        for size in shape:
            sizes.extend(size if isinstance(size, tuple) else (size,))
        if any(not isinstance(size, int) or size < 0 for size in sizes):
            raise ProblemError(f"Param: sizes must be integers >= 0, got {tuple(sizes)}.")
        if init is not None and tuple(init.shape) != tuple(sizes):
            raise ProblemError(
                f"Param {name or ''}: init has shape {tuple(init.shape)}, declared is {tuple(sizes)}."
            )
        object.__setattr__(self, "shape", tuple(sizes))
        object.__setattr__(self, "init", init)
        object.__setattr__(self, "psd", psd)
        object.__setattr__(self, "name", name)

    @property
    def learnable(self) -> bool:
        """Whether the layer owns the value."""
        return self.init is not None
