"""Functions that travel with a layer: pickled by value, lambdas and closures included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class PortableFunction:
    """A callable that pickles its function by value with cloudpickle and is never deep-copied."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.function(*arguments, **named)

    def __deepcopy__(self, memo: object) -> PortableFunction:
        return self

    def __getstate__(self) -> bytes:
        import cloudpickle  # stays out of `import foldcore`

        payload: bytes = cloudpickle.dumps(self.function)
        return payload

    def __setstate__(self, state: bytes) -> None:
        import cloudpickle

        self.function = cloudpickle.loads(state)
