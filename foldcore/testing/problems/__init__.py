"""Problems of known solutions and properties, for tests of solvers and rules."""

from .random_problems import INTERIOR, declare, random_qp

__all__ = ["INTERIOR", "declare", "random_qp"]
