"""What native models say of samples, and how it becomes a :class:`Solution`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..program.program import SmoothProgram
from ..solution import Duals, Solution, Status
from .sample_data import Floats


@dataclass(frozen=True)
class SampleAnswer:
    """What a native model says of one sample.

    Attributes:
        status, message, iterations: As in :class:`Solution`.
        x: Primal (n,), or None where there is none.
        equality, inequality, lower, upper: Multipliers in foldcore's signs, or None where the
            solver gives none; inequality has the rows of G, then the quadratic rows.
    """

    status: Status
    message: str = ""
    iterations: int = 0
    x: Floats | None = None
    equality: Floats | None = None
    inequality: Floats | None = None
    lower: Floats | None = None
    upper: Floats | None = None


@dataclass(frozen=True)
class BatchAnswer:
    """What a native model says of a whole batch: as :class:`SampleAnswer`, one row per sample.

    Attributes:
        status, messages, iterations: One per sample.
        x: (B, n); rows of NaN where there is no point.
        equality, inequality, lower, upper: Multipliers with rows likewise, or all four None.
    """

    status: tuple[Status, ...]
    messages: tuple[str, ...]
    iterations: tuple[int, ...]
    x: Floats
    equality: Floats | None = None
    inequality: Floats | None = None
    lower: Floats | None = None
    upper: Floats | None = None

    @classmethod
    def of_solved(
        cls, verdicts: Sequence[tuple[Status, str, int]], x: Floats, **duals: Floats
    ) -> BatchAnswer:
        """Return the answer of a batch whose failed samples have no points.

        Args:
            verdicts: Status, message and iterations of each sample.
            x, duals: Rows of the samples whose status is ok, in order; all four duals or none.
        """
        status, messages, iterations = zip(*verdicts, strict=True)
        arrays = {"x": x, **duals}
        if len(x) < len(status):
            solved = np.array([one.ok for one in status])
            for name, rows in arrays.items():
                arrays[name] = np.full((solved.size, rows.shape[-1]), np.nan)
                arrays[name][solved] = rows
        return cls(status, messages, iterations, **arrays)


def collect_answers(answers: Sequence[SampleAnswer], program: SmoothProgram) -> Solution:
    """Return the answers of a program's samples as one solution, in the program's dtype and device.

    Samples without a point are NaN; NaN or inf under a good status make it NUMERICAL. Duals are
    None unless every solved sample has all of its own.
    """
    return solution_of(stack_answers(answers, program), program)


def stack_answers(answers: Sequence[SampleAnswer], program: SmoothProgram) -> BatchAnswer:
    """Return the answers of a program's samples in rows; see :func:`collect_answers`."""
    sizes = {
        "equality": program.n_equality,
        "inequality": program.n_inequality,
        "lower": program.n,
        "upper": program.n,
    }
    duals: dict[str, list[Floats | None]] = {
        "equality": [a.equality for a in answers],
        "inequality": [a.inequality for a in answers],
        "lower": [a.lower for a in answers],
        "upper": [a.upper for a in answers],
    }
    complete = [
        all(part is not None for part in parts) for parts in zip(*duals.values(), strict=True)
    ]
    known = any(complete) and all(
        whole or not a.status.ok for a, whole in zip(answers, complete, strict=True)
    )
    return BatchAnswer(
        status=tuple(a.status for a in answers),
        messages=tuple(a.message for a in answers),
        iterations=tuple(a.iterations for a in answers),
        x=_stacked([a.x for a in answers], program.n),
        **{name: _stacked(duals[name], size) for name, size in sizes.items() if known},
    )


def _stacked(values: Sequence[Floats | None], size: int) -> Floats:
    unknown = np.full(size, np.nan)
    rows = [unknown if value is None else value for value in values]
    if len(rows) > 1 and all(row is rows[0] for row in rows):
        return np.tile(rows[0], (len(rows), 1))
    return np.array(rows, dtype=np.float64)


def solution_of(answer: BatchAnswer, program: SmoothProgram) -> Solution:
    """Return a batch's answer in the program's dtype and device; see :func:`collect_answers`."""
    names = ("x", "equality", "inequality", "lower", "upper")
    like = program.like
    arrays: dict[str, Floats] = {}
    tensors: dict[str, Tensor] = {}
    for name in names:
        array = getattr(answer, name)
        if array is not None:
            arrays[name], tensors[name] = array, torch.from_numpy(array).to(like)
    status, messages = _without_nonfinite(answer, arrays)
    primal = tensors.pop("x")
    return Solution(
        primal=primal,
        status=status,
        duals=Duals(**tensors) if tensors else None,
        messages=messages,
        iterations=answer.iterations,
    )


def _without_nonfinite(
    answer: BatchAnswer, arrays: Mapping[str, Floats]
) -> tuple[tuple[Status, ...], tuple[str, ...]]:
    """Return statuses and messages; NaN or inf under a good status make it NUMERICAL."""
    # A finite sum has finite terms, and takes less time than looking at each.
    with np.errstate(all="ignore"):
        sound = np.isfinite(sum([array.sum() for array in arrays.values()]))
    if sound:
        return answer.status, answer.messages
    status, messages = list(answer.status), list(answer.messages)
    finite = np.logical_and.reduce([np.isfinite(array).all(-1) for array in arrays.values()])
    for i in np.flatnonzero(~finite).tolist():
        if status[i].ok:
            status[i], messages[i] = Status.NUMERICAL, f"{messages[i]}, but with NaN or inf"
    return tuple(status), tuple(messages)
