"""The command ``python -m foldcore_digits``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .data import load_digits
from .experiment import CLOSED_FORM, FOLDED, SOFTMAX, Experiment, Results, run
from .figure import save_curves
from .summary import print_summary
from .training import TrainingConfig

QUICK_EPOCHS = 6
QUICK_SAMPLES = 500
FIGURE_NAME = "training-curves.png"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run the experiment, save the figure and print the results."""
    options = _parse(arguments)
    # The tensors are tiny: a second thread costs more in waiting than it computes.
    torch.set_num_threads(1)
    training = TrainingConfig(epochs=options.epochs, seed=options.seed)
    experiment = Experiment(
        training=training,
        train_size=QUICK_SAMPLES if options.quick else None,
        seed=options.seed,
    )
    console = Console()
    results = _run_with_progress(experiment, console)
    figure = options.output / FIGURE_NAME
    save_curves(results, training.k, figure)
    print_summary(console, results, training.k, figure)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m foldcore_digits",
        description="Train a small network on handwritten digits through a folded smooth top-k layer.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        help="folder of the figure (%(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=_positive,
        help=f"passes over the samples ({TrainingConfig().epochs}; {QUICK_EPOCHS} with --quick)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of split, noise, weights and order (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"few epochs on {QUICK_SAMPLES} training samples"
    )
    options = parser.parse_args(arguments)
    if options.epochs is None:
        options.epochs = QUICK_EPOCHS if options.quick else TrainingConfig().epochs
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _run_with_progress(experiment: Experiment, console: Console) -> Results:
    digits = load_digits(experiment.seed, noise=experiment.noise, train_size=experiment.train_size)
    steps = experiment.training.steps(len(digits.train_labels))
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {
            name: progress.add_task(name, total=steps, start=False)
            for name in (FOLDED, CLOSED_FORM, SOFTMAX)
        }

        def on_step(name: str) -> None:
            progress.start_task(tasks[name])
            progress.advance(tasks[name])

        return run(experiment, on_step, digits)
