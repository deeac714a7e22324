"""Discovery: planted distributions show each state of a plugin, and no broken one hides another."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from foldcore.config import PluginConfig
from foldcore.errors import (
    ConfigError,
    DuplicatePluginError,
    PluginError,
    PluginIncompatibleError,
    PluginLoadError,
    PluginNotInstalledError,
    PluginUnusableError,
    UnknownPluginError,
)
from foldcore.interfaces import API_VERSION
from foldcore.interfaces.adjoint import AdjointSolver
from foldcore.interfaces.solver import Capabilities, Solver
from foldcore.registry import (
    PluginState,
    Registry,
    adjoint_solvers,
    discovery,
    solvers,
    update_rules,
)
from foldcore.registry import registry as registry_module
from foldcore.registry.candidate import Requirements

GROUP = "planted.solvers"
HEAD = """
from foldcore.interfaces import API_VERSION
from foldcore.interfaces.adjoint import AdjointSolver
from foldcore.interfaces.solver import Capabilities, Solver
from foldcore.interfaces.rule import UpdateRule
from foldcore.config import PluginConfig
"""
GOOD = (
    HEAD
    + """
class Plugin(Solver):
    api_version = API_VERSION
    config_class = PluginConfig
    capabilities = Capabilities(frozenset())
    def __init__(self, config): pass
    def open(self, structure): raise NotImplementedError
"""
)
GOOD_RULE = (
    HEAD
    + """
class Plugin(UpdateRule):
    api_version = API_VERSION
    config_class = PluginConfig
    def __init__(self, config): pass
    def unsupported_reason(self, structure): return None
    def bind(self, program, inner): raise NotImplementedError
"""
)
GOOD_ADJOINT = (
    HEAD
    + """
class Plugin(AdjointSolver):
    api_version = API_VERSION
    config_class = PluginConfig
    def __init__(self, config): pass
    def solve(self, operator, cotangent): raise NotImplementedError
"""
)

Plant = Callable[..., Path]


class Explicit(Solver):
    api_version = API_VERSION
    config_class = PluginConfig
    capabilities = Capabilities(frozenset())

    def __init__(self, config: PluginConfig) -> None:
        pass

    def open(self, structure: object) -> object:  # type: ignore[override]
        raise NotImplementedError


class Other(Explicit):
    pass


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    """Put a distribution with one entry point and one module on ``sys.path``."""
    before = set(sys.modules)
    monkeypatch.delenv(discovery.DISABLE_VARIABLE, raising=False)

    def put(
        name: str, source: str, *, package: str = "", group: str = GROUP, place: str = ""
    ) -> Path:
        package = package or f"planted-{name}"
        module = package.replace("-", "_")
        root = tmp_path / (place or package)
        metadata = root / f"{module}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:Plugin\n")
        (root / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(root))
        return root

    yield put
    for module in set(sys.modules) - before:
        if module.startswith(("planted_", "foldcore_")):
            del sys.modules[module]
    for real in (solvers, update_rules, adjoint_solvers):
        real.rescan()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry[Solver]:
    """Return a registry over a group of its own, so that installed plugins do not matter."""
    known = {"gurobi": "foldcore-gurobi"}
    monkeypatch.setattr(registry_module, "known_packages", lambda group: known)
    return Registry("solver", GROUP, Requirements(Solver, {"capabilities": Capabilities}))


def test_unknown_name_suggests_and_lists(plant: Plant, registry: Registry[Solver]) -> None:
    plant("osqp", GOOD)
    plant("highs", GOOD)
    with pytest.raises(UnknownPluginError) as caught:
        registry.load("osqpp", "rule.inner.solver")
    assert str(caught.value) == (
        "Unknown solver 'osqpp' at rule.inner.solver. Did you mean 'osqp'? Installed: highs, osqp. "
        "Known but not installed: gurobi (pip install foldcore-gurobi)."
    )
    assert registry.state("osqpp") is PluginState.UNKNOWN


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("OSQP", "osqp"), ("opsq", "osqp"), ("gurobbi", "gurobi"), ("planted_osqp:osq", None)],
)
def test_typos(plant: Plant, registry: Registry[Solver], typo: str, meant: str | None) -> None:
    plant("osqp", GOOD)
    suggestion = meant or "planted-osqp:osqp"
    with pytest.raises(UnknownPluginError, match=f"Did you mean '{suggestion}'"):
        registry.load(typo)
    with pytest.raises(UnknownPluginError) as caught:
        registry.load("xyzzy")
    assert "Did you mean" not in str(caught.value)


def test_known_but_not_installed(registry: Registry[Solver]) -> None:
    with pytest.raises(PluginNotInstalledError) as caught:
        registry.load("gurobi", "solver")
    assert str(caught.value) == (
        "Solver 'gurobi' at solver is known but not installed: pip install foldcore-gurobi. "
        "Installed: none. Known but not installed: gurobi (pip install foldcore-gurobi)."
    )
    info = registry.info("gurobi")
    assert (info.state, info.package) == (PluginState.NOT_INSTALLED, "foldcore-gurobi")
    assert registry.state("foldcore-gurobi:gurobi") is PluginState.NOT_INSTALLED
    assert registry.state("other:gurobi") is PluginState.UNKNOWN


@pytest.mark.parametrize(
    ("source", "cause", "words"),
    [
        ("import no_such_module", ModuleNotFoundError, "No module named 'no_such_module'"),
        ("raise SystemExit(3)", SystemExit, "SystemExit: 3"),
        ("raise ValueError('planted')", ValueError, "ValueError: planted"),
        ("def broken(:", SyntaxError, "SyntaxError"),
        ("Plugging = 1", AttributeError, "Plugin"),
        (
            GOOD + "    @classmethod\n    def unusable_reason(cls): return 1 / 0\n",
            ZeroDivisionError,
            "its check failed",
        ),
    ],
)
def test_failed_to_load(
    plant: Plant,
    registry: Registry[Solver],
    source: str,
    cause: type[BaseException],
    words: str,
) -> None:
    plant("broken", source)
    plant("fine", GOOD)
    with pytest.raises(PluginLoadError) as caught:
        registry.load("broken", "solver")
    assert isinstance(caught.value.__cause__, cause)
    assert words in str(caught.value)
    assert str(caught.value).startswith("Solver 'broken' at solver ")
    assert "planted-broken 1.0 (planted_broken:Plugin)" in str(caught.value)
    assert registry.load("fine").__module__ == "planted_fine"


def test_keyboard_interrupt_passes(plant: Plant, registry: Registry[Solver]) -> None:
    plant("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry.load("slow")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (GOOD.replace("= API_VERSION", "= 999"), "was written for interface version 999"),
        (GOOD.replace("= API_VERSION", "= True"), "was written for interface version True"),
        (GOOD.replace("api_version =", "api_versions ="), "states no api_version"),
        (GOOD.replace("config_class = PluginConfig", ""), "config_class None"),
        (GOOD.replace("config_class = PluginConfig", "config_class = dict"), "of PluginConfig"),
        (GOOD.replace("capabilities =", "abilities ="), "attribute capabilities"),
        (GOOD.replace("def open", "def opens"), "abstract: open"),
        (GOOD_ADJOINT, "does not subclass foldcore.interfaces.solver.Solver"),
        ("def Plugin(): pass", "not a class"),
    ],
)
def test_incompatible(plant: Plant, registry: Registry[Solver], source: str, words: str) -> None:
    plant("old", source)
    with pytest.raises(PluginIncompatibleError) as caught:
        registry.load("old", "solver")
    message = str(caught.value)
    assert message.startswith("Solver 'old' at solver is incompatible with this core: planted-old")
    assert words in message
    assert f"supports interface version {API_VERSION}" in message


def test_api_version_is_not_inherited_across_packages(
    plant: Plant, registry: Registry[Solver]
) -> None:
    plant("base", GOOD)
    child = "import planted_base\nclass Plugin(planted_base.Plugin): pass\n"
    plant("child", child)
    with pytest.raises(PluginIncompatibleError, match=r"inherits api_version from planted_base\."):
        registry.load("child")
    plant("sure", child.replace("pass", "api_version = 1"))
    registry.rescan()
    assert registry.state("sure") is PluginState.USABLE


def test_unusable_here(plant: Plant, registry: Registry[Solver]) -> None:
    plant(
        "licensed",
        GOOD + "    @classmethod\n    def unusable_reason(cls): return 'the licence expired'\n",
    )
    with pytest.raises(PluginUnusableError) as caught:
        registry.load("licensed", "solver")
    assert str(caught.value).startswith(
        "Solver 'licensed' at solver cannot be used here: the licence expired (stated by planted-"
    )
    assert registry.state("licensed") is PluginState.UNUSABLE


def test_five_states_five_errors(plant: Plant, registry: Registry[Solver]) -> None:
    plant("broken", "import no_such_module")
    plant("old", GOOD.replace("= API_VERSION", "= 0"))
    plant("licensed", GOOD + "    unusable_reason = classmethod(lambda cls: 'no licence')\n")
    errors = []
    for name in ("nobody", "gurobi", "broken", "old", "licensed"):
        with pytest.raises(PluginError) as caught:
            registry.load(name)
        errors.append(type(caught.value))
    assert errors == [
        UnknownPluginError,
        PluginNotInstalledError,
        PluginLoadError,
        PluginIncompatibleError,
        PluginUnusableError,
    ]


def test_listing_imports_nothing(plant: Plant, registry: Registry[Solver]) -> None:
    plant("good", GOOD)
    plant("broken", "raise SystemExit")
    assert registry.names() == ("broken", "good")
    states = {line.name: line.state for line in registry.describe()}
    assert states == {
        "broken": PluginState.NOT_LOADED,
        "good": PluginState.NOT_LOADED,
        "gurobi": PluginState.NOT_INSTALLED,
    }
    assert "Installed: broken, good." in registry.availability()
    assert not {"planted_good", "planted_broken"} & set(sys.modules)


def test_broken_plugins_do_not_disappear(plant: Plant, registry: Registry[Solver]) -> None:
    plant("good", GOOD)
    plant("broken", "import no_such_module")
    plant("twice", GOOD)
    plant("twice", GOOD, package="planted-rival")
    assert list(registry.usable_classes()) == ["good"]
    said = registry.availability()
    assert "Installed: good. Broken: broken (failed to load: ModuleNotFoundError" in said
    assert "twice (duplicate: planted-rival 1.0" in said
    lines = [(line.name, line.package, line.state) for line in registry.describe(load=True)]
    assert lines == [
        ("broken", "planted-broken", PluginState.LOAD_FAILED),
        ("good", "planted-good", PluginState.USABLE),
        ("gurobi", "foldcore-gurobi", PluginState.NOT_INSTALLED),
        ("twice", "planted-rival", PluginState.DUPLICATE),
        ("twice", "planted-twice", PluginState.DUPLICATE),
    ]
    good = registry.info("good")
    assert good.target == "planted_good:Plugin"
    assert good.version == "1.0"
    assert good.error == ""
    assert good.load_seconds is not None
    assert good.load_seconds > 0


def test_duplicates_name_both_and_are_resolved(plant: Plant, registry: Registry[Solver]) -> None:
    plant("osqp", GOOD, package="first-osqp")
    plant("osqp", GOOD, package="second.OSQP")
    with pytest.raises(DuplicatePluginError) as caught:
        registry.load("osqp", "rule.inner.solver")
    assert str(caught.value) == (
        "Solver 'osqp' at rule.inner.solver is offered more than once: by first-osqp 1.0 "
        "(first_osqp:Plugin) and second.OSQP 1.0 (second.OSQP:Plugin). Write 'first-osqp:osqp' or "
        "'second.OSQP:osqp' to pick one, or uninstall what is not wanted."
    )
    assert registry.load("First_Osqp:osqp").__module__ == "first_osqp"
    assert registry.state("second-osqp:osqp") is PluginState.LOAD_FAILED


def test_one_distribution_seen_twice_is_one(
    plant: Plant, registry: Registry[Solver], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = plant("good", GOOD)
    monkeypatch.syspath_prepend(str(root))
    # An editable install leaves an egg-info in the checkout beside the dist-info elsewhere.
    egg = root / "planted_good.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: planted_good\nVersion: 1.0\n")
    (egg / "entry_points.txt").write_text(f"[{GROUP}]\ngood = planted_good:Plugin\n")
    plant("good", GOOD, place="copy")
    assert registry.names() == ("good",)
    assert registry.load("good").__module__ == "planted_good"


def test_one_distribution_that_offers_a_name_twice(
    plant: Plant, registry: Registry[Solver]
) -> None:
    root = plant("good", GOOD)
    listing = next(root.glob("*.dist-info")) / "entry_points.txt"
    listing.write_text(f"[{GROUP}]\ngood = planted_good:Plugin\ngood = planted_good:Plugin\n")
    assert registry.state("good") is PluginState.USABLE
    listing.write_text(f"[{GROUP}]\ngood = planted_good:Plugin\ngood = planted_good:Other\n")
    registry.rescan()
    with pytest.raises(DuplicatePluginError, match="Uninstall or repair"):
        registry.load("good")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("entry_points.txt", f"[{GROUP}]\nno equals sign\n"),
        ("METADATA", "Metadata-Version: 2.1\n"),
    ],
)
def test_malformed_metadata_is_reported(
    plant: Plant, registry: Registry[Solver], file: str, text: str
) -> None:
    root = plant("bad", GOOD)
    (next(root.glob("*.dist-info")) / file).write_text(text)
    plant("good", GOOD)
    assert registry.names() == ("good",)
    with pytest.raises(UnknownPluginError, match=f"Unreadable metadata: .*{root.name}"):
        registry.load("bad")


@pytest.mark.parametrize("value", ["all", "osqp", "highs, osqp", "planted-osqp:osqp"])
def test_disabled(
    plant: Plant, registry: Registry[Solver], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    plant("osqp", GOOD)
    monkeypatch.setenv(discovery.DISABLE_VARIABLE, value)
    assert registry.names() == ()
    with pytest.raises(PluginUnusableError) as caught:
        registry.load("osqp", "solver")
    assert str(caught.value).startswith(
        "Solver 'osqp' at solver is disabled: the environment variable FOLDCORE_DISABLE_PLUGINS"
    )
    assert "planted_osqp" not in sys.modules
    assert "Disabled by FOLDCORE_DISABLE_PLUGINS: osqp." in registry.availability()
    listed = {line.name: line.state for line in registry.describe(load=True)}
    assert listed["osqp"] is PluginState.UNUSABLE
    with registry.registered("osqp", Explicit):
        assert registry.load("osqp") is Explicit
    monkeypatch.setenv(discovery.DISABLE_VARIABLE, "osq")
    assert registry.state("osqp") is PluginState.USABLE


def test_disabling_one_rival_leaves_the_other(
    plant: Plant, registry: Registry[Solver], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("osqp", GOOD, package="planted-a")
    plant("osqp", GOOD, package="planted-b")
    monkeypatch.setenv(discovery.DISABLE_VARIABLE, "planted-a:osqp")
    assert registry.load("osqp").__module__ == "planted_b"
    assert registry.info("osqp").package == "planted-b"
    states = {line.package: line.state for line in registry.describe()}
    assert states["planted-a"] is PluginState.UNUSABLE
    assert states["planted-b"] is PluginState.USABLE


def test_explicit_registration(plant: Plant, registry: Registry[Solver]) -> None:
    plant("osqp", GOOD)
    registry.register("mine", Explicit)
    assert registry.load("mine") is Explicit
    assert registry.info("mine").package is None
    assert registry.names() == ("mine", "osqp")
    with pytest.raises(DuplicatePluginError, match=r"'mine' cannot be registered.*replace=True"):
        registry.register("mine", Other)
    with pytest.raises(DuplicatePluginError, match=r"belongs to planted-osqp 1\.0"):
        registry.register("osqp", Explicit)
    with registry.registered("osqp", Explicit, replace=True):
        assert registry.load("osqp") is Explicit
        assert registry.load("planted-osqp:osqp").__module__ == "planted_osqp"
    assert registry.load("osqp").__module__ == "planted_osqp"
    with registry.registered("mine", Other, replace=True):
        assert registry.load("mine") is Other
    assert registry.load("mine") is Explicit
    registry.rescan()
    assert registry.load("mine") is Explicit
    registry.unregister("mine")
    assert registry.state("mine") is PluginState.UNKNOWN
    with pytest.raises(UnknownPluginError, match="was not registered in this process"):
        registry.unregister("osqp")


def test_registration_refuses_bad_classes_and_names(registry: Registry[Solver]) -> None:
    with pytest.raises(PluginIncompatibleError, match="does not subclass"):
        registry.register("mine", dict)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="holds no ':'"):
        registry.register("a:b", Explicit)
    assert registry.names() == ()


def test_package_installed_later_clashes_with_a_registered_name(
    plant: Plant, registry: Registry[Solver]
) -> None:
    registry.register("osqp", Explicit)
    plant("osqp", GOOD)
    assert registry.load("osqp") is Explicit
    registry.rescan()
    with pytest.raises(DuplicatePluginError, match="registered in this process and planted-osqp"):
        registry.load("osqp")


def test_rescan_finds_repairs(plant: Plant, registry: Registry[Solver]) -> None:
    root = plant("late", "import no_such_module")
    assert registry.state("late") is PluginState.LOAD_FAILED
    (root / "planted_late.py").write_text(GOOD + "# longer than before, so that no cache fits\n")
    assert registry.state("late") is PluginState.LOAD_FAILED
    registry.rescan()
    assert registry.state("late") is PluginState.USABLE


def test_rescan_sees_through_the_path_finders_caches(
    plant: Plant, registry: Registry[Solver]
) -> None:
    root = plant("early", GOOD)
    assert registry.names() == ("early",)
    plant("late", GOOD, place="elsewhere")
    # The load fills the cache of file names, which holds no planted_late in this directory yet.
    registry.load("early")
    before = root.stat()
    for item in (root.parent / "elsewhere").iterdir():
        item.rename(root / item.name)
    # An install within one tick of the file system's clock leaves the directory's time as it was.
    os.utime(root, ns=(before.st_atime_ns, before.st_mtime_ns))
    registry.rescan()
    assert registry.names() == ("early", "late")
    assert registry.state("late") is PluginState.USABLE


def test_threads_import_once_and_agree(plant: Plant, registry: Registry[Solver]) -> None:
    log = "import time\ntime.sleep(0.05)\nopen(__file__ + '.log', 'a').write('x')\n"
    root = plant("slow", GOOD + log)
    plant("broken", "import time\ntime.sleep(0.02)\nraise SystemExit")
    start = threading.Barrier(8)
    seen: list[object] = []

    def work(index: int) -> None:
        start.wait()
        if index == 0:
            registry.rescan()
        seen.append(registry.names())
        seen.append(registry.state("broken"))
        seen.append(registry.load("slow"))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert len(seen) == 24
    assert len(set(map(str, seen))) == 3
    assert (root / "planted_slow.py.log").read_text() == "x"


def test_a_module_that_asks_the_registry_while_imported_does_not_block(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = "from foldcore.registry import solvers\nsolvers.names()\n"
    plant("curious", "import time\ntime.sleep(0.1)\n" + ask + GOOD, group="foldcore.solvers")
    solvers.rescan()
    loader = threading.Thread(target=lambda: solvers.load("curious"))
    importer = threading.Thread(target=lambda: __import__("planted_curious"))
    importer.start()
    time.sleep(0.02)
    loader.start()
    for thread in (loader, importer):
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert solvers.state("curious") is PluginState.USABLE


@pytest.mark.parametrize(
    ("real", "group", "source", "subject"),
    [
        (solvers, "foldcore.solvers", GOOD, "solver"),
        (update_rules, "foldcore.update_rules", GOOD_RULE, "update rule"),
        (adjoint_solvers, "foldcore.adjoint_solvers", GOOD_ADJOINT, "adjoint solver"),
    ],
)
def test_the_three_registries(
    plant: Plant, real: Registry[AdjointSolver], group: str, source: str, subject: str
) -> None:
    plant("planted", source, group=group)
    real.rescan()
    assert real.group == group
    assert real.load("planted").__module__ == "planted_planted"
    assert "planted" in real.usable_classes()
    with pytest.raises(UnknownPluginError, match=f"Unknown {subject} 'plantedd' at here"):
        real.load("plantedd", "here")


def test_catalogue_names_kinds_apart() -> None:
    catalogue: dict[str, Mapping[str, str]] = {
        r.group: discovery.known_packages(r.group) for r in (solvers, update_rules, adjoint_solvers)
    }
    assert all(catalogue.values())
    for known in catalogue.values():
        assert all(package == f"foldcore-{name}" for name, package in known.items())
    names = [name for known in catalogue.values() for name in known]
    assert {name for name in names if names.count(name) > 1} == {"fdpg"}, "a rule and its solver"
    assert discovery.known_packages("no.such.group") == {}


@pytest.mark.parametrize("real", [solvers, update_rules, adjoint_solvers])
def test_scan_agrees_with_importlib(real: Registry[Solver]) -> None:
    expected = {entry.name for entry in entry_points(group=real.group)}
    assert set(real.names()) == expected
