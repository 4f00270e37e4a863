"""Retry: pauses grow and are bounded, and luck spreads them."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from shard.retry import Policy, pause_s

POLICIES = st.builds(
    Policy,
    base_s=st.floats(0.001, 10),
    cap_s=st.floats(0.001, 1_000),
    jitter=st.floats(0, 1),
)
LUCK = st.floats(0, 1, exclude_max=True)


def test_the_longest_pauses_double_up_to_the_cap() -> None:
    policy = Policy(base_s=1.0, cap_s=10.0)
    assert [pause_s(policy, failures, 0.0) for failures in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@given(POLICIES, st.integers(1, 10**9), LUCK)
def test_a_pause_is_bounded_and_luck_only_shortens_it(policy: Policy, failures: int, luck: float) -> None:
    longest = pause_s(policy, failures, 0.0)
    assert longest <= policy.cap_s
    assert longest <= pause_s(policy, failures + 1, 0.0)
    assert longest * (1 - policy.jitter) - 1e-9 <= pause_s(policy, failures, luck) <= longest


def test_what_failed_together_does_not_come_back_together() -> None:
    luck = random.Random(1)
    pauses = sorted(pause_s(Policy(base_s=8.0), 1, luck.random()) for _ in range(1_000))
    assert pauses[0] < 4.2
    assert pauses[-1] > 7.8
    in_any_tenth = max(sum(at <= pause < at + 0.4 for pause in pauses) for at in pauses)
    assert in_any_tenth < 200
