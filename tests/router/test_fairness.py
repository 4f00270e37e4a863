"""Fairness: whatever the arrivals, no key gets more than burst + rate * t, and memory is bounded."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import fairness
from router.fairness import Limiter, take_all

KEYS = [f"k{number}" for number in range(6)]
ARRIVALS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.001, 0.1, 0.33, 1.0, 10.0]), st.sampled_from(KEYS), st.integers(1, 4)),
    max_size=150,
)
RATES = st.sampled_from([0.1, 1.0, 3.0, 7.0, 1000.0])


def most_over(passed: list[tuple[float, int]], rate: float) -> float:
    """The largest number of units in any stretch of time, less ``rate`` times its length."""
    return max(
        (
            sum(units for _at, units in passed[first:last]) - rate * (passed[last - 1][0] - passed[first][0])
            for first in range(len(passed))
            for last in range(first + 1, len(passed) + 1)
        ),
        default=0.0,
    )


def twin(limiter: Limiter) -> Limiter:
    """One that may be asked what would be later."""
    made = copy.copy(limiter)
    made._until, made._shared = limiter._until.copy(), limiter._shared.copy()
    return made


@given(ARRIVALS, RATES, st.integers(1, 10), st.sampled_from([1, 2, 4, 100]))
def test_no_more_than_burst_and_rate_passes_in_any_stretch_of_time(
    arrivals: list[tuple[float, str, int]], rate: float, burst: int, keys_max: int
) -> None:
    """Also when there are more keys than places for them."""
    limiter = Limiter("test", rate=rate, burst=burst, keys_max=keys_max)
    passed: dict[str, list[tuple[float, int]]] = {key: [] for key in KEYS}
    now = 50_000.0
    for by, key, cost in arrivals:
        now += by
        if limiter.take(key, now, cost).allowed:
            passed[key].append((now, cost))
        assert len(limiter) <= keys_max
    for of_one in passed.values():
        assert most_over(of_one, rate) <= burst + 0.02


@given(RATES, st.integers(1, 50))
def test_the_whole_burst_passes_at_once_and_the_rate_after_it(rate: float, burst: int) -> None:
    limiter = Limiter("test", rate=rate, burst=burst)
    now = 1e6
    verdicts = [limiter.take("ada", now) for _ in range(burst + 1)]
    assert [verdict.allowed for verdict in verdicts] == [True] * burst + [False]
    assert [verdict.remaining for verdict in verdicts] == [*range(burst - 1, -1, -1), 0]
    for _ in range(20):
        assert not limiter.take("ada", now + 0.9 / rate).allowed
        now += 1 / rate
        assert limiter.take("ada", now).allowed


@given(ARRIVALS, RATES, st.integers(1, 10))
def test_what_the_caller_is_told_is_true(arrivals: list[tuple[float, str, int]], rate: float, burst: int) -> None:
    """After Retry-After it passes; after reset the whole burst does; and what remains may pass now."""
    limiter = Limiter("test", rate=rate, burst=burst)
    now = 0.0
    for by, _key, cost in arrivals:
        now += by
        verdict = limiter.take("ada", now, cost)
        assert 0 <= verdict.remaining <= verdict.limit == burst
        assert verdict.allowed == (verdict.retry_after_s is None) or cost > burst
        for after, units in ((verdict.retry_after_s, cost), (verdict.reset_s, burst), (0, verdict.remaining)):
            if after is not None and units:
                assert twin(limiter).take("ada", now + after, units).allowed
        if not verdict.allowed and cost <= burst:
            assert cost > verdict.remaining


def test_what_can_never_pass_is_told_so() -> None:
    limiter = Limiter("test", rate=1.0, burst=10)
    verdict = limiter.take("ada", 0.0, 11)
    assert not verdict.allowed
    assert verdict.retry_after_s is None
    assert verdict.remaining == 10


def test_a_noisy_one_does_not_hurt_the_others() -> None:
    limiter = Limiter("test", rate=10.0, burst=20)
    for tick in range(10_000):
        limiter.take("noisy", tick * 0.001)
        if tick % 100 == 0:
            assert limiter.take("quiet", tick * 0.001).allowed


def test_keys_that_have_fallen_silent_make_room() -> None:
    limiter = Limiter("test", rate=1.0, burst=5, keys_max=100)
    for number in range(10_000):
        assert limiter.take(f"user{number}", number * 0.1).allowed
        assert len(limiter) <= 100


def test_more_keys_at_a_time_than_places_are_bounded_and_get_their_places_later() -> None:
    limiter = Limiter("test", rate=1.0, burst=2, keys_max=10)
    assert sum(limiter.take(f"user{number}", 0.0).allowed for number in range(100_000)) <= 10 + 2 * fairness._SHARED
    assert len(limiter) == 10
    assert limiter.take("somebody", 10.0).allowed
    assert len(limiter) < 10


def test_a_message_needs_the_leave_of_all_and_takes_from_none_if_one_refuses() -> None:
    keys = Limiter("key", rate=1.0, burst=10)
    users = Limiter("user", rate=1.0, burst=2)
    asked = [(keys, "shop", 3), (users, "ada", 1), (users, "bob", 1)]
    assert take_all(asked, 0.0) is None
    assert take_all(asked, 0.0) is None
    refused = take_all(asked, 0.0)
    assert refused is not None
    assert refused[0] is users
    assert keys.take("shop", 0.0).remaining == 10 - 6 - 1
    assert take_all([(users, "carol", 1), (users, "carol", 1), (users, "carol", 1)], 0.0) is not None
    assert users.take("carol", 0.0).remaining == 1


@given(st.sampled_from([1, 100]))
def test_nothing_is_left_of_what_was_undone(keys_max: int) -> None:
    limiter = Limiter("test", rate=1.0, burst=3, keys_max=keys_max)
    limiter.take("other", 5.0)
    for _ in range(100):
        assert take_all([(limiter, "ada", 3), (limiter, "ada", 1)], 5.0) is not None
    assert limiter.take("ada", 5.0, 3).allowed


def test_the_headers_are_those_of_the_draft() -> None:
    limiter = Limiter("service-key", rate=10.0, burst=600)
    assert limiter.policy() == '"service-key";q=600;w=60'
    assert limiter.state(limiter.take("shop", 0.0, 595)) == '"service-key";r=5;t=60'
    refused = limiter.take("shop", 0.0, 35)
    assert refused.retry_after_s == 3
    assert limiter.state(refused) == '"service-key";r=5;t=3'


@pytest.mark.parametrize("rate", [0.5, 3.0, 1e5])
def test_rounding_takes_nothing_away_on_a_clock_that_has_run_for_long(rate: float) -> None:
    limiter = Limiter("test", rate=rate, burst=1_000)
    assert all(limiter.take("ada", 3.2e7 + 0.123456789).allowed for _ in range(1_000))
