"""foldcore: any optimisation solver as a differentiable layer, by fixed-point folding."""

import gc
from importlib.metadata import version as _version

# Full collections over torch's many objects would make up a third of this import.
_collects = gc.isenabled()
gc.disable()
try:
    from .acceleration import Accelerated, accelerate
    from .adjoint_system import AdjointProgress, KrylovCycle, ScaledSystem, run_krylov_cycles
    from .atoms import (
        L1,
        AffineSet,
        Atom,
        Box,
        BoxHyperplane,
        CappedSimplex,
        Composition,
        ElasticNet,
        GroupL2,
        HalfSpace,
        Huber,
        Indicator,
        L1Ball,
        L2Ball,
        NuclearNorm,
        Projection,
        ProximalTerm,
        Regularizer,
        SetAtom,
        Simplex,
        recognise_set,
    )
    from .build import build
    from .callable_solver import CallableSolver, solver
    from .certificate import kkt_report
    from .config import DegeneracyConfig, FixedPointConfig, FoldConfig, KKTConfig, PluginReference
    from .curvature import largest_curvature, operator_norm
    from .dense_adjoint import DenseSolve, refine_adjoint, solve_dense
    from .diagnostics import Diagnosis, diagnose
    from .duals import RecoveredDuals, recover_duals
    from .errors import (
        AdjointError,
        AdjointWarning,
        CapturedTensorError,
        CertificateError,
        CertificateWarning,
        ConfigError,
        DegenerateError,
        DegenerateWarning,
        DtypeError,
        DuplicatePluginError,
        FoldcoreError,
        FoldcoreWarning,
        HookWarning,
        InputError,
        MissingParameterError,
        NumericalError,
        PluginError,
        PluginIncompatibleError,
        PluginLoadError,
        PluginNotInstalledError,
        PluginUnusableError,
        ProblemError,
        RecognitionError,
        ShapeError,
        SolveError,
        SolveWarning,
        UnexpectedParameterError,
        UnknownPluginError,
        UnsupportedError,
    )
    from .fold import Fold
    from .gradient_step import GradientStep
    from .interfaces import API_VERSION
    from .interfaces.adjoint_solver import AdjointSolver, FixedPointOperator, ZeroOperator
    from .interfaces.solver_interface import Capabilities, IterationMap, Session, Solver
    from .interfaces.update_rule import BoundRule, InnerFold, UpdateRule
    from .krylov import gmres_cycle
    from .linalg import (
        Factorisation,
        factor_square,
        largest_eigenvalue,
        matvec,
        rmatvec,
        solve_checked,
        solve_square,
        to_dense,
    )
    from .lowering import Lowering
    from .minimum_norm import MinimumNorm, minimum_norm
    from .modes import linearise
    from .param import Param
    from .plugin_config import IterativeConfig, PluginConfig
    from .problem import Problem
    from .problem_base import ParametricProblem, ProblemClass, ProgramStructure
    from .program import SmoothProgram
    from .quadratic import QuadraticProgram
    from .quadratic_data import QuadraticData
    from .sample_answers import BatchAnswer, SampleAnswer, collect_answers
    from .sample_data import BatchData, SampleData, SparseArray
    from .sample_session import (
        SampleModel,
        SampleSolver,
        SampleSolverConfig,
        SampleStart,
        WorkersConfig,
        sample_starts,
    )
    from .solution import AdjointSolution, Duals, KKTReport, Solution, Status
    from .sparse import Sparse, SparseMatrix
    from .spectrum import fastest_step, ritz_values, spectral_radius
    from .subgradient import RecoveredSubgradient, StackedTerms, recover_subgradient
    from .warm_starts import WarmStarts
    from .workers import run_chunks, worker_model
finally:
    if _collects:
        gc.enable()

__version__ = _version("foldcore")

__all__ = [
    "API_VERSION",
    "L1",
    "Accelerated",
    "AdjointError",
    "AdjointProgress",
    "AdjointSolution",
    "AdjointSolver",
    "AdjointWarning",
    "AffineSet",
    "Atom",
    "BatchAnswer",
    "BatchData",
    "BoundRule",
    "Box",
    "BoxHyperplane",
    "CallableSolver",
    "Capabilities",
    "CappedSimplex",
    "CapturedTensorError",
    "CertificateError",
    "CertificateWarning",
    "Composition",
    "ConfigError",
    "DegeneracyConfig",
    "DegenerateError",
    "DegenerateWarning",
    "DenseSolve",
    "Diagnosis",
    "DtypeError",
    "Duals",
    "DuplicatePluginError",
    "ElasticNet",
    "Factorisation",
    "FixedPointConfig",
    "FixedPointOperator",
    "Fold",
    "FoldConfig",
    "FoldcoreError",
    "FoldcoreWarning",
    "GradientStep",
    "GroupL2",
    "HalfSpace",
    "HookWarning",
    "Huber",
    "Indicator",
    "InnerFold",
    "InputError",
    "IterationMap",
    "IterativeConfig",
    "KKTConfig",
    "KKTReport",
    "KrylovCycle",
    "L1Ball",
    "L2Ball",
    "Lowering",
    "MinimumNorm",
    "MissingParameterError",
    "NuclearNorm",
    "NumericalError",
    "Param",
    "ParametricProblem",
    "PluginConfig",
    "PluginError",
    "PluginIncompatibleError",
    "PluginLoadError",
    "PluginNotInstalledError",
    "PluginReference",
    "PluginUnusableError",
    "Problem",
    "ProblemClass",
    "ProblemError",
    "ProgramStructure",
    "Projection",
    "ProximalTerm",
    "QuadraticData",
    "QuadraticProgram",
    "RecognitionError",
    "RecoveredDuals",
    "RecoveredSubgradient",
    "Regularizer",
    "SampleAnswer",
    "SampleData",
    "SampleModel",
    "SampleSolver",
    "SampleSolverConfig",
    "SampleStart",
    "ScaledSystem",
    "Session",
    "SetAtom",
    "ShapeError",
    "Simplex",
    "SmoothProgram",
    "Solution",
    "SolveError",
    "SolveWarning",
    "Solver",
    "Sparse",
    "SparseArray",
    "SparseMatrix",
    "StackedTerms",
    "Status",
    "UnexpectedParameterError",
    "UnknownPluginError",
    "UnsupportedError",
    "UpdateRule",
    "WarmStarts",
    "WorkersConfig",
    "ZeroOperator",
    "accelerate",
    "build",
    "collect_answers",
    "diagnose",
    "factor_square",
    "fastest_step",
    "gmres_cycle",
    "kkt_report",
    "largest_curvature",
    "largest_eigenvalue",
    "linearise",
    "matvec",
    "minimum_norm",
    "operator_norm",
    "recognise_set",
    "recover_duals",
    "recover_subgradient",
    "refine_adjoint",
    "ritz_values",
    "rmatvec",
    "run_chunks",
    "run_krylov_cycles",
    "sample_starts",
    "solve_checked",
    "solve_dense",
    "solve_square",
    "solver",
    "spectral_radius",
    "to_dense",
    "worker_model",
]
