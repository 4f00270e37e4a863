"""An open phase's moments depend on the clock alone, and processes share them without a gap or a double."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.scenarios import pace


@given(rate=st.floats(0.5, 500), seconds=st.floats(0.1, 5), processes=st.integers(1, 5))
def test_all_processes_together_begin_at_the_rate(rate: float, seconds: float, processes: int) -> None:
    moments = sorted(
        moment
        for process in range(processes)
        for moment in pace.evenly(rate, seconds, process=process, processes=processes)
    )
    assert moments[0] == 0
    assert moments[-1] < seconds
    assert len(moments) == pytest.approx(rate * seconds, abs=1)
    assert all(later - moment == pytest.approx(1 / rate) for moment, later in pairwise(moments))


def test_no_rate_begins_nothing() -> None:
    assert list(pace.evenly(0, 10, process=0, processes=1)) == []


def test_a_record_keeps_its_rhythm_in_the_time_it_is_given() -> None:
    assert list(pace.recorded([100, 200, 300, 500], 8, process=0, processes=1)) == [0, 2, 4, 8]
    assert list(pace.recorded([100, 200, 300, 500], 8, process=1, processes=2)) == [2, 8]
    assert list(pace.recorded([7, 7], 8, process=0, processes=1)) == [0, 0]
    assert list(pace.recorded([], 8, process=0, processes=1)) == []
