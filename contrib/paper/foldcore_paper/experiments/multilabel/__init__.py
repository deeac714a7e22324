"""Smooth top-k classification: three backward passes behind one forward pass (Figure 7, E.3)."""

from .experiment import MultilabelExperiment

__all__ = ["MultilabelExperiment"]
