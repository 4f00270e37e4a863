"""How many boxes stay open: fewer while memory is short, as many as may be when it is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shard.pressure import Level
from shard.warmth import LEAST, Warmth

MOST = 8_000


def looks(warmth: Warmth, level: Level, seconds: int, *, opened: int = MOST, since: float = 0.0) -> list[int]:
    return [warmth.look(since + second, level=level, opened=min(opened, warmth.open_max)) for second in range(seconds)]


def test_it_falls_from_what_is_open_and_the_faster_the_shorter_memory_is() -> None:
    assert looks(Warmth(MOST), Level.HIGH, 1, opened=1_000) == [900]
    assert looks(Warmth(MOST), Level.EXHAUSTED, 2, opened=1_000) == [500, 250]
    assert looks(Warmth(MOST), Level.CRITICAL, 60)[-1] == LEAST


def test_medium_changes_nothing() -> None:
    warmth = Warmth(MOST)
    looks(warmth, Level.HIGH, 3)
    before = warmth.open_max
    assert set(looks(warmth, Level.MEDIUM, 100)) == {before}


def test_it_grows_back_only_after_a_while_of_calm() -> None:
    warmth = Warmth(MOST)
    low = looks(warmth, Level.CRITICAL, 20)[-1]
    back = looks(warmth, Level.NONE, 60)
    assert set(back[:10]) == {low}
    assert back[10:] == sorted(back[10:])
    assert back[-1] == MOST


@given(st.lists(st.tuples(st.sampled_from(list(Level)), st.integers(0, MOST)), max_size=60), st.integers(1, MOST))
def test_it_stays_within_its_bounds(moments: list[tuple[Level, int]], most: int) -> None:
    warmth = Warmth(most)
    for second, (level, opened) in enumerate(moments):
        assert min(LEAST, most) <= warmth.look(float(second), level=level, opened=opened) <= most


@given(st.lists(st.sampled_from([Level.NONE, Level.MEDIUM, Level.HIGH]), min_size=20, max_size=200))
def test_memory_that_swings_within_the_calm_never_opens_more(levels: list[Level]) -> None:
    warmth = Warmth(MOST)
    looks(warmth, Level.HIGH, 5)
    lowest = warmth.open_max
    for second, level in enumerate(levels):
        if second % 8 == 0:
            level = Level.HIGH
        assert warmth.look(float(second), level=level, opened=lowest) <= lowest
        lowest = warmth.open_max
