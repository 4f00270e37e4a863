"""What ``/metrics`` said, and what happened between two times that it was asked. Pure.

Rates and quantiles are of the time between the two; of a counter that is less than before (its process was started
anew) the new count is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families

_Labels = frozenset[tuple[str, str]]


class Scrape:
    """All samples of one answer, got at monotonic time ``at``."""

    def __init__(self, text: str, at: float) -> None:
        self.at = at
        self._samples: dict[str, dict[_Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value

    def each(self, name: str, **labels: str) -> Iterator[tuple[Mapping[str, str], float]]:
        """The samples of ``name`` that have these labels."""
        wanted = set(labels.items())
        for key, value in self._samples.get(name, {}).items():
            if wanted <= key:
                yield dict(key), value

    def sum(self, name: str, **labels: str) -> float:
        """Of the samples that have these labels; 0 if there are none."""
        return sum(value for _labels, value in self.each(name, **labels))

    def values(self, label: str) -> list[str]:
        """The processes that are marked by ``label``, in order."""
        names = {labels[label] for labels, _value in self.each("pobox_up") if label in labels}
        return sorted(names, key=lambda name: (len(name), name))


class Between:
    """From ``before`` to ``after``."""

    def __init__(self, before: Scrape, after: Scrape) -> None:
        self._before = before
        self.after = after

    def rate(self, name: str, **labels: str) -> float:
        """Growth a second of the counters ``name`` that have these labels."""
        return sum(self._growth(name, labels).values()) / max(1e-9, self.after.at - self._before.at)

    def quantile(self, name: str, q: float, **labels: str) -> float:
        """Of the histogram ``name``, as Prometheus reckons it; nan if nothing was observed."""
        buckets: dict[float, float] = {}
        for key, grown in self._growth(f"{name}_bucket", labels).items():
            bound = float(dict(key)["le"])
            buckets[bound] = buckets.get(bound, 0.0) + grown
        return quantile(buckets, q)

    def _growth(self, name: str, labels: Mapping[str, str]) -> dict[_Labels, float]:
        before = {frozenset(key.items()): value for key, value in self._before.each(name, **labels)}
        growth = {}
        for key, value in self.after.each(name, **labels):
            was = before.get(frozenset(key.items()), 0.0)
            growth[frozenset(key.items())] = value - was if value >= was else value
        return growth


def quantile(buckets: Mapping[float, float], q: float) -> float:
    """Of cumulative ``buckets`` (upper bound → how many are at most that), in a bucket evenly spread."""
    total = buckets.get(math.inf, 0.0)
    if not total:
        return math.nan
    wanted = q * total
    low, below = 0.0, 0.0
    for bound in sorted(buckets):
        if buckets[bound] >= wanted:
            if math.isinf(bound):
                return low
            inside = buckets[bound] - below
            return low + (bound - low) * ((wanted - below) / inside if inside else 1.0)
        low, below = bound, buckets[bound]
    return low
