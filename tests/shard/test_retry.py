"""Retry: pauses grow and are bounded, luck spreads them, and each letter has tries of its own."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from node.config import Retry
from shard.retry import Policy, Tries, pause_s

POLICIES = st.builds(
    Policy,
    base_s=st.floats(0.001, 10),
    cap_s=st.floats(0.001, 1_000),
    jitter=st.floats(0, 1),
    tries_max=st.integers(1, 1_000),
    quick=st.integers(0, 5),
    quick_s=st.floats(0.001, 1),
)
LUCK = st.floats(0, 1, exclude_max=True)


def test_the_longest_pauses_double_up_to_the_cap() -> None:
    policy = Policy(base_s=1.0, cap_s=10.0, quick=0)
    assert [pause_s(policy, failures, 0.0) for failures in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@given(POLICIES, st.integers(1, 10**9), LUCK)
def test_a_pause_is_bounded_and_luck_only_shortens_it(policy: Policy, failures: int, luck: float) -> None:
    longest = pause_s(policy, failures, 0.0)
    assert longest <= policy.cap_s
    assert longest <= pause_s(policy, failures + 1, 0.0)
    assert longest * (1 - policy.jitter) - 1e-9 <= pause_s(policy, failures, luck) <= longest


def test_what_failed_together_does_not_come_back_together() -> None:
    luck = random.Random(1)
    pauses = sorted(pause_s(Policy(base_s=8.0), 4, luck.random()) for _ in range(1_000))
    assert pauses[0] < 4.2
    assert pauses[-1] > 7.8
    in_any_tenth = max(sum(at <= pause < at + 0.4 for pause in pauses) for at in pauses)
    assert in_any_tenth < 200


def test_a_box_in_use_is_tried_three_times_in_quick_succession_then_ever_more_seldom() -> None:
    pauses_ms = [round(1_000 * pause_s(Policy(), attempt, 0.0)) for attempt in range(1, 10)]
    assert pauses_ms == [50, 100, 150, 500, 1_000, 2_000, 4_000, 8_000, 16_000]


@given(LUCK)
def test_with_the_defaults_a_letter_survives_a_day_whatever_its_luck(luck: float) -> None:
    settings = Retry()
    policy = Policy(settings.base_s, settings.cap_s, settings.jitter, settings.tries_max)
    tries = range(1, policy.tries_max)
    assert sum(pause_s(policy, number, luck) for number in tries) > 24 * 3600


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_a_letter_has_as_many_tries_as_there_were_while_it_waited(steps: list[tuple[int, bool]]) -> None:
    """``steps``: so many letters come, the oldest goes perhaps, and all that wait are tried."""
    tries, waiting, seq = Tries(), dict[int, int](), 0
    for arrivals, goes in steps:
        for _ in range(arrivals):
            seq += 1
            waiting[seq] = 0
        if goes and waiting:
            del waiting[min(waiting)]
        if not waiting:
            continue
        tries.failed(min(waiting), max(waiting))
        waiting = {letter: count + 1 for letter, count in waiting.items()}
        tries = Tries(tries.runs)
        assert {letter: tries.of(letter) for letter in waiting} == waiting
        assert len(tries.runs) <= len(waiting) + 1
