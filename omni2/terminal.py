"""What all commands share on a terminal."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import typer

from omni2.errors import InputError, OmniError

P = ParamSpec("P")
R = TypeVar("R")


def plain_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Errors of the library become one line on stderr: status 2 for input that cannot be used, 1 for all else."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except OmniError as error:
            typer.echo(f"omni2: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2 if isinstance(error, InputError) else 1) from error
        except OSError as error:
            typer.echo(f"omni2: {error}", err=True)
            raise typer.Exit(1) from error

    return run
