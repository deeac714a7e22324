"""Open sessions of solvers and rules, kept per process and thread, outside of the layers that use them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

from ..interfaces.rule import BoundRule, PreparedRule, UpdateRule
from ..interfaces.solver import Session, Solver
from ..program.program import SmoothProgram
from ..program.structure import ProgramStructure
from .parts import Parts


class _Closable(Protocol):
    def close(self) -> None: ...


_Key = tuple[int, int, str, Hashable]
_T = TypeVar("_T", bound=_Closable)
_sessions: weakref.WeakKeyDictionary[object, dict[_Key, _Closable]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def session_for(
    owner: object, solver: Solver, structure: ProgramStructure, variant: Hashable = None
) -> Session:
    """Return the owner's solver session, opening it on first use.

    Native models are neither picklable nor fork- or thread-safe, so the key holds process and
    thread, and a layer never refers to its sessions: copies and pickles open their own.

    Args:
        owner: Whose sessions are closed when it is gone.
        solver, structure: What to open.
        variant: Anything else that a model depends on, such as the dtype.
    """
    return _kept(owner, "solver", variant, lambda: solver.open(structure))


def bound_rule(parts: Parts, rule: UpdateRule, program: SmoothProgram) -> BoundRule:
    """Return a fold's rule bound to a program of its problem, through the rule's own session."""
    structure, like = parts.problem.structure, program.like
    variant = (like.dtype, like.device)
    prepared: PreparedRule = _kept(parts.owner, "rule", variant, lambda: rule.open(structure))
    return prepared.bind(program, parts.inner, structure.changed)


def _kept(owner: object, kind: str, variant: Hashable, open_: Callable[[], _T]) -> _T:
    key = (os.getpid(), threading.get_ident(), kind, variant)
    opened = _sessions.get(owner)
    if opened is None:
        with _lock:
            opened = _sessions.setdefault(owner, {})
            if not opened:
                weakref.finalize(owner, _close_all, opened)
    found = opened.get(key)
    if found is None:
        found = opened[key] = open_()
    return found  # type: ignore[return-value]  # what a key holds is what its opener made


def _close_all(opened: dict[_Key, _Closable]) -> None:
    for (process, *_), session in opened.items():
        if process == os.getpid():
            session.close()
    opened.clear()
