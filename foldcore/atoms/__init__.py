"""Named sets and terms: what they are, their projection or prox, and their lowering."""

from .base import Atom, FieldSpec, Projection, Regularizer, SetAtom
from .composed import Composition, Indicator, ProximalTerm
from .feasible_set import recognise_set
from .groups import GroupL2
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
from .spectral import NuclearNorm
from .terms import L1, ElasticNet, Huber

__all__ = [
    "L1",
    "AffineSet",
    "Atom",
    "Box",
    "BoxHyperplane",
    "CappedSimplex",
    "Composition",
    "ElasticNet",
    "FieldSpec",
    "GroupL2",
    "HalfSpace",
    "Huber",
    "Indicator",
    "L1Ball",
    "L2Ball",
    "NuclearNorm",
    "Projection",
    "ProximalTerm",
    "Regularizer",
    "SetAtom",
    "Simplex",
    "recognise_set",
]
