"""foldcore: any optimisation solver as a differentiable layer, by fixed-point folding."""

import gc
from importlib.metadata import version as _version

# Full collections over torch's many objects would make up a third of this import.
_collects = gc.isenabled()
gc.disable()
try:
    from .adjoints.dense import DenseSolve, refine_adjoint, solve_dense
    from .adjoints.frame import KrylovAdjoint, ScaledAdjoint
    from .adjoints.gmres import gmres_cycle
    from .adjoints.system import (
        AdjointProgress,
        KrylovCycle,
        KrylovMethod,
        ScaledSystem,
        run_krylov_cycles,
    )
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
    from .atoms.stacked import StackedTerms
    from .building.build import build
    from .config import (
        DegeneracyConfig,
        FixedPointConfig,
        FoldConfig,
        IterativeConfig,
        KKTConfig,
        PluginConfig,
        PluginReference,
        ToleranceConfig,
    )
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
    from .fold.diagnosis import Diagnosis, diagnose
    from .fold.layer import Fold
    from .fold.warm_starts import WarmStarts
    from .interfaces import API_VERSION
    from .interfaces.adjoint import AdjointSolver
    from .interfaces.fixed_point_operator import FixedPointOperator, ZeroOperator
    from .interfaces.rule import BoundRule, InnerFold, PreparedRule, UpdateRule
    from .interfaces.solver import Capabilities, IterationMap, Session, Solver
    from .numerics.acceleration import Accelerated, accelerate
    from .numerics.definiteness import (
        factor_definite,
        is_positive_definite,
        is_positive_semidefinite,
        solve_factored,
    )
    from .numerics.eigenvalues import largest_eigenvalue, operator_norm
    from .numerics.minimum_norm import MinimumNorm, minimum_norm
    from .numerics.products import matvec, rmatvec, to_dense
    from .numerics.solving import Factorisation, factor_square, solve_checked, solve_square
    from .numerics.sparse import SparseMatrix
    from .optimality.duals import RecoveredDuals, recover_duals
    from .optimality.kkt import kkt_report
    from .optimality.subgradient import RecoveredSubgradient, recover_subgradient
    from .param import Param, Sparse
    from .problem.parametric import ParametricProblem
    from .problem.problem import Problem
    from .problem.quadratic import QuadraticProgram
    from .program.lowering import Lowering
    from .program.program import SmoothProgram
    from .program.structure import ProblemClass, ProgramStructure
    from .quadratic.data import QuadraticData
    from .quadratic.template import QuadraticTemplate
    from .rules.constants import Constants, RuleOfConstants, prepared_projection
    from .rules.curvature import largest_curvature
    from .rules.gradient_step import GradientStep
    from .rules.linearise import linearise
    from .rules.spectrum import fastest_step, ritz_values, spectral_radius
    from .solution import AdjointSolution, Duals, KKTReport, Solution, Status
    from .solvers.callable import CallableSolver, solver
    from .solvers.sample_answers import BatchAnswer, SampleAnswer, collect_answers
    from .solvers.sample_data import BatchData, SampleData, SparseArray
    from .solvers.sample_solver import (
        SampleModel,
        SampleSolver,
        SampleSolverConfig,
        SampleStart,
        WorkersConfig,
        sample_starts,
    )
    from .solvers.workers import run_chunks, worker_model
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
    "Constants",
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
    "KrylovAdjoint",
    "KrylovCycle",
    "KrylovMethod",
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
    "PreparedRule",
    "Problem",
    "ProblemClass",
    "ProblemError",
    "ProgramStructure",
    "Projection",
    "ProximalTerm",
    "QuadraticData",
    "QuadraticProgram",
    "QuadraticTemplate",
    "RecognitionError",
    "RecoveredDuals",
    "RecoveredSubgradient",
    "Regularizer",
    "RuleOfConstants",
    "SampleAnswer",
    "SampleData",
    "SampleModel",
    "SampleSolver",
    "SampleSolverConfig",
    "SampleStart",
    "ScaledAdjoint",
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
    "ToleranceConfig",
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
    "factor_definite",
    "factor_square",
    "fastest_step",
    "gmres_cycle",
    "is_positive_definite",
    "is_positive_semidefinite",
    "kkt_report",
    "largest_curvature",
    "largest_eigenvalue",
    "linearise",
    "matvec",
    "minimum_norm",
    "operator_norm",
    "prepared_projection",
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
    "solve_factored",
    "solve_square",
    "solver",
    "spectral_radius",
    "to_dense",
    "worker_model",
]
