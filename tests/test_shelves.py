"""The names on the face and on the shelves are exactly these."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import foldcore

FACE = [
    "L1",
    "AdjointError",
    "AdjointWarning",
    "AffineSet",
    "Box",
    "BoxHyperplane",
    "CappedSimplex",
    "CapturedTensorError",
    "CertificateError",
    "CertificateWarning",
    "Composition",
    "ConfigError",
    "DegeneracyConfig",
    "DegenerateError",
    "DegenerateWarning",
    "Diagnosis",
    "DtypeError",
    "Duals",
    "DuplicatePluginError",
    "ElasticNet",
    "FixedPointConfig",
    "Fold",
    "FoldConfig",
    "FoldcoreError",
    "FoldcoreWarning",
    "GroupL2",
    "HalfSpace",
    "HookWarning",
    "Huber",
    "Indicator",
    "InputError",
    "KKTConfig",
    "KKTReport",
    "L1Ball",
    "L2Ball",
    "MissingParameterError",
    "NuclearNorm",
    "NumericalError",
    "Param",
    "PluginError",
    "PluginIncompatibleError",
    "PluginLoadError",
    "PluginNotInstalledError",
    "PluginUnusableError",
    "Problem",
    "ProblemError",
    "ProximalTerm",
    "QuadraticProgram",
    "RecognitionError",
    "Regularizer",
    "SetAtom",
    "ShapeError",
    "Simplex",
    "Solution",
    "SolveError",
    "SolveWarning",
    "Sparse",
    "Status",
    "UnexpectedParameterError",
    "UnknownPluginError",
    "UnsupportedError",
    "WarmStarts",
    "build",
    "diagnose",
    "kkt_report",
    "solver",
]

MODULES = [
    "adjoints",
    "atoms",
    "config",
    "errors",
    "hooks",
    "interfaces",
    "kkt",
    "numerics",
    "registry",
    "rules",
    "solvers",
    "testing",
]

FLAT_BEFORE_THERE_WERE_SHELVES = [
    "API_VERSION",
    "Accelerated",
    "AdjointProgress",
    "AdjointSolution",
    "AdjointSolver",
    "Atom",
    "BatchAnswer",
    "BatchData",
    "BoundRule",
    "CallableSolver",
    "Capabilities",
    "DenseSolve",
    "Factorisation",
    "FixedPointOperator",
    "GradientStep",
    "InnerFold",
    "IterationMap",
    "IterativeConfig",
    "KrylovCycle",
    "Lowering",
    "MinimumNorm",
    "ParametricProblem",
    "PluginConfig",
    "PluginReference",
    "ProblemClass",
    "ProgramStructure",
    "Projection",
    "QuadraticData",
    "RecoveredDuals",
    "RecoveredSubgradient",
    "SampleAnswer",
    "SampleData",
    "SampleModel",
    "SampleSolver",
    "SampleSolverConfig",
    "SampleStart",
    "ScaledSystem",
    "Session",
    "SmoothProgram",
    "Solver",
    "SparseArray",
    "SparseMatrix",
    "StackedTerms",
    "UpdateRule",
    "WorkersConfig",
    "ZeroOperator",
    "accelerate",
    "collect_answers",
    "factor_square",
    "fastest_step",
    "gmres_cycle",
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
    "spectral_radius",
    "to_dense",
    "worker_model",
]

PINNED = {
    "interfaces": [
        "API_VERSION",
        "AdjointSolution",
        "AdjointSolver",
        "BoundRule",
        "Capabilities",
        "FixedPointOperator",
        "InnerFold",
        "IterationMap",
        "IterativeConfig",
        "Lowering",
        "OLDEST_API_VERSION",
        "ParametricProblem",
        "Plugin",
        "PluginConfig",
        "PluginReference",
        "PreparedRule",
        "ProblemClass",
        "ProgramStructure",
        "QuadraticData",
        "QuadraticTemplate",
        "Session",
        "SmoothProgram",
        "Solver",
        "ToleranceConfig",
        "UpdateRule",
        "ZeroOperator",
    ],
    "solvers": [
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
    ],
    "rules": [
        "Constants",
        "GradientStep",
        "PrimalDualState",
        "RecoveredDuals",
        "RecoveredSubgradient",
        "RuleOfConstants",
        "StackedTerms",
        "fastest_step",
        "largest_curvature",
        "linearise",
        "prepared_projection",
        "recover_duals",
        "recover_subgradient",
        "ritz_values",
        "spectral_radius",
    ],
    "adjoints": [
        "AdjointProgress",
        "DenseSolve",
        "KrylovAdjoint",
        "KrylovCycle",
        "KrylovMethod",
        "ScaledAdjoint",
        "ScaledSystem",
        "gmres_cycle",
        "refine_adjoint",
        "run_krylov_cycles",
        "solve_dense",
    ],
    "numerics": [
        "Accelerated",
        "Factorisation",
        "MinimumNorm",
        "SparseMatrix",
        "accelerate",
        "concatenate",
        "factor_definite",
        "factor_square",
        "is_positive_definite",
        "is_positive_semidefinite",
        "largest_eigenvalue",
        "matvec",
        "minimum_norm",
        "operator_norm",
        "rmatvec",
        "solve_checked",
        "solve_factored",
        "solve_square",
        "to_dense",
    ],
    "atoms": [
        "AffineSet",
        "Atom",
        "Box",
        "BoxHyperplane",
        "CappedSimplex",
        "Composition",
        "ElasticNet",
        "FieldSpec",
        "GroupL2",
        "HalfSpace",
        "Huber",
        "Indicator",
        "L1",
        "L1Ball",
        "L2Ball",
        "NuclearNorm",
        "Projection",
        "ProximalTerm",
        "Regularizer",
        "SetAtom",
        "Simplex",
        "recognise_set",
    ],
    "kkt": [
        "Ambiguity",
        "Held",
        "KKTSystem",
        "SolutionSystem",
        "ambiguities",
        "confirmed_step",
        "held_constraints",
        "kinked",
        "solution_ambiguities",
    ],
}
"""What lies on each shelf, name by name; a name that goes, or comes, is a decision."""

SHELVES = ("interfaces", "solvers", "rules", "adjoints", "numerics", "atoms")


def test_the_face_is_what_a_layer_is_composed_of() -> None:
    assert foldcore.__all__ == FACE
    assert len(FACE) <= 70
    namespace: dict[str, object] = {}
    exec("from foldcore import *", namespace)
    assert set(FACE) <= set(namespace)


def test_completion_shows_the_face_and_the_shelves_and_no_internal_module() -> None:
    assert dir(foldcore) == sorted([*FACE, *MODULES, "__version__"])


@pytest.mark.parametrize("name", FLAT_BEFORE_THERE_WERE_SHELVES)
def test_an_old_flat_name_is_the_shelfs_own_object(name: str) -> None:
    found = [s for s in SHELVES if name in import_module(f"foldcore.{s}").__all__]
    assert len(found) == 1
    assert getattr(foldcore, name) is getattr(import_module(f"foldcore.{found[0]}"), name)


@pytest.mark.parametrize("shelf", PINNED)
def test_a_shelf_is_pinned_name_by_name(shelf: str) -> None:
    assert sorted(import_module(f"foldcore.{shelf}").__all__) == PINNED[shelf]


@pytest.mark.parametrize("shelf", SHELVES)
def test_a_shelf_has_what_it_names(shelf: str) -> None:
    module = import_module(f"foldcore.{shelf}")
    for name in module.__all__:
        assert hasattr(module, name)
        assert getattr(foldcore, name) is getattr(module, name)


def test_no_two_shelves_have_one_name() -> None:
    names = [name for shelf in SHELVES for name in import_module(f"foldcore.{shelf}").__all__]
    assert len(names) == len(set(names))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'foldcore' has no attribute 'biuld'"):
        getattr(foldcore, "biuld")  # noqa: B009


def test_importing_the_face_imports_little_and_a_name_what_it_needs() -> None:
    script = """
import sys, foldcore
assert not any(name.startswith("foldcore.") for name in sys.modules), "the face is lazy"
foldcore.Param
assert "foldcore.param" in sys.modules and "foldcore.fold.layer" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
