"""The commands and their arguments; what each does has a file of its own."""

from __future__ import annotations

import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import FoldcoreError
from .console import print_error

app = typer.Typer(
    help="Look at foldcore's plugins, check them, and diagnose layers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


class KindName(str, Enum):
    """What a plugin is."""

    SOLVER = "solver"
    RULE = "rule"
    ADJOINT = "adjoint"


@app.command()
def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON list.")] = False,
) -> None:
    """List every plugin with its package, version, state and import time.

    Broken plugins are shown with their error. The first import of a library that several plugins
    share counts for the plugin that is loaded first.
    """
    from .listing import list_plugins, print_plugins

    found = list_plugins()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_plugins(found)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Name of a plugin, or dist:name.")],
    kind: Annotated[
        KindName | None, typer.Option(help="If the name is offered as several.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="A check; may be repeated.")] = None,
) -> None:
    """Run the conformance kit on an installed plugin. Exit code 1 if a check fails."""
    from .checking import check_plugin

    with _errors_as_lines():
        passed = check_plugin(name, kind.value if kind else None, only)
    raise typer.Exit(0 if passed else 1)


@app.command()
def schema() -> None:
    """Print the JSON schema of a configuration file, with every usable plugin's options."""
    from ..building.schema import config_schema

    typer.echo(json.dumps(config_schema(), indent=2, ensure_ascii=False))


@app.command()
def doctor(
    config: Annotated[Path, typer.Argument(help="YAML or JSON file of a layer.")],
    params: Annotated[
        Path | None, typer.Option(help="Parameters by name: .npz, or .pt with a dict of tensors.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples of random parameters.")] = 4,
    scale: Annotated[float, typer.Option(help="Standard deviation of random parameters.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of random parameters and directions.")] = 0,
) -> None:
    """Build a layer from a file, run it, and print what is wrong with its gradients, if anything.

    The problem "module:attribute" is also looked for in the current folder. Exit code 1 if a sample
    fails.
    """
    from .examination import examine

    sys.path.insert(0, os.getcwd())
    with _errors_as_lines():
        healthy = examine(config, params, batch=batch, scale=scale, seed=seed)
    raise typer.Exit(0 if healthy else 1)


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(help="Its name in configurations, such as my-solver.")],
    kind: Annotated[
        list[KindName] | None, typer.Option(help="What it is; may be repeated. Default: solver.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where to make its folder.")] = Path(),
) -> None:
    """Write a ready package: it installs, passes its own tests and the conformance kit."""
    from .scaffold import new_plugin as write

    kinds = list(dict.fromkeys(one.value for one in kind or [KindName.SOLVER]))
    with _errors_as_lines():
        folder = write(name, kinds, output)
    typer.echo(f"{folder} is ready. Next:\n  cd {folder}\n  pip install -e '.[test]'\n  pytest")


class _errors_as_lines:  # noqa: N801 - reads as a statement
    """Print a :class:`FoldcoreError` as one line and exit with code 1; bugs keep their traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FoldcoreError):
            print_error(str(error))
            raise typer.Exit(1) from error
