"""Import a plugin in a fresh process and see what that costs and what it changes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...registry.discovery import normalise

TIME_LIMIT = 60.0
"""Wall-clock seconds after which an import counts as never returning."""

_SCRIPT = """
import importlib, json, os, random, sys, threading, time
import numpy, torch, foldcore
for module in json.loads(sys.argv[2]):
    try:
        importlib.import_module(module)
    except ImportError:
        pass
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
before = state()
modules = set(sys.modules)
sys.stdout.flush()
module, _, attribute = sys.argv[1].partition(":")
started, processor = time.perf_counter(), time.process_time()
try:
    found = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    error = ""
except BaseException as raised:
    error = f"{type(raised).__name__}: {raised}"
report = {
    "seconds": time.perf_counter() - started,
    "processor_seconds": time.process_time() - processor,
    "error": error,
    "changed": [name for name, value in state().items() if value != before[name]],
    "modules": sorted(set(sys.modules) - modules),
}
sys.stdout.flush()
with open(sys.argv[3], "w", encoding="utf-8") as file:
    json.dump(report, file)
os._exit(0)
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


def probe_import(target: str, package: str, report_file: str) -> ImportReport:
    """Import ``module:attribute`` of an installed distribution in a new process.

    Args:
        target: As in the distribution's entry point.
        package: The distribution; the modules of what it requires are imported before the clock runs.
        report_file: A file that may be written to.

    Raises:
        TimeoutError: If the import does not return within :data:`TIME_LIMIT`.
        OSError: If the process could not report.
    """
    dependencies = json.dumps(_dependencies(package))
    command = [sys.executable, "-c", _SCRIPT, target, dependencies, report_file]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(
            f"importing {target} did not return within {TIME_LIMIT:.0f} s"
        ) from error
    try:
        with open(report_file, encoding="utf-8") as file:
            content: Mapping[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        raise OSError(
            f"the process that imports {target} ended with code {done.returncode} and no report: "
            f"{done.stderr.strip()[-500:]}"
        ) from error
    return ImportReport(
        seconds=content["seconds"],
        processor_seconds=content["processor_seconds"],
        error=content["error"],
        changed=tuple(content["changed"]),
        modules=tuple(content["modules"]),
        output=done.stdout + done.stderr,
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
