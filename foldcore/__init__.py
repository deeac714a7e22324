"""foldcore: any optimisation solver as a differentiable layer, by fixed-point folding."""

from .build import build
from .callable_solver import CallableSolver, solver
from .certificate import kkt_report
from .config import FixedPointConfig, FoldConfig, KKTConfig, PluginReference
from .duals import RecoveredDuals, recover_duals
from .errors import (
    AdjointError,
    AdjointWarning,
    CapturedTensorError,
    CertificateError,
    CertificateWarning,
    ConfigError,
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
from .interfaces import API_VERSION
from .interfaces.adjoint_solver import AdjointSolver, FixedPointOperator, ZeroOperator
from .interfaces.solver_interface import Capabilities, IterationMap, Session, Solver
from .interfaces.update_rule import BoundRule, InnerFold, UpdateRule
from .linalg import (
    largest_eigenvalue,
    matvec,
    rmatvec,
    solve_checked,
    solve_square,
    to_dense,
)
from .param import Param
from .plugin_config import IterativeConfig, PluginConfig
from .problem_base import ParametricProblem, ProblemClass, ProgramStructure
from .program import SmoothProgram
from .quadratic import QuadraticProgram
from .quadratic_data import QuadraticData
from .solution import AdjointSolution, Duals, KKTReport, Solution, Status
from .sparse import Sparse, SparseMatrix
