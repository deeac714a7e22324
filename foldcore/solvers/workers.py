"""Work that is spread over joblib's workers: consecutive chunks, and models that workers keep."""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar, cast

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class _StoppedError(Exception):
    """Ends a thread whose results nobody waits for any more."""


class _Chunk(list[ItemT]):
    """Items of one worker, whose iteration ends early once the caller was interrupted.

    Threads cannot be killed as processes can: they have to look.
    """

    stop: threading.Event | None = None

    def __iter__(self) -> Iterator[ItemT]:
        for item in super().__iter__():
            if self.stop is not None and self.stop.is_set():
                raise _StoppedError
            yield item

    def __reduce__(self) -> tuple[type[list[ItemT]], tuple[list[ItemT]]]:
        return list, (list(self),)


def run_chunks(
    function: Callable[[Sequence[ItemT]], list[ResultT]], items: Sequence[ItemT], workers: int
) -> list[ResultT]:
    """Return ``function(items)``, computed in up to ``workers`` chunks at once by joblib.

    Args:
        function: Takes consecutive items and returns one result for each. It must be picklable, as
            must items and results, where joblib's backend is one of processes.
        items: What to work on.
        workers: Largest number of chunks; 1 is a plain call.

    Raises:
        KeyboardInterrupt: Of the caller; workers then end at once, threads after the item at hand.
    """
    count = len(items)
    workers = min(workers, count)
    if workers <= 1:
        return function(items)
    from joblib import Parallel, delayed  # stays out of `import foldcore`

    bounds = [count * i // workers for i in range(workers + 1)]
    chunks = [_Chunk(items[a:b]) for a, b in itertools.pairwise(bounds)]
    stop = threading.Event()
    for chunk in chunks:
        chunk.stop = stop
    try:
        parts = Parallel(n_jobs=workers)(delayed(function)(chunk) for chunk in chunks)
    except BaseException:
        stop.set()
        raise
    return [result for part in parts for result in part]


class _Closeable(Protocol):
    def close(self) -> None: ...


ModelT = TypeVar("ModelT", bound=_Closeable)

_WORKER_MODELS: OrderedDict[tuple[str, int, int], _Closeable] = OrderedDict()
_WORKER_LIMIT = 64
_WORKER_LOCK = threading.Lock()


@contextmanager
def worker_model(token: str, build: Callable[[], ModelT]) -> Iterator[tuple[ModelT, bool]]:
    """Lend the calling worker's own model, and tell whether it was built for this call.

    Invariant: no two workers hold one model at a time; a model whose block raised is never lent
    again. The model is kept for the worker's next call, and closed where the block raises or too
    many are kept.

    Args:
        token: What the model belongs to; a session draws one at random.
        build: Makes a model; all of one token have one type.
    """
    key = (token, os.getpid(), threading.get_ident())
    with _WORKER_LOCK:
        kept = cast("ModelT | None", _WORKER_MODELS.pop(key, None))
    model = build() if kept is None else kept
    try:
        yield model, kept is None
    except BaseException:
        model.close()
        raise
    with _WORKER_LOCK:
        _WORKER_MODELS[key] = model
        while len(_WORKER_MODELS) > _WORKER_LIMIT:
            _WORKER_MODELS.popitem(last=False)[1].close()
