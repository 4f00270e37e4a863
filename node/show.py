"""How the command line shows things: tables for eyes, tab-separated lines for programs.

What other people wrote is never sent to a terminal as it is: an escape sequence in a title could
move the cursor, or worse.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import click


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
    # With what draws, which programs need not wait for.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*head, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(shown)
