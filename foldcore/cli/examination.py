"""``foldcore doctor CONFIG``: build a layer from a file, run it, print its diagnosis."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..building.build import build
from ..building.reading import parse_config
from ..errors import FoldcoreWarning, InputError
from ..fold.diagnosis import Diagnosis, diagnose
from ..param import Param
from ..solution import Solution
from .console import new_table, out


def examine(file: Path, params: Path | None, *, batch: int, scale: float, seed: int) -> bool:
    """Run a configured layer and print statuses, certificates and the diagnosis of its gradients.

    Args:
        file: The configuration.
        params: File of parameters; None draws them from a normal distribution.
        batch, scale, seed: Of the random parameters.

    Returns:
        Whether every sample was solved and the layer has gradients to diagnose.

    Raises:
        FoldcoreError: If the layer cannot be built, or refuses the parameters.
    """
    # Every sample's status is wanted, not the first failure.
    config = parse_config(file).model_copy(update={"on_failure": "mask"})
    layer = build(config)
    out.print(str(layer), markup=False)
    declared = {name: one for name, one in layer.problem.params.items() if not one.learnable}
    drawn = random_params(declared, batch, scale, seed) if params is None else read_params(params)
    values: dict[str, Any] = {**drawn}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FoldcoreWarning)
        solution = layer.solve(**values)
        _print_solution(solution)
        healthy = not solution.failed
        if not healthy:
            advice = "" if params else " Random parameters may have no solution: give --params."
            out.print(f"{len(solution.failed)} samples failed; no gradient to diagnose.{advice}")
        elif layer.rule is None:
            out.print("The solver differentiates itself: there is no fixed point to diagnose.")
        else:
            _print_diagnosis(diagnose(layer, seed=seed, **values))
    for message in dict.fromkeys(str(one.message) for one in caught):
        out.print(f"warning: {message}", soft_wrap=True, markup=False, style="yellow")
    return healthy


def random_params(
    declared: Mapping[str, Param], batch: int, scale: float, seed: int
) -> dict[str, Tensor]:
    """Return normal parameters in float64; (B, *shape), and B Bᵀ/n + I where declared ``psd``."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, param in declared.items():
        drawn = torch.randn(batch, *param.shape, generator=generator, dtype=torch.float64)
        if param.psd:
            size = param.shape[-1]
            drawn = drawn @ drawn.mT / size + torch.eye(size, dtype=torch.float64)
        values[name] = scale * drawn
    return values


def read_params(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.npz`` archive, or of a ``.pt`` file that holds a dict of them.

    Raises:
        InputError: If the file is missing, or is of neither kind.
    """
    if not file.is_file():
        raise InputError(f"--params: no file {str(file)!r}.")
    try:
        if file.suffix == ".npz":
            with np.load(file) as archive:
                return {name: torch.from_numpy(archive[name]) for name in archive.files}
        found = torch.load(file, weights_only=True)
    except (ValueError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(
            f"--params: {file} cannot be read ({type(error).__name__}: {error}). Expected a .npz "
            f"archive of numpy.savez, or a .pt file of torch.save with a dict of tensors."
        ) from error
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(f"--params: {file} holds no dict of tensors by parameter name.")
    return found


def _print_solution(solution: Solution) -> None:
    kkt = solution.kkt
    table = new_table("sample", "status", "KKT residual", "margin", "solver's message")
    for i, status in enumerate(solution.status):
        residual = "" if kkt is None else f"{float(kkt.residual.reshape(-1)[i]):.1e}"
        margin = "" if kkt is None else f"{float(kkt.margin.reshape(-1)[i]):.1e}"
        message = solution.messages[i] if solution.messages else ""
        table.add_row(str(i), status.value, residual, margin, message)
    out.print(table)


def _print_diagnosis(found: Diagnosis) -> None:
    columns = {
        "fixed-point residual": found.fixed_point_residual,
        "ρ(Φ)": found.spectral_radius,
        "cond(I - Φ)": found.condition,
        "gradient error": found.gradient_error,
        "against differences": found.difference_error,
    }
    table = new_table("sample", *columns)
    for i in range(len(found.spectral_radius)):
        table.add_row(str(i), *(f"{float(value[i]):.2g}" for value in columns.values()))
    out.print(table)
    for sentence in found.advice or ("Nothing to improve was found.",):
        out.print(f"- {sentence}", soft_wrap=True, markup=False)
