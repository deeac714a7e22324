"""Options of the solver."""

from __future__ import annotations

from foldcore import WorkersConfig


class ExampleSolverConfig(WorkersConfig):
    """Options of the solver. The method is exact: it has no tolerance and no limit to set.

    Derive from ``SampleSolverConfig`` where yours iterates: ``rtol``, ``atol`` and ``max_iter`` come
    with it. Every field needs an effect, a unit, and a description.
    """
