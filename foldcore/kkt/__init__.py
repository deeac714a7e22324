"""The linear system of a solution: assembled, factored and solved here, and nowhere else."""

from .confirmed import confirmed_step
from .held import held_constraints
from .kinks import kinked
from .solution_system import Held, SolutionSystem
from .system import KKTSystem
from .uniqueness import Ambiguity, ambiguities, solution_ambiguities

__all__ = [
    "Ambiguity",
    "Held",
    "KKTSystem",
    "SolutionSystem",
    "ambiguities",
    "confirmed_step",
    "held_constraints",
    "kinked",
    "solution_ambiguities",
]
