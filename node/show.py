"""How the command line shows things: tables for eyes, tab-separated lines for programs.

What other people wrote is never sent to a terminal as it is: an escape sequence in a title could
move the cursor, or worse.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from node.apiclient import ApiError
from node.errors import ConfigError
from node.shown import key_option

_Command = TypeVar("_Command", bound=Callable[..., Any])


def server_option(command: _Command) -> _Command:
    """``--server``, which the command gets, and ``--key``, which whoever asks the node for it looks up."""
    where = click.option("--server", default="http://127.0.0.1:8080", show_default=True, help="where the node is")
    return where(key_option(command))


class Failures(click.Command):
    """A command that asks a node: what it can't get is one clear line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ApiError, ConfigError) as error:
            raise click.ClickException(printable(str(error))) from error


def printable(text: str, *, lines: bool = False) -> str:
    """``text`` without control characters (with ``lines``, newlines and tabs stay)."""
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else "�" for c in text)


def counted(number: int, noun: str) -> str:
    """``1 shard``, ``2 shards``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on a terminal; else the rows alone, cells parted by tabs."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(printable(cell) for cell in row))
        return
    shown = Table(*head, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(shown)
