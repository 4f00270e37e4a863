"""Figures with their spread, and what is wanted of them. Pure.

A figure is a list of values, one a round. Peers take turns, so a ratio is made of the two
values of one round: what slows the machine down for a while slows down both. The ratio's median and
spread come from those, never from two medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class Row(msgspec.Struct, kw_only=True):
    """One figure. ``at_least`` and ``at_most`` are compared with the median."""

    label: str
    values: list[float]
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def wanted(self) -> str:
        if self.at_least is not None:
            return f"≥ {number(self.at_least)} {self.unit}"
        if self.at_most is not None:
            return f"≤ {number(self.at_most)} {self.unit}"
        return ""

    @property
    def met(self) -> bool | None:
        """Whether the median is what is wanted; None if nothing is."""
        if self.at_least is not None:
            return self.median >= self.at_least
        if self.at_most is not None:
            return self.median <= self.at_most
        return None


class Result(msgspec.Struct, kw_only=True):
    """What one bench found out."""

    name: str
    title: str
    how: str
    """one or two sentences: what was measured, between which moments"""
    rows: list[Row]
    notes: list[str] = []


def ratio(
    label: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """``ours`` in units of ``theirs``, round by round; both have one value a round."""
    values = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Row(label=label, values=values, unit="x", at_least=at_least, at_most=at_most)


def number(value: float) -> str:
    """Three significant digits or more, thousands separated: ``12,345``, ``12.3``, ``0.123``."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def spread(values: Sequence[float]) -> str:
    """``12.3 to 14.5``, or nothing for a single value."""
    return f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else ""
