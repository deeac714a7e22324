"""The command ``foldcore-paper``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .catalogue import ALL, EXPERIMENTS, experiment_named, experiments_named
from .errors import PaperError
from .experiment import AnyExperiment
from .runner import RunFolder, run_experiment
from .settings import Size, read_settings

app = typer.Typer(
    help="Run the experiments of 'Backpropagation of Unrolled Solvers with Folded Optimization'.",
    no_args_is_help=True,
    add_completion=False,
)
console = Console()
Output = Annotated[Path, typer.Option(help="Folder of results and figures.")]


@app.command()
def run(
    name: Annotated[str, typer.Argument(help=f"{' | '.join(EXPERIMENTS)} | {ALL}")],
    quick: Annotated[bool, typer.Option("--quick", help="Minutes instead of hours.")] = False,
    config: Annotated[Path | None, typer.Option(help="A YAML file of your own settings.")] = None,
    output: Output = Path("paper-output"),
    data: Annotated[
        Path | None, typer.Option(help="Folder of CIFAR-100's pickled batches (multilabel).")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
) -> None:
    """Run an experiment; an interrupted run goes on where it was."""
    size = Size.QUICK if quick else Size.FULL
    try:
        experiments = experiments_named(name)
        if config is not None and len(experiments) > 1:
            raise PaperError(
                "--config holds the settings of one experiment: name it instead of 'all'."
            )
        for experiment in experiments:
            _run_one(experiment, size, config, output / size.value / experiment.name, data, jobs)
    except PaperError as error:
        _fail(error)


@app.command()
def figures(output: Output = Path("paper-output")) -> None:
    """Draw the figures again from the results that are there."""
    try:
        found = sorted(output.glob("*/*/results.csv"))
        if not found:
            raise PaperError(
                f"{output} holds no results. Run an experiment first: foldcore-paper run all."
            )
        for results in found:
            experiment = experiment_named(results.parent.name)
            _print_paths(experiment.draw(pd.read_csv(results), results.parent))
    except PaperError as error:
        _fail(error)


def _run_one(
    experiment: AnyExperiment,
    size: Size,
    config: Path | None,
    folder: Path,
    data: Path | None,
    jobs: int,
) -> None:
    settings = read_settings(experiment, size, config)
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(experiment.name, total=None)
        results = run_experiment(
            experiment, settings, folder, jobs=jobs, data=data,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    for caption, table in experiment.summarise(results).items():
        _print_table(caption, table)
    _print_paths([RunFolder(folder).results, *experiment.draw(results, folder)])


def _print_table(caption: str, table: pd.DataFrame) -> None:
    shown = Table(title=caption, title_justify="left")
    for column in table.columns:
        shown.add_column(str(column))
    for row in table.itertuples(index=False):
        shown.add_row(
            *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row)
        )
    console.print(shown)


def _print_paths(paths: list[Path]) -> None:
    for path in paths:
        console.print(f"  {path}", highlight=False, soft_wrap=True)


def _fail(error: PaperError) -> None:
    Console(stderr=True).print(f"foldcore-paper: {error}", highlight=False, soft_wrap=True)
    raise typer.Exit(1) from error
