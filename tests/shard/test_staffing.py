"""Staffing: as many as the load needs, within bounds, and then it rests."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.staffing import LEAST, Staffing

MOST = 40


class Office:
    """Each postman stores one a second; the lanes hold ``lanes`` letters."""

    def __init__(self, lanes: float, *, noise: float = 0.0, seed: int = 0, first: int = LEAST) -> None:
        self._staffing = Staffing(first=first, most=MOST)
        self._lanes = lanes
        self._noise = noise
        self._random = random.Random(seed)
        self._waiting = 0.0
        self._now = 100.0
        self.counts: list[int] = []

    def run(self, seconds: int, load: float) -> list[int]:
        """``load`` letters a second come; the numbers of postmen, second by second."""
        began = len(self.counts)
        for _ in range(seconds):
            self._now += 1.0
            count = self._staffing.count
            come = max(0.0, load * (1 + self._random.uniform(-self._noise, self._noise)))
            stored = min(count, self._waiting + come)
            self._waiting = min(self._lanes, self._waiting + come - stored)
            self.counts.append(self._staffing.look(self._now, fill=self._waiting / self._lanes, busy=stored / count))
        return self.counts[began:]


def turns(counts: list[int]) -> int:
    """How often the number went the other way."""
    ways = [late > early for early, late in pairwise(counts) if late != early]
    return sum(way != before for before, way in pairwise(ways))


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1), st.floats(0, 10)), max_size=200), st.integers(0, 60))
def test_the_number_stays_within_its_bounds(looks: list[tuple[float, float, float]], most: int) -> None:
    staffing, now = Staffing(most=most), 0.0
    for fill, busy, passed in looks:
        now += passed
        assert LEAST <= staffing.look(now, fill=fill, busy=busy) <= max(LEAST, most)


@settings(max_examples=60)
@given(st.floats(0, MOST - 1), st.floats(20, 5_000), st.floats(0, 0.2), st.integers(0, 20), st.integers(LEAST, MOST))
def test_under_steady_load_it_comes_to_rest(load: float, lanes: float, noise: float, seed: int, first: int) -> None:
    office = Office(lanes, noise=noise, seed=seed, first=first)
    counts = office.run(3_000, load)
    # A load a hair above what they can do fills the lanes so slowly that the change may come at any time.
    assert turns(counts) <= 2, "it swings"
    # Just enough may never get the lanes below half; but then they don't fill either.
    assert counts[-1] >= load * (1 - noise) - 1
    assert counts[-1] <= max(LEAST, load / 0.8 * (1 + noise) + 2, min(first, MOST) if load > first * 0.7 else 0)


@given(st.floats(3, MOST - 1), st.floats(50, 5_000))
def test_more_are_there_before_the_lanes_are_full_for_long(load: float, lanes: float) -> None:
    office = Office(lanes)
    counts = office.run(round(lanes) + 60, load)
    assert counts[-1] >= load - 1e-9


@pytest.mark.parametrize("load", [0.0, 0.5])
def test_when_the_load_is_gone_two_stay(load: float) -> None:
    office = Office(100.0)
    assert office.run(120, 60.0)[-1] == MOST
    counts = office.run(100 + 6 * MOST, load)
    assert counts[-1] == LEAST
    assert turns(counts) == 0


def test_between_a_tenth_and_a_half_nothing_changes() -> None:
    staffing = Staffing(first=8, most=MOST)
    luck = random.Random(1)
    assert {staffing.look(now, fill=luck.uniform(0.1, 0.5), busy=luck.random()) for now in range(1_000)} == {8}


def test_a_peak_of_a_moment_takes_nobody_away_and_a_lull_of_a_moment_neither() -> None:
    staffing = Staffing(first=8, most=MOST)
    for now in range(100):
        lull = now % 4 != 0
        assert staffing.look(float(now), fill=0.0 if lull else 0.3, busy=0.0 if lull else 1.0) == 8


def test_those_who_are_just_enough_stay_though_the_lanes_are_empty() -> None:
    staffing = Staffing(first=8, most=MOST)
    assert {staffing.look(float(now), fill=0.01, busy=0.85) for now in range(1_000)} == {8}


def test_lanes_that_are_being_emptied_need_nobody_more() -> None:
    staffing = Staffing(first=8, most=MOST)
    counts = [staffing.look(float(now), fill=0.95 - now * 0.1, busy=1.0) for now in range(5)]
    assert counts[1:] == [counts[0]] * 4
