"""Results on the terminal, and in the generated part of a Markdown page.

A page holds ``<!-- bench:begin -->`` and ``<!-- bench:end -->``. Between them everything is
generated: the versions, then one section a bench, each after its own marker. A run replaces the
sections of the benches it ran and leaves the others, which keep their own date and machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from loadtest.figures import Result, Row, number, spread

BEGIN = "<!-- bench:begin -->"
END = "<!-- bench:end -->"
_SECTION = re.compile(r"^<!-- bench (\w+) -->\n", re.MULTILINE)
_NEW_PAGE = f"# Benchmarks\n\n`make bench` measures and writes what follows.\n\n{BEGIN}\n{END}\n"


def _verdict(row: Row) -> str:
    return {None: "", True: "met", False: "missed"}[row.met]


def table(result: Result) -> Table:
    """``result`` for the terminal."""
    made = Table(title=f"{result.name}: {result.title}", title_justify="left")
    made.add_column("figure")
    several = any(len(row.values) > 1 for row in result.rows)
    for heading in ("median", "min to max") if several else ("value",):
        made.add_column(heading, justify="right")
    made.add_column("wanted")
    made.add_column("")
    for row in result.rows:
        style = {None: "", True: "green", False: "red"}[row.met]
        values = [f"{number(row.median)} {row.unit}", *([spread(row.values)] if several else [])]
        made.add_row(row.label, *values, row.wanted, _verdict(row), style=style)
    return made


def section(result: Result, *, stamp: str) -> str:
    """``result`` as Markdown; ``stamp`` says when, how long and on what."""
    lines = [f"### {result.name}: {result.title}", "", f"{result.how} ({stamp})", ""]
    lines += ["| figure | median | min to max | wanted | |", "|---|---:|---:|---|---|"]
    for row in result.rows:
        cells = (row.label, f"{number(row.median)} {row.unit}", spread(row.values), row.wanted, _verdict(row))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines.append("")
    lines += [f"- {note}" for note in result.notes]
    if result.notes:
        lines.append("")
    return "\n".join(lines)


def replace(page: str, *, preface: str, sections: dict[str, str], order: Sequence[str]) -> str:
    """``page`` with the ``sections`` (by bench) replaced, sorted as in ``order``.

    A page without markers gets them at its end. Raises :class:`ValueError` if only one is there,
    or the end comes first.
    """
    if BEGIN not in page and END not in page:
        page = (page.rstrip("\n") + "\n\n" if page.strip() else "") + f"{BEGIN}\n{END}\n"
    begin, end = page.find(BEGIN), page.find(END)
    if begin < 0 or end < begin:
        raise ValueError(f"the page must hold {BEGIN} and, after it, {END}")
    _preface, *parts = _SECTION.split(page[begin + len(BEGIN) : end])
    merged = dict(zip(parts[::2], parts[1::2], strict=True)) | sections
    names = sorted(merged, key=lambda name: order.index(name) if name in order else len(order))
    body = "".join(f"<!-- bench {name} -->\n{merged[name].strip()}\n\n" for name in names)
    return f"{page[:begin]}{BEGIN}\n{preface.strip()}\n\n{body}{page[end:]}"


def write(path: Path, *, preface: str, sections: dict[str, str], order: Sequence[str]) -> None:
    """:func:`replace` in the file at ``path``, which is made if it isn't there."""
    page = path.read_text() if path.exists() else _NEW_PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(replace(page, preface=preface, sections=sections, order=order))
