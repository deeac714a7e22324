"""Hooks: listeners hear every event, and none can break a solve or another listener."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pluggy
import pytest
import torch

from foldcore import hooks
from foldcore.errors import HookWarning, InputError, PluginIncompatibleError
from foldcore.hooks import HookSpecs, hookimpl, hookspec, listening
from foldcore.registry import PluginState, discovery
from foldcore.solution import AdjointSolution, Solution, Status

SOLUTION = Solution(torch.zeros(2, 3), (Status.OPTIMAL, Status.OPTIMAL))
ADJOINT = AdjointSolution(
    torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, dtype=torch.int64), torch.ones(2).bool()
)
RESIDUAL = torch.zeros(2)
EVENTS = {
    "foldcore_solve_started": (hooks.solve_started, {"path": "", "batch": 2}),
    "foldcore_solve_finished": (
        hooks.solve_finished,
        {"path": "rule.inner", "solution": SOLUTION, "seconds": 0.5},
    ),
    "foldcore_residual_checked": (
        hooks.residual_checked,
        {"path": "", "residual": RESIDUAL, "seconds": 0.25},
    ),
    "foldcore_adjoint_finished": (
        hooks.adjoint_finished,
        {"path": "", "adjoint": ADJOINT, "seconds": 0.125},
    ),
}
LISTENER = """
from foldcore.hooks import hookimpl
heard = []
class Plugin:
    @hookimpl
    def foldcore_solve_started(self, path):
        heard.append(path)
"""


class Recorder:
    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, object]]] = []

    @hookimpl
    def foldcore_solve_started(self, path: str, batch: int) -> None:
        self.heard.append(("foldcore_solve_started", {"path": path, "batch": batch}))

    @hookimpl
    def foldcore_solve_finished(self, path: str, solution: Solution, seconds: float) -> None:
        told = {"path": path, "solution": solution, "seconds": seconds}
        self.heard.append(("foldcore_solve_finished", told))

    @hookimpl
    def foldcore_residual_checked(self, path: str, residual: torch.Tensor, seconds: float) -> None:
        told = {"path": path, "residual": residual, "seconds": seconds}
        self.heard.append(("foldcore_residual_checked", told))

    @hookimpl
    def foldcore_adjoint_finished(
        self, path: str, adjoint: AdjointSolution, seconds: float
    ) -> None:
        told = {"path": path, "adjoint": adjoint, "seconds": seconds}
        self.heard.append(("foldcore_adjoint_finished", told))


class Grumpy:
    @hookimpl
    def foldcore_solve_started(self) -> None:
        raise ValueError("planted")


Plant = Callable[[str, str], Path]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    """Put a distribution with one listener on ``sys.path``."""
    before = set(sys.modules)
    with monkeypatch.context() as patch:

        def put(name: str, source: str) -> Path:
            root = tmp_path / name
            metadata = root / f"heard_{name}-1.0.dist-info"
            metadata.mkdir(parents=True)
            (metadata / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: heard-{name}\nVersion: 1.0\n"
            )
            (metadata / "entry_points.txt").write_text(
                f"[foldcore.hooks]\n{name} = heard_{name}:Plugin\n"
            )
            (root / f"heard_{name}.py").write_text(source)
            patch.syspath_prepend(str(root))
            return root

        yield put
    for module in set(sys.modules) - before:
        if module.startswith("heard_"):
            del sys.modules[module]
    hooks.rescan()


def test_every_hook_is_specified_documented_and_emitted() -> None:
    names = {name for name in vars(HookSpecs) if name.startswith("foldcore_")}
    assert names == set(EVENTS)
    for name in names:
        text = getattr(HookSpecs, name).__doc__ or ""
        for argument in EVENTS[name][1]:
            assert f"{argument}:" in text, f"{name} does not document {argument}"
        assert ("in seconds" in text) == ("seconds" in EVENTS[name][1])
        assert getattr(hooks.hook_manager().hook, name).has_spec()


@pytest.mark.parametrize("name", EVENTS)
def test_events_arrive_whole(name: str) -> None:
    emit, arguments = EVENTS[name]
    recorder = Recorder()
    with listening(recorder):
        emit(**arguments)  # type: ignore[operator]
    emit(**arguments)  # type: ignore[operator]
    assert recorder.heard == [(name, arguments)]


def test_a_module_of_functions_listens() -> None:
    heard: list[int] = []

    @hookimpl
    def foldcore_solve_started(batch: int) -> None:
        heard.append(batch)

    module = type(sys)("listening_module")
    module.foldcore_solve_started = foldcore_solve_started  # type: ignore[attr-defined]
    with listening(module):
        hooks.solve_started("", 7)
    assert heard == [7]


def test_an_exception_becomes_one_warning_and_the_others_hear() -> None:
    first, last = Recorder(), Recorder()
    with listening(first), listening(Grumpy()), listening(last):
        with pytest.warns(HookWarning) as caught:
            hooks.solve_started("rule.inner", 2)
        assert len(caught) == 1
        message = str(caught[0].message)
        assert message.startswith("listener Grumpy at 0x")
        assert "raised in foldcore_solve_started: ValueError: planted" in message
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(HookWarning):
                hooks.solve_started("rule.inner", 2)
    assert len(first.heard) == len(last.heard) == 2


def test_keyboard_interrupt_of_a_listener_passes() -> None:
    class Interrupted:
        @hookimpl
        def foldcore_solve_started(self) -> None:
            raise KeyboardInterrupt

    with listening(Interrupted()), pytest.raises(KeyboardInterrupt):
        hooks.solve_started("", 1)


class Unmarked:
    def foldcore_solve_started(self) -> None: ...


class Misspelt:
    @hookimpl
    def foldcore_solve_begun(self) -> None: ...


class WrongArgument:
    @hookimpl
    def foldcore_solve_started(self, batches: int) -> None: ...


class Wrapper:
    @hookimpl(wrapper=True)
    def foldcore_solve_started(self) -> Iterator[None]:
        yield


class OldWrapper:
    @hookimpl(hookwrapper=True)
    def foldcore_solve_started(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        (Unmarked, "mark its functions with hookimpl"),
        (Misspelt, "unknown hook 'foldcore_solve_begun'"),
        (WrongArgument, "batches"),
        (Wrapper, "wraps 'foldcore_solve_started'"),
        (OldWrapper, "wraps 'foldcore_solve_started'"),
    ],
)
@pytest.mark.parametrize("direct", [False, True])
def test_listeners_that_would_not_be_called_are_refused(
    listener: type[object], words: str, direct: bool
) -> None:
    planted = listener()
    add = hooks.hook_manager().register if direct else hooks.register
    with pytest.raises(PluginIncompatibleError, match=words):
        add(planted)
    assert not hooks.hook_manager().is_registered(planted)
    recorder = Recorder()
    with listening(recorder):
        hooks.solve_started("", 1)
    assert len(recorder.heard) == 1


def test_registering_twice_or_removing_a_stranger_is_an_error() -> None:
    recorder = Recorder()
    with pytest.raises(InputError, match="is not registered"):
        hooks.unregister(recorder)
    with listening(recorder), pytest.raises(InputError, match="is registered already"):
        hooks.register(recorder)
    assert not hooks.hook_manager().is_registered(recorder)


def test_a_listener_is_removed_when_the_block_fails() -> None:
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError), listening(recorder):
        raise ZeroDivisionError
    assert not hooks.hook_manager().is_registered(recorder)


@pytest.mark.parametrize(
    ("source", "state", "words"),
    [
        ("import no_such_module", PluginState.LOAD_FAILED, "ModuleNotFoundError"),
        ("raise SystemExit(2)", PluginState.LOAD_FAILED, "SystemExit: 2"),
        ("class Plugin: pass", PluginState.INCOMPATIBLE, "implements no hook"),
        ("class Plugin:\n  def __init__(self, a): pass", PluginState.LOAD_FAILED, "TypeError"),
    ],
)
def test_installed_listeners_load_and_broken_ones_warn(
    plant: Plant, source: str, state: PluginState, words: str
) -> None:
    plant("good", LISTENER)
    plant("bad", source)
    kept = Recorder()
    with listening(kept):
        with pytest.warns(HookWarning, match=f"listener heard-bad:bad .*{words}") as caught:
            hooks.rescan()
        assert len(caught) == 1
        hooks.solve_started("rule.inner", 3)
    assert sys.modules["heard_good"].heard == ["rule.inner"]
    assert len(kept.heard) == 1
    states = {line.name: line.state for line in hooks.listeners()}
    assert states["good"] is PluginState.USABLE
    assert states["bad"] is state


@pytest.mark.parametrize(("made", "heard"), [("Listener()", ["rule.inner"]), ("None", [])])
def test_a_function_makes_the_listener_or_declines(
    plant: Plant, made: str, heard: list[str]
) -> None:
    source = LISTENER.replace("class Plugin", "class Listener")
    plant("choosy", f"{source}\ndef Plugin(): return {made}\n")
    hooks.rescan()
    hooks.solve_started("rule.inner", 3)
    assert sys.modules["heard_choosy"].heard == heard
    info = next(line for line in hooks.listeners() if line.name == "choosy")
    assert info.state is PluginState.USABLE


def test_disabled_listeners_are_listed_but_silent(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("good", LISTENER)
    with monkeypatch.context() as patch:
        patch.setenv(discovery.DISABLE_VARIABLE, "good")
        hooks.rescan()
        info = next(line for line in hooks.listeners() if line.name == "good")
        assert info.state is PluginState.UNUSABLE
        assert "heard_good" not in sys.modules
    hooks.rescan()
    hooks.solve_started("", 1)
    assert sys.modules["heard_good"].heard == [""]
    hooks.rescan()
    hooks.solve_started("", 1)
    assert len(sys.modules["heard_good"].heard) == 2


def test_first_use_in_threads_makes_one_manager_that_hears(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve = "from foldcore import hooks\nhooks.solve_started('import', 1)\n"
    plant("slow", "import time\ntime.sleep(0.05)\n" + solve + LISTENER)
    monkeypatch.setattr(hooks, "_manager", None)
    monkeypatch.setattr(hooks, "_ready", False)
    start = threading.Barrier(6)
    seen: list[pluggy.PluginManager] = []

    def work() -> None:
        start.wait()
        hooks.solve_started("thread", 1)
        seen.append(hooks.hook_manager())

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert len(set(map(id, seen))) == 1
    assert sys.modules["heard_slow"].heard == ["thread"] * 6


def test_an_interrupted_first_use_starts_again(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = plant("rude", "raise KeyboardInterrupt")
    monkeypatch.setattr(hooks, "_manager", None)
    monkeypatch.setattr(hooks, "_ready", False)
    with pytest.raises(KeyboardInterrupt):
        hooks.hook_manager()
    (root / "heard_rude.py").write_text(LISTENER)
    hooks.solve_started("again", 1)
    assert sys.modules["heard_rude"].heard == ["again"]


def test_markers_belong_to_the_project() -> None:
    assert hookimpl.project_name == hookspec.project_name == "foldcore"
