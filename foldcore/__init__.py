"""foldcore: any optimisation solver as a differentiable layer, by fixed-point folding.

The names below are what a layer is composed of. Authors of plugins find theirs on shelves:
foldcore.interfaces, foldcore.solvers, foldcore.rules, foldcore.adjoints, foldcore.numerics, foldcore.kkt.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adjoints import *
    from .atoms import *
    from .building.build import build
    from .config import DegeneracyConfig, FixedPointConfig, FoldConfig, KKTConfig
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
    from .interfaces import *
    from .numerics import *
    from .optimality.kkt import kkt_report
    from .param import Param, Sparse
    from .problem.problem import Problem
    from .problem.quadratic import QuadraticProgram
    from .rules import *
    from .solution import Duals, KKTReport, Solution, Status
    from .solvers import *
    from .solvers.callable import solver

__version__ = _version("foldcore")

_FACE = {
    "atoms": (
        "L1",
        "AffineSet",
        "Box",
        "BoxHyperplane",
        "CappedSimplex",
        "Composition",
        "ElasticNet",
        "GroupL2",
        "HalfSpace",
        "Huber",
        "Indicator",
        "L1Ball",
        "L2Ball",
        "NuclearNorm",
        "ProximalTerm",
        "Regularizer",
        "SetAtom",
        "Simplex",
    ),
    "building.build": ("build",),
    "config": (
        "DegeneracyConfig",
        "FixedPointConfig",
        "FoldConfig",
        "KKTConfig",
    ),
    "errors": (
        "AdjointError",
        "AdjointWarning",
        "CapturedTensorError",
        "CertificateError",
        "CertificateWarning",
        "ConfigError",
        "DegenerateError",
        "DegenerateWarning",
        "DtypeError",
        "DuplicatePluginError",
        "FoldcoreError",
        "FoldcoreWarning",
        "HookWarning",
        "InputError",
        "MissingParameterError",
        "NumericalError",
        "PluginError",
        "PluginIncompatibleError",
        "PluginLoadError",
        "PluginNotInstalledError",
        "PluginUnusableError",
        "ProblemError",
        "RecognitionError",
        "ShapeError",
        "SolveError",
        "SolveWarning",
        "UnexpectedParameterError",
        "UnknownPluginError",
        "UnsupportedError",
    ),
    "fold.diagnosis": (
        "Diagnosis",
        "diagnose",
    ),
    "fold.layer": ("Fold",),
    "fold.warm_starts": ("WarmStarts",),
    "optimality.kkt": ("kkt_report",),
    "param": (
        "Param",
        "Sparse",
    ),
    "problem.problem": ("Problem",),
    "problem.quadratic": ("QuadraticProgram",),
    "solution": (
        "Duals",
        "KKTReport",
        "Solution",
        "Status",
    ),
    "solvers.callable": ("solver",),
}
"""Where the names of the face are defined; each is imported when it is first asked for."""

_HOMES = {name: module for module, names in _FACE.items() for name in names}
_SHELVES = ("interfaces", "solvers", "rules", "adjoints", "numerics", "atoms")
_MODULES = (*_SHELVES, "config", "errors", "hooks", "kkt", "registry", "testing")

__all__ = [
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


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return _import_module(f"{__name__}.{name}")
    if name in _HOMES:
        value: object = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        # What lies on a shelf answers to its flat name, too, as it did before there were shelves.
        for shelf in _SHELVES:
            module = _import_module(f"{__name__}.{shelf}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, *_MODULES, "__version__"))
