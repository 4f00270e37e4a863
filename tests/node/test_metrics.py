"""Families, histograms, and what a reader makes of two answers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import metrics
from node.metrics import Histogram
from node.scrape import Between, Scrape, quantile

SECONDS = st.floats(0, 100)


@given(st.lists(SECONDS), st.lists(SECONDS))
def test_a_histogram_counts_each_value_in_every_bucket_that_holds_it(some: list[float], others: list[float]) -> None:
    first, second = Histogram(), Histogram()
    for value in some:
        first.observe(value)
    for value in others:
        second.observe(value)
    both, values = first + second, some + others
    samples = {(s.name, s.labels.get("le")): s.value for s in both.samples("h", {})}
    for bound in metrics.SHORT_S:
        assert samples["h_bucket", repr(bound)] == sum(value <= bound for value in values)
    assert samples["h_bucket", "+Inf"] == samples["h_count", None] == both.count == len(values)
    assert samples["h_sum", None] == pytest.approx(sum(values))


def test_values_come_with_their_labels() -> None:
    values: dict[tuple[str, ...], float] = {("a", "b"): 1}
    made = metrics.counter("c_total", "Help", values, "x", "y")
    assert [(s.name, s.labels, s.value) for s in made.samples] == [("c_total", {"x": "a", "y": "b"}, 1.0)]
    assert metrics.gauge("g", "Help", {"a": 2.0}, "x").samples[0].labels == {"x": "a"}
    assert metrics.gauge("g", "Help", 3).samples[0].labels == {}


def test_a_process_knows_its_memory_and_time() -> None:
    told = {family.name: family.samples[0].value for family in metrics.of_process()}
    assert told["process_resident_memory_bytes"] > 1_000_000
    assert told["process_cpu_seconds_total"] > 0


def scrape(count: int, at: float, *, up: str = 'shard="0"') -> Scrape:
    return Scrape(
        f"# TYPE c counter\nc_total{{{up}}} {count}\n# TYPE pobox_up gauge\npobox_up{{{up}}} 1\n"
        f'# TYPE h histogram\nh_bucket{{le="1.0"}} {count}\nh_bucket{{le="2.0"}} {2 * count}\n'
        f'h_bucket{{le="+Inf"}} {2 * count}\nh_sum 0\nh_count {2 * count}\n',
        at,
    )


def test_rates_are_of_the_time_between_two_looks_and_survive_a_restart() -> None:
    assert Between(scrape(10, 1.0), scrape(30, 3.0)).rate("c_total", shard="0") == 10
    assert Between(scrape(30, 1.0), scrape(10, 3.0)).rate("c_total") == 5
    assert Between(scrape(10, 1.0), scrape(30, 3.0)).rate("c_total", shard="1") == 0
    assert Between(scrape(10, 1.0), scrape(30, 3.0)).quantile("h", 0.75) == 1.5
    assert scrape(1, 0).values("shard") == ["0"]


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_that_reaches_it(counts: list[int], q: float) -> None:
    bounds = (1.0, 2.0, math.inf)
    buckets = {bound: float(sum(counts[: at + 1])) for at, bound in enumerate(bounds)}
    found = quantile(buckets, q)
    if not sum(counts):
        assert math.isnan(found)
        return
    assert 0 <= found <= 2
    reached = next(bound for bound in bounds if buckets[bound] >= q * sum(counts))
    assert found <= reached
