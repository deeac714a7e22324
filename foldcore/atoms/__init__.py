"""Named sets and terms: what they are, their projection or prox, and their lowering."""

from .base import Atom, FieldSpec, Regularizer, SetAtom
from .recognition import recognise_set
from .sets import (
    AffineSet,
    Box,
    BoxHyperplane,
    CappedSimplex,
    HalfSpace,
    L1Ball,
    L2Ball,
    Simplex,
)
from .terms import L1

__all__ = [
    "L1",
    "AffineSet",
    "Atom",
    "Box",
    "BoxHyperplane",
    "CappedSimplex",
    "FieldSpec",
    "HalfSpace",
    "L1Ball",
    "L2Ball",
    "Regularizer",
    "SetAtom",
    "Simplex",
    "recognise_set",
]
