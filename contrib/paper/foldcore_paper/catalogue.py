"""The experiments by name, in the order of ``run all``."""

from __future__ import annotations

from importlib import import_module

from .errors import PaperError
from .experiment import AnyExperiment

# Imported on request: `--help` and one experiment need not import the packages of all.
EXPERIMENTS = {
    "convergence": "foldcore_paper.experiments.convergence:ConvergenceExperiment",
    "stepsize": "foldcore_paper.experiments.stepsize:StepSizeExperiment",
    "bilinear": "foldcore_paper.experiments.bilinear:BilinearExperiment",
    "denoising": "foldcore_paper.experiments.denoising:DenoisingExperiment",
    "multilabel": "foldcore_paper.experiments.multilabel:MultilabelExperiment",
    "portfolio": "foldcore_paper.experiments.portfolio:PortfolioExperiment",
}
ALL = "all"


def experiment_named(name: str) -> AnyExperiment:
    """Return the experiment of that name.

    Raises:
        PaperError: If there is none.
    """
    if name not in EXPERIMENTS:
        raise PaperError(
            f"no experiment is named {name!r}. There are: {', '.join(EXPERIMENTS)}, {ALL}."
        )
    module, _, cls = EXPERIMENTS[name].partition(":")
    experiment: AnyExperiment = getattr(import_module(module), cls)()
    return experiment


def experiments_named(name: str) -> list[AnyExperiment]:
    """Return the experiment of that name, or every one for ``all``."""
    return [experiment_named(one) for one in (EXPERIMENTS if name == ALL else [name])]
