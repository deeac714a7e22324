"""Hooks: listeners that watch a fold work (progress, logging, profiling) and never change it.

A package offers a listener as an entry point of group ``foldcore.hooks``: a module or an object whose
functions are marked, or a class or function that makes one when called without arguments (a function
may return None: the listener then stays out of this process and costs it nothing)::

    from foldcore.hooks import hookimpl

    @hookimpl
    def foldcore_solve_finished(path, seconds):    # any subset of a specification's arguments
        print(path, seconds)

Within one process, :func:`listening` does the same without a package. A listener that raises costs
a :class:`~foldcore.errors.HookWarning`; the solve and the other listeners go on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType

import pluggy
from torch import Tensor

from .errors import HookWarning, InputError, PluginIncompatibleError, warn_caller
from .registry.discovery import Offer, PluginInfo, PluginState, scan
from .solution import AdjointSolution, Solution

GROUP = "foldcore.hooks"

hookspec = pluggy.HookspecMarker("foldcore")
hookimpl = pluggy.HookimplMarker("foldcore")
"""Marks a listener's function as the implementation of the hook whose name it bears."""


class HookSpecs:
    """What listeners are told, and when.

    ``path`` is that of the fold in the configuration: "" for the outermost, "rule.inner" for the
    fold inside its rule. Tensors belong to the computation: a listener reads them, detached, and
    modifies none.
    """

    @hookspec
    def foldcore_solve_started(self, path: str, batch: int) -> None:
        """Tell that a forward solve begins.

        Args:
            path: The fold's path.
            batch: B, the number of samples.
        """

    @hookspec
    def foldcore_solve_finished(self, path: str, solution: Solution, seconds: float) -> None:
        """Tell that the solver returned, whatever the samples' status.

        Args:
            path: The fold's path.
            solution: What the solver returned for B samples.
            seconds: Wall-clock time of the solve, in seconds.
        """

    @hookspec
    def foldcore_residual_checked(self, path: str, residual: Tensor, seconds: float) -> None:
        """Tell the fixed-point residual of the solution, once it is folded.

        Args:
            path: The fold's path.
            residual: ‖U(z) - z‖∞ divided by the step size, per sample. Shape (B,).
            seconds: Wall-clock time of lifting the solution and one step of the rule (the
                folding), in seconds.
        """

    @hookspec
    def foldcore_adjoint_finished(
        self, path: str, adjoint: AdjointSolution, seconds: float
    ) -> None:
        """Tell that the adjoint solver returned, in the backward pass.

        Args:
            path: The fold's path.
            adjoint: What it returned for B samples.
            seconds: Wall-clock time of the adjoint solve, in seconds.
        """


class _Manager(pluggy.PluginManager):
    """A plugin manager that refuses listeners of which some part would never be called."""

    def __init__(self) -> None:
        super().__init__("foldcore")
        self.add_hookspecs(HookSpecs)

    def register(self, plugin: object, name: str | None = None) -> str | None:
        try:
            registered = super().register(plugin, name)
        except pluggy.PluginValidationError as error:
            self._withdraw(plugin)
            raise PluginIncompatibleError(f"Listener {_label(plugin)}: {error}") from error
        problem = self._problem(plugin)
        if problem is not None:
            self._withdraw(plugin)
            raise PluginIncompatibleError(f"Listener {_label(plugin)} {problem}")
        return registered

    def _withdraw(self, plugin: object) -> None:
        if self.is_registered(plugin):
            self.unregister(plugin)

    def _problem(self, plugin: object) -> str | None:
        known = ", ".join(name for name in vars(HookSpecs) if name.startswith("foldcore_"))
        callers = self.get_hookcallers(plugin) or []
        if not callers:
            return f"implements no hook; mark its functions with hookimpl. Hooks: {known}."
        for caller in callers:
            if not caller.has_spec():
                return f"implements an unknown hook {caller.name!r}. Hooks: {known}."
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin and (
                    implementation.hookwrapper or implementation.wrapper
                ):
                    return f"wraps {caller.name!r}, but hooks only notify; use a plain function."
        return None


_lock = threading.RLock()
_manager: pluggy.PluginManager | None = None
_ready = False
_installed: list[tuple[object, PluginInfo]] = []


def hook_manager() -> pluggy.PluginManager:
    """Return the process's only manager; the first call loads the installed listeners.

    A listener that cannot be loaded costs a :class:`~foldcore.errors.HookWarning` and is skipped;
    :func:`listeners` shows it from then on.
    """
    global _manager, _ready
    if _ready and _manager is not None:
        return _manager
    problems: list[str] = []
    # Re-entrant, because a listener's module may itself solve something while it is imported.
    with _lock:
        manager = _manager
        if manager is None:
            manager = _manager = _Manager()
            try:
                problems = _load_installed(manager)
            except BaseException:
                # Interrupted half-way: the next call starts again rather than miss listeners.
                _manager = None
                raise
            _ready = True
    # Warned for last: under the filter "error" a warning raises, and must find all in order.
    for problem in problems:
        warn_caller(problem, HookWarning)
    return manager


def listeners() -> tuple[PluginInfo, ...]:
    """Return one line per installed listener, the broken and disabled ones with their error."""
    hook_manager()
    with _lock:
        return tuple(info for _, info in _installed)


def register(listener: object) -> None:
    """Add a listener to this process.

    Raises:
        InputError: If it is registered already.
        PluginIncompatibleError: If it implements no hook, an unknown one, or one with arguments
            that its specification does not have.
    """
    manager = hook_manager()
    with _lock:
        if manager.is_registered(listener):
            raise InputError(f"listener: {_label(listener)} is registered already.")
        manager.register(listener, _label(listener))


def unregister(listener: object) -> None:
    """Remove a listener from this process.

    Raises:
        InputError: If it is not registered.
    """
    manager = hook_manager()
    with _lock:
        if not manager.is_registered(listener):
            raise InputError(f"listener: {_label(listener)} is not registered.")
        manager.unregister(listener)


@contextmanager
def listening(listener: object) -> Iterator[None]:
    """Register a listener for the length of a ``with`` block. Errors as :func:`register`."""
    register(listener)
    try:
        yield
    finally:
        unregister(listener)


def rescan() -> None:
    """Load the installed listeners anew; those registered in this process stay."""
    manager = hook_manager()
    with _lock:
        for plugin, info in _installed:
            if info.state is PluginState.USABLE and manager.is_registered(plugin):
                manager.unregister(plugin)
        problems = _load_installed(manager)
    for problem in problems:
        warn_caller(problem, HookWarning)


def solve_started(path: str, batch: int) -> None:
    """Emit :meth:`HookSpecs.foldcore_solve_started`."""
    _notify("foldcore_solve_started", path=path, batch=batch)


def solve_finished(path: str, solution: Solution, seconds: float) -> None:
    """Emit :meth:`HookSpecs.foldcore_solve_finished`."""
    _notify("foldcore_solve_finished", path=path, solution=solution, seconds=seconds)


def residual_checked(path: str, residual: Tensor, seconds: float) -> None:
    """Emit :meth:`HookSpecs.foldcore_residual_checked`."""
    _notify("foldcore_residual_checked", path=path, residual=residual, seconds=seconds)


def adjoint_finished(path: str, adjoint: AdjointSolution, seconds: float) -> None:
    """Emit :meth:`HookSpecs.foldcore_adjoint_finished`."""
    _notify("foldcore_adjoint_finished", path=path, adjoint=adjoint, seconds=seconds)


def _notify(hook: str, **arguments: object) -> None:
    manager = _manager if _ready and _manager is not None else hook_manager()
    caller: pluggy.HookCaller = getattr(manager.hook, hook)
    implementations = caller.get_hookimpls()
    if not implementations:
        return
    problems = []
    # One by one, because pluggy's own call ends at the first listener that raises. Last
    # registered, first called, as pluggy does it.
    for implementation in reversed(implementations):
        try:
            implementation.function(*[arguments[name] for name in implementation.argnames])
        except Exception as error:
            problems.append(
                f"listener {implementation.plugin_name} raised in {hook}: "
                f"{type(error).__name__}: {error}. The solve goes on without it."
            )
    for problem in problems:
        warn_caller(problem, HookWarning)


def _load_installed(manager: pluggy.PluginManager) -> list[str]:
    """Fill ``_installed``; return a message for each listener that cannot be loaded."""
    found = scan(GROUP)
    problems = [f"listeners: unreadable metadata of {text}" for text in found.unreadable]
    _installed.clear()
    for offer in found.offers:
        plugin, info = _load_offer(manager, offer)
        _installed.append((plugin, info))
        if info.error and not offer.disabled:
            problems.append(f"listener {offer.qualified_name} {info.error}")
    return problems


def _load_offer(manager: pluggy.PluginManager, offer: Offer) -> tuple[object, PluginInfo]:
    plugin: object = None
    state, error = PluginState.USABLE, ""
    if offer.disabled:
        state, error = PluginState.UNUSABLE, "is disabled by the environment"
    else:
        try:
            plugin = offer.entry_point.load()
            if isinstance(plugin, (type, FunctionType)):
                plugin = plugin()
            if plugin is not None:
                manager.register(plugin, offer.qualified_name)
        except PluginIncompatibleError as problem:
            state, error = PluginState.INCOMPATIBLE, str(problem)
        # A plugin may raise anything, and a script's sys.exit() must not end the host.
        except (Exception, SystemExit) as problem:
            state = PluginState.LOAD_FAILED
            error = f"failed to load: {type(problem).__name__}: {problem}"
    return plugin, PluginInfo(
        name=offer.name,
        group=GROUP,
        package=offer.package,
        version=offer.version,
        state=state,
        error=error,
        target=offer.entry_point.value,
    )


def _label(listener: object) -> str:
    name = getattr(listener, "__name__", None) or type(listener).__qualname__
    return f"{name} at {id(listener):#x}"
