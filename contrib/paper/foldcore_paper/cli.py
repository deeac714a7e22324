"""The command ``foldcore-paper``."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .catalogue import ALL, EXPERIMENTS, experiment_named, experiments_named
from .errors import CellError, PaperError
from .experiment import AnyExperiment
from .report import shown, write_report
from .runner import Advance, RunFolder, read_results, run_experiment
from .settings import Size, read_settings

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as shells have it."""

app = typer.Typer(
    help="Run the experiments of 'Backpropagation of Unrolled Solvers with Folded Optimization'.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
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
    """Run an experiment; an interrupted run goes on where it was.

    Of 'all', an experiment that fails does not keep the others from running.
    """
    size = Size.QUICK if quick else Size.FULL
    failures: list[PaperError | CellError] = []
    with _one_line_errors():
        experiments = experiments_named(name)
        if config is not None and len(experiments) > 1:
            raise PaperError(
                "--config holds the settings of one experiment: name it instead of 'all'."
            )
        for experiment in experiments:
            folder = output / size.value / experiment.name
            try:
                _run_one(experiment, size, config, folder, data, jobs)
            except (PaperError, CellError) as error:
                _show(error)
                failures.append(error)
    if failures:
        raise typer.Exit(1)


@app.command()
def figures(output: Output = Path("paper-output")) -> None:
    """Draw the figures and write the tables again from the results that are there."""
    with _one_line_errors():
        found = sorted(output.glob("*/*/results.csv"))
        if not found:
            raise PaperError(
                f"{output} holds no results. Run an experiment first: foldcore-paper run {ALL}."
            )
        for results in found:
            experiment = experiment_named(results.parent.name)
            _print_paths(write_report(experiment, read_results(results), results.parent))


@app.command("list")
def list_experiments() -> None:
    """List the experiments and how many cells each has."""
    table = Table("name", "in the paper", "cells", "cells, --quick")
    with _one_line_errors():
        for experiment in experiments_named(ALL):
            sizes = [read_settings(experiment, size) for size in (Size.FULL, Size.QUICK)]
            cells = [str(len(experiment.cells(settings))) for settings in sizes]
            table.add_row(experiment.name, experiment.title, *cells)
    Console().print(table)


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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(experiment.name, total=None)

        def advance(to: Advance) -> None:
            progress.update(task, completed=to.done, total=to.total)
            # A log, unlike a terminal, shows no bar: it gets one line per cell.
            if to.cell is not None and not console.is_terminal:
                line = f"{experiment.name} {to.done}/{to.total} {to.cell} ({to.seconds:.1f} s)"
                console.print(line, highlight=False, soft_wrap=True)

        results = run_experiment(
            experiment, settings, folder, jobs=jobs, data=data, on_progress=advance
        )
    for caption, table in experiment.summarise(results).items():
        grid = Table(*map(str, table.columns), title=caption, title_justify="left")
        for row in table.itertuples(index=False):
            grid.add_row(*map(shown, row))
        console.print(grid)
    _print_paths([RunFolder(folder).results, *write_report(experiment, results, folder)])


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn errors and Ctrl-C into one clear line and an exit code."""
    try:
        yield
    except (PaperError, CellError) as error:
        _show(error)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        _complain("interrupted. Finished cells are kept: the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from error


def _show(error: PaperError | CellError) -> None:
    if isinstance(error, CellError):  # a fault of the code, whose place is wanted
        traceback.print_exception(error)
        _complain(f"{error}\nFinished cells are kept: the same command goes on from there.")
    else:
        _complain(str(error))


def _complain(words: str) -> None:
    Console(stderr=True).print(
        f"foldcore-paper: {words}", highlight=False, soft_wrap=True, markup=False
    )


def _print_paths(paths: list[Path]) -> None:
    console = Console()
    for path in paths:
        console.print(f"  {path}", highlight=False, soft_wrap=True, markup=False)
