"""What a call must leave alone: its inputs and the process' global state."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import Tensor

from ..check import require, require_equal


class Untouched:
    """Remembers tensors and torch's global state, and finds out who changed them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)
        self._copies = {name: value.detach().clone() for name, value in tensors.items()}
        self._flags = {name: value.requires_grad for name, value in tensors.items()}
        self._state = _global_state()

    def check(self) -> None:
        """Require everything to be as it was.

        Raises:
            ConformanceError: Naming the tensor or the state that changed.
        """
        for name, value in self._tensors.items():
            require_equal(value.detach(), self._copies[name], f"its input {name}, after the call,")
            require(
                value.requires_grad == self._flags[name], f"it changed requires_grad of {name}."
            )
        for name, now in _global_state().items():
            require(now == self._state[name], f"it changed {name}.")


def _global_state() -> dict[str, object]:
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
    }


@contextmanager
def captured_output() -> Iterator[io.StringIO]:
    """Collect what is printed in the block, by native code as well."""
    collected = io.StringIO()  # what Python prints; native code writes to the file below
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = [os.dup(1), os.dup(2)]
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            with redirect_stdout(collected), redirect_stderr(collected):
                yield collected
        finally:
            for descriptor, original in zip((1, 2), kept, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
            file.seek(0)
            collected.write(file.read().decode(errors="replace"))
