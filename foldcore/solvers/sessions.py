"""Open solver sessions, kept per process and thread, outside of the layers that use them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Hashable

from ..interfaces.solver import Session, Solver
from ..program.structure import ProgramStructure

_Key = tuple[int, int, Hashable]
_sessions: weakref.WeakKeyDictionary[object, dict[_Key, Session]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def session_for(
    owner: object, solver: Solver, structure: ProgramStructure, variant: Hashable = None
) -> Session:
    """Return the owner's session, opening it on first use.

    Native models are neither picklable nor fork- or thread-safe, so the key holds process and
    thread, and a layer never refers to its sessions: copies and pickles open their own.

    Args:
        owner: The layer; its sessions are closed when it is gone.
        solver, structure: What to open.
        variant: Anything else that a model depends on, such as the dtype.
    """
    key = (os.getpid(), threading.get_ident(), variant)
    with _lock:
        if owner not in _sessions:
            opened: dict[_Key, Session] = {}
            _sessions[owner] = opened
            weakref.finalize(owner, _close_all, opened)
        sessions = _sessions[owner]
    if key not in sessions:
        sessions[key] = solver.open(structure)
    return sessions[key]


def _close_all(sessions: dict[_Key, Session]) -> None:
    for (process, _, _), session in sessions.items():
        if process == os.getpid():
            session.close()
    sessions.clear()
