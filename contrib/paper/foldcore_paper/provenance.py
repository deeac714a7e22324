"""What a result was made with: settings, versions, machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from .experiment import Settings

PACKAGES = ("torch", "numpy", "scipy", "pandas", "cvxpy", "cvxpylayers", "diffcp", "scs", "qpth", "osqp",
            "clarabel", "gurobipy", "scikit-learn")  # fmt: skip


def fingerprint(settings: Settings) -> str:
    """Return a short digest of the settings: results of equal digests may be put together."""
    text = json.dumps(settings.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def provenance(settings: Settings) -> dict[str, Any]:
    """Return what identifies a result: its settings and their fingerprint; no runs yet."""
    return {
        "settings": settings.model_dump(mode="json"),
        "fingerprint": fingerprint(settings),
        "runs": [],
    }


def environment(device: str, data: Path | None) -> dict[str, Any]:
    """Return what a run computes with: versions, machine, device, the user's data folder."""
    installed = {
        name: one.version
        for one in distributions()
        if (name := one.metadata["Name"]) in PACKAGES or name.startswith("foldcore")
    }
    return {
        "versions": dict(sorted(installed.items())),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "data": None if data is None else str(data),
    }
