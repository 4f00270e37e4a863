"""What a process counts of itself, and how it is told.

The hot path only adds to plain attributes; a family is made of them when somebody asks. A histogram is counted
into once a transaction, commit or request, never once a target. Families travel between processes as
:class:`node.ops.Family`; only who answers Prometheus makes text of them.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from node.ops import Family, Sample

SHORT_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""seconds, for what should take a moment"""
LONG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""seconds, for what may have to wait"""

Values = float | Mapping[str, float] | Mapping[tuple[str, ...], float]
"""one value, or one for each label, or for each combination of them"""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")
_STARTED = time.time()


class Histogram:
    """How many were at most so long; ``bounds`` rise."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float] = SHORT_S) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """About 0.2 µs."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def __add__(self, other: Histogram) -> Histogram:
        """Both together; they have the same bounds."""
        both = Histogram(self._bounds)
        both._counts = [mine + its for mine, its in zip(self._counts, other._counts, strict=True)]
        both._sum = self._sum + other._sum
        return both

    @property
    def count(self) -> int:
        """How many were observed."""
        return sum(self._counts)

    def samples(self, name: str, labels: Mapping[str, str]) -> Iterable[Sample]:
        """As Prometheus counts: each bucket holds those below it too."""
        below = 0
        for bound, count in zip((*map(_said, self._bounds), "+Inf"), self._counts, strict=True):
            below += count
            yield Sample(f"{name}_bucket", {**labels, "le": bound}, float(below))
        yield Sample(f"{name}_count", dict(labels), float(below))
        yield Sample(f"{name}_sum", dict(labels), self._sum)


def counter(name: str, help: str, values: Values, *labels: str) -> Family:
    """What only grows, until the process ends; ``name`` ends in ``_total``."""
    assert name.endswith("_total")
    return Family(name, "counter", help, _samples(name, values, labels))


def gauge(name: str, help: str, values: Values, *labels: str) -> Family:
    """What is so at the moment."""
    return Family(name, "gauge", help, _samples(name, values, labels))


def histogram(
    name: str, help: str, of: Histogram | Mapping[str, Histogram] | Mapping[tuple[str, ...], Histogram], *labels: str
) -> Family:
    """One histogram, or one for each label, or for each combination of them."""
    if isinstance(of, Histogram):
        return Family(name, "histogram", help, list(of.samples(name, {})))
    made = [sample for key, one in of.items() for sample in one.samples(name, _labelled(labels, key))]
    return Family(name, "histogram", help, made)


def of_process() -> list[Family]:
    """What every process tells of itself, under the names that Prometheus uses everywhere."""
    resident = int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES
    return [
        gauge("process_resident_memory_bytes", "Memory of the process, without what is swapped out", resident),
        counter("process_cpu_seconds_total", "Processor time, of the user and of the system", time.process_time()),
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970", _STARTED),
    ]


def _samples(name: str, values: Values, labels: tuple[str, ...]) -> list[Sample]:
    if isinstance(values, Mapping):
        return [Sample(name, _labelled(labels, key), float(value)) for key, value in values.items()]
    assert not labels
    return [Sample(name, {}, float(values))]


def _labelled(labels: tuple[str, ...], key: str | tuple[str, ...]) -> dict[str, str]:
    return dict(zip(labels, (key,) if isinstance(key, str) else key, strict=True))


def _said(bound: float) -> str:
    return repr(bound)
