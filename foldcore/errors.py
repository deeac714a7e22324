"""Every error and warning of foldcore, drawn as one tree.

::

    FoldcoreError
    ├── ConfigError (ValueError)            something in the configuration is wrong; names its path
    │   └── PluginError                     a plugin cannot be used, in one of six told-apart ways
    │       ├── UnknownPluginError          no such name; did you mean ...?
    │       ├── PluginNotInstalledError     a known name whose package is not installed
    │       ├── PluginLoadError             installed, but its import failed
    │       ├── PluginIncompatibleError     installed, but made for another interface version
    │       ├── PluginUnusableError         loads, but cannot work here (licence, missing library)
    │       └── DuplicatePluginError        two distributions offer the same name
    ├── ProblemError (ValueError)           the problem's definition is wrong
    │   ├── CapturedTensorError             a tensor that needs a gradient hides in a closure
    │   └── RecognitionError                asserted structure (structure="qp") does not hold
    ├── InputError (ValueError)             an argument of a call is wrong; names the argument
    │   ├── ShapeError
    │   ├── DtypeError
    │   ├── MissingParameterError
    │   └── UnexpectedParameterError
    ├── UnsupportedError (NotImplementedError)  a capability was asked for that this object lacks
    └── NumericalError (RuntimeError)       something did not work out for some samples
        ├── SolveError                      the forward solve failed
        ├── CertificateError                a returned point violates its certificate
        ├── DegenerateError                 a solution is not differentiable there
        └── AdjointError                    an adjoint solve did not converge

    FoldcoreWarning (UserWarning)
    ├── SolveWarning
    ├── CertificateWarning
    ├── DegenerateWarning
    ├── AdjointWarning
    └── HookWarning
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence


class FoldcoreError(Exception):
    """Base of every error that foldcore raises on purpose."""


class ConfigError(FoldcoreError, ValueError):
    """Something in the configuration is wrong. The message starts with its path."""


class PluginError(ConfigError):
    """A named plugin cannot be used."""


class UnknownPluginError(PluginError):
    """No plugin of that name is installed or known."""


class PluginNotInstalledError(PluginError):
    """The name is known, its package is not installed."""


class PluginLoadError(PluginError):
    """The package is installed, but importing the plugin failed; the cause is chained."""


class PluginIncompatibleError(PluginError):
    """The plugin was written for another version of the core's interfaces."""


class PluginUnusableError(PluginError):
    """The plugin loads, but states that it cannot work on this machine."""


class DuplicatePluginError(PluginError):
    """Two distributions offer a plugin under one name."""


class ProblemError(FoldcoreError, ValueError):
    """The definition of a problem is wrong."""


class CapturedTensorError(ProblemError):
    """A problem's function captured a tensor that needs a gradient instead of taking it as a Param."""


class RecognitionError(ProblemError):
    """A structure that the user asserted could not be confirmed."""


class InputError(FoldcoreError, ValueError):
    """An argument of a call is wrong; the message names it."""


class ShapeError(InputError):
    """A shape is not the declared one, or batch sizes differ."""


class DtypeError(InputError):
    """A dtype or device is not the one expected, or two arguments differ in it."""


class MissingParameterError(InputError):
    """A declared parameter was not passed."""


class UnexpectedParameterError(InputError):
    """A parameter was passed that the problem does not declare."""


class UnsupportedError(FoldcoreError, NotImplementedError):
    """An optional capability was asked for that this object does not have."""


class NumericalError(FoldcoreError, RuntimeError):
    """Something did not work out numerically for some samples of a batch.

    Attributes:
        samples: Indices of the samples concerned, ascending.
    """

    def __init__(self, message: str, samples: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.samples = tuple(samples)


class SolveError(NumericalError):
    """The forward solve failed for some samples."""


class CertificateError(NumericalError):
    """A returned point violates a certificate (KKT residual or fixed-point residual)."""


class DegenerateError(NumericalError):
    """The solution is not differentiable for some samples: its gradient is not unique."""


class AdjointError(NumericalError):
    """The adjoint solve did not converge for some samples."""


class FoldcoreWarning(UserWarning):
    """Base of every warning that foldcore emits."""


class SolveWarning(FoldcoreWarning):
    """Some samples failed and were masked."""


class CertificateWarning(FoldcoreWarning):
    """Some samples exceed a certificate's tolerance."""


class DegenerateWarning(FoldcoreWarning):
    """Some samples are not strictly complementary, or their adjoint system is singular."""


class AdjointWarning(FoldcoreWarning):
    """Some adjoint solves did not converge and were masked or returned on request."""


class HookWarning(FoldcoreWarning):
    """A listener raised; the solve went on without it."""


def name_samples(samples: Sequence[int], limit: int = 10) -> str:
    """Return ``"3, 17, 20"`` for a message, cut after ``limit`` indices."""
    shown = ", ".join(str(i) for i in samples[:limit])
    return shown + (f", … ({len(samples)} in all)" if len(samples) > limit else "")


def warn_caller(message: str, category: type[FoldcoreWarning]) -> None:
    """Warn at the line of the user's code that led here, whatever lies between.

    Python's own ``stacklevel`` counts frames, whose number differs by mode and by who calls the layer
    (torch for a backward pass, a rule for an inner fold). Without a user's frame, as in a thread of
    autograd's, it is the outermost one.
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_back is not None and _is_machinery(frame.f_globals):
        level, frame = level + 1, frame.f_back
    # This function's own frame is level 1.
    warnings.warn(message, category, stacklevel=level)


def _is_machinery(names: dict[str, object]) -> bool:
    package = str(names.get("__name__", "")).partition(".")[0]
    return package in ("foldcore", "torch") or package.startswith("foldcore_")
