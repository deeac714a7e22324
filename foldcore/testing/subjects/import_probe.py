"""Import a plugin in a process of its own and see what that costs and what it changes."""

from __future__ import annotations

import atexit
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...registry.discovery import normalise

TIME_LIMIT = 60.0
"""Wall-clock seconds after which an import counts as never returning."""

_SERVER = """
import importlib, json, os, random, sys, threading, time
import numpy, torch, foldcore
for name in dir(foldcore):  # the face is lazy
    getattr(foldcore, name)
def state():
    return {
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's random state": hash(torch.get_rng_state().numpy().tobytes()),
        "numpy's random state": hash(numpy.random.get_state()[1].tobytes()),
        "Python's random state": hash(random.getstate()),
        "the working directory": os.getcwd(),
        "sys.excepthook": sys.excepthook is sys.__excepthook__,
        "the number of threads": threading.active_count(),
    }
def probe(target, path, dependencies, report, output, **_):
    printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.path[:] = path
    importlib.invalidate_caches()
    for module in dependencies:
        try:
            importlib.import_module(module)
        except ImportError:
            pass
    before = state()
    modules = set(sys.modules)
    module, _, attribute = target.partition(":")
    started, processor = time.perf_counter(), time.process_time()
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        error = ""
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
    content = {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
        "error": error,
        "changed": [name for name, value in state().items() if value != before[name]],
        "modules": sorted(set(sys.modules) - modules),
    }
    sys.stdout.flush()
    with open(report, "w", encoding="utf-8") as file:
        json.dump(content, file)
    os._exit(0)
def ended(child, limit):
    until = time.monotonic() + limit
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        probe(**request)
    print(json.dumps(ended(child, request["limit"])), flush=True)
"""


@dataclass(frozen=True)
class ImportReport:
    """What an import in a fresh process did, beyond foldcore, torch and its own dependencies.

    Attributes:
        seconds: Wall-clock time, in seconds.
        processor_seconds: Processor time, which other load on the machine does not change.
        error: What it raised; empty for nothing.
        changed: Global states that it changed.
        modules: Names of the modules that it imported.
        output: What it printed.
    """

    seconds: float
    processor_seconds: float
    error: str
    changed: tuple[str, ...]
    modules: tuple[str, ...]
    output: str


class _Server:
    """A process that has torch and foldcore loaded, and forks a fresh child for each import.

    It needs a system that can fork. An interpreter with torch takes seconds to start, a fork of one
    milliseconds; what a child imports or changes ends with it.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            text=True,
        )
        atexit.register(self.close)

    def ask(self, request: Mapping[str, object]) -> int | None:
        """Return the exit code of the child that serves the request; None where it had to be killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise OSError(f"the process for imports ended with code {self._process.wait()}")
        code: int | None = json.loads(answer)
        return code

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@cache
def _server(process: int) -> _Server:
    """Return the server of a process; a forked one starts its own."""
    return _Server()


def probe_import(target: str, package: str, report_file: str) -> ImportReport:
    """Import ``module:attribute`` of an installed distribution in a process of its own.

    Args:
        target: As in the distribution's entry point.
        package: The distribution; the modules of what it requires are imported before the clock runs.
        report_file: A file that may be written to, and one beside it with ".output" added.

    Raises:
        TimeoutError: If the import does not return within :data:`TIME_LIMIT`.
        OSError: If the process could not report.
    """
    output_file = f"{report_file}.output"
    code = _server(os.getpid()).ask(
        {
            "target": target,
            "path": [os.getcwd(), *(p for p in sys.path if p)],
            "dependencies": _dependencies(package),
            "report": report_file,
            "output": output_file,
            "limit": TIME_LIMIT,
        }
    )
    printed = Path(output_file).read_text(encoding="utf-8", errors="replace")
    Path(output_file).unlink()
    if code is None:
        raise TimeoutError(f"importing {target} did not return within {TIME_LIMIT:.0f} s")
    try:
        with open(report_file, encoding="utf-8") as file:
            content: Mapping[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        raise OSError(
            f"the process that imports {target} ended with code {code} and no report: "
            f"{printed.strip()[-500:]}"
        ) from error
    return ImportReport(
        seconds=content["seconds"],
        processor_seconds=content["processor_seconds"],
        error=content["error"],
        changed=tuple(content["changed"]),
        modules=tuple(content["modules"]),
        output=printed,
    )


def _dependencies(package: str) -> list[str]:
    """Return the importable names of what a distribution requires; missing ones are left out."""
    wanted = {
        normalise(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])
        for requirement in importlib.metadata.requires(package) or []
        if "extra ==" not in requirement
    }
    return sorted(
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if wanted & {normalise(owner) for owner in owners} and not module.startswith("_")
    )
