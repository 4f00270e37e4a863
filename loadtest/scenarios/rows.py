"""Figures out of locust's CSV files. Pure but for reading them.

``<prefix>_stats.csv`` has a row a name with counts and percentiles of the whole run; ``_stats_history.csv`` a row
a name and second with counts so far. Phases have names of their own, so a phase is a set of rows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from loadtest.errors import BenchError
from loadtest.scenarios import names
from loadtest.scenarios.names import Outcome


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``_stats.csv``; times in milliseconds."""

    kind: str
    name: str
    count: int
    failures: int
    percentiles: dict[str, float]
    """``50%`` to ``100%``; empty if nothing was counted"""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``_stats_history.csv``."""

    at: int
    """seconds since 1970"""
    kind: str
    name: str
    count: int
    failures: int
    rate: float
    p50_ms: float
    p99_ms: float


class Statistics:
    """The rows of one run."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = {(row.kind, row.name): row for row in rows}

    def letters(self, phase: str, outcome: Outcome, lanes: Sequence[str] = names.LANES) -> int:
        """How many letters of ``lanes`` came to ``outcome`` in ``phase``."""
        return sum(self._count(names.LETTER, names.letter(phase, lane, outcome)) for lane in lanes)

    def letter_ms(self, phase: str, percentile: str, lane: str, outcome: Outcome = Outcome.ACCEPTED) -> float | None:
        """A percentile of the answers to the letters of a lane, None if there were none."""
        return self._percentile(names.LETTER, names.letter(phase, lane, outcome), percentile)

    def request_ms(self, phase: str, kind: str, percentile: str) -> float | None:
        return self._percentile(names.TITLES[kind], names.request(phase, kind), percentile)

    def requests(self, phase: str, kind: str) -> tuple[int, int]:
        """How many, and how many of them failed."""
        row = self._rows.get((names.TITLES[kind], names.request(phase, kind)))
        return (row.count, row.failures) if row is not None else (0, 0)

    def lag_ms(self, phase: str, percentile: str) -> float | None:
        return self._percentile(names.LAG, names.lag(phase), percentile)

    def _count(self, kind: str, name: str) -> int:
        row = self._rows.get((kind, name))
        return row.count if row is not None else 0

    def _percentile(self, kind: str, name: str, percentile: str) -> float | None:
        row = self._rows.get((kind, name))
        return row.percentiles.get(percentile) if row is not None else None


def read(prefix: Path) -> Statistics:
    """The whole run; raises :class:`BenchError` if the file isn't locust's."""
    path = prefix.with_name(prefix.name + "_stats.csv")
    try:
        with path.open(newline="") as lines:
            return Statistics([_row(cells) for cells in csv.DictReader(lines)])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BenchError(f"locust's statistics can't be read: {path}: {error!r}") from error


def _row(cells: dict[str, str]) -> Row:
    return Row(
        kind=cells["Type"],
        name=cells["Name"],
        count=int(cells["Request Count"]),
        failures=int(cells["Failure Count"]),
        percentiles={name: float(cell) for name, cell in cells.items() if name.endswith("%") and _is_number(cell)},
    )


def history(prefix: Path) -> list[Moment]:
    """The run so far, oldest first; a line that is being written is left out."""
    path = prefix.with_name(prefix.name + "_stats_history.csv")
    if not path.exists():
        return []
    with path.open(newline="") as lines:
        return [moment for cells in csv.DictReader(lines) if (moment := _moment(cells)) is not None]


def _moment(cells: dict[str, str]) -> Moment | None:
    try:
        return Moment(
            at=int(cells["Timestamp"]),
            kind=cells["Type"],
            name=cells["Name"],
            count=int(cells["Total Request Count"]),
            failures=int(cells["Total Failure Count"]),
            rate=float(cells["Requests/s"]),
            p50_ms=_or_zero(cells["50%"]),
            p99_ms=_or_zero(cells["99%"]),
        )
    except (KeyError, ValueError, TypeError):
        return None


def _or_zero(cell: str) -> float:
    return float(cell) if _is_number(cell) else 0.0


def _is_number(cell: str | None) -> bool:
    return bool(cell) and cell != "N/A"
