"""Ctrl-C beside OSQP, which takes the signal over for the time of a solve.

OSQP looks at it once an iteration, ends with a status of its own, and then gives the signal back to
whom it found. One that comes during polishing it forgets.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_back() -> Iterator[None]:
    """Keep Ctrl-C from OSQP for the time of the block, and let Python hear of it afterwards.

    A blocked signal goes to another thread of the process, where one does not block it: then OSQP
    gets it all the same. Does nothing outside of the main thread, nor where signals cannot be blocked.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hand_on() -> None:
    """Tell Python's handler in the main thread of a Ctrl-C that OSQP took.

    Raises:
        KeyboardInterrupt: In the main thread, unless the user has a handler that does not.
    """
    _thread.interrupt_main(signal.SIGINT)


def restore() -> None:
    """Give SIGINT back to Python's handler, after threads that solved at once.

    One of them may have found the other's handler, and given the signal back to that: Python would
    never hear of Ctrl-C again.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)
