"""A day has one moment at which its backup is due, and none is made twice or left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.clock import DAY_US, iso
from node.daily import is_due, last_us, next_us

AT = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
MOMENT = st.integers(0, 4_000_000_000_000_000)


@given(AT, MOMENT)
def test_it_lies_in_the_last_day_and_the_next_is_a_day_later(at: str, now: int) -> None:
    last = last_us(at, now)
    assert now - DAY_US < last <= now
    assert iso(last)[11:] == f"{at}:00.000000Z"
    assert next_us(at, now) == last + DAY_US
    assert last_us(at, next_us(at, now) - 1) == last


@given(AT, MOMENT, st.integers(0, 3 * DAY_US))
def test_made_once_it_is_not_due_until_the_time_comes_again(at: str, made: int, later: int) -> None:
    now = made + later
    assert not is_due(at, made, made)
    assert is_due(at, made, now) == (now >= next_us(at, made))
    assert is_due(at, 0, next_us(at, made))
