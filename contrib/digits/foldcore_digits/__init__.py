"""A network that learns handwritten digits through a folded smooth top-k layer.

``python -m foldcore_digits`` runs everything; each module below is one part of it.
"""

from .bisection import bisect_top_k
from .closed_form import closed_form_top_k
from .data import Digits, load_digits, resample_within_groups
from .experiment import Experiment, Results, run
from .gradient_check import gradient_error
from .layer import smooth_top_k
from .losses import SoftmaxLoss, TopKLoss
from .meter import FoldMeter
from .network import BoundedNetwork
from .training import EpochRecord, TrainingConfig, train

__all__ = [
    "BoundedNetwork",
    "Digits",
    "EpochRecord",
    "Experiment",
    "FoldMeter",
    "Results",
    "SoftmaxLoss",
    "TopKLoss",
    "TrainingConfig",
    "bisect_top_k",
    "closed_form_top_k",
    "gradient_error",
    "load_digits",
    "resample_within_groups",
    "run",
    "smooth_top_k",
    "train",
]
