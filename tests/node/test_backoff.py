from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.backoff import DELAY_MAX_S, DELAY_MIN_S, STEADY_S, after_death


def test_a_child_that_keeps_dying_waits_twice_as_long_each_time_up_to_the_most() -> None:
    deaths, delays = 0, []
    for _ in range(9):
        deaths, delay_s = after_death(deaths, 0.2)
        delays.append(delay_s)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


@given(st.integers(0, 10**9), st.floats(0, 1e9))
def test_the_wait_is_bounded_and_staying_up_forgives(deaths: int, up_s: float) -> None:
    now, delay_s = after_death(deaths, up_s)
    assert DELAY_MIN_S <= delay_s <= DELAY_MAX_S
    assert now == (1 if up_s >= STEADY_S else deaths + 1)
