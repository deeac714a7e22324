"""Toolkit for solver plugins: one sample at a time, arrays of a batch, workers, callables."""

from .callable import CallableSolver
from .sample_answers import BatchAnswer, SampleAnswer, collect_answers
from .sample_data import BatchData, SampleData, SparseArray
from .sample_solver import (
    SampleModel,
    SampleSolver,
    SampleSolverConfig,
    SampleStart,
    WorkersConfig,
    sample_starts,
)
from .workers import run_chunks, worker_model

__all__ = [
    "BatchAnswer",
    "BatchData",
    "CallableSolver",
    "SampleAnswer",
    "SampleData",
    "SampleModel",
    "SampleSolver",
    "SampleSolverConfig",
    "SampleStart",
    "SparseArray",
    "WorkersConfig",
    "collect_answers",
    "run_chunks",
    "sample_starts",
    "worker_model",
]
