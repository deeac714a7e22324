"""The GMRES cycle's own properties; its use as a solver is tested in foldcore's adjoint plugins."""

from __future__ import annotations

import torch

from foldcore.numerics.orthogonal import orthogonalise
from foldcore.testing import random_cotangent, random_matrix


def test_reorthogonalisation_reaches_rounding_error() -> None:
    """One pass over a vector that is in the space to ten digits leaves six digits of it there."""
    frame = torch.linalg.qr(random_matrix(2, 30, 1.0)).Q.mT
    basis, outside = frame[:, :20], frame[:, 25]
    inside = torch.einsum("bk,bks->bs", random_cotangent(2, 20), basis)
    rest, column = orthogonalise(inside + 1e-10 * outside, basis)
    overlap = torch.einsum("bks,bs->bk", basis, rest).abs().amax(-1)
    assert (overlap < 1e-13 * rest.norm(dim=-1)).all()
    assert (column - random_cotangent(2, 20)).norm() < 1e-13 * column.norm()
