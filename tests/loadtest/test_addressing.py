"""Sender and counter agree on who gets which letter, and nobody is left out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import load, traffic
from loadtest.scenarios import addressing
from loadtest.scenarios.addressing import Recorded, Ring


@given(users=st.integers(1, 40), fan=st.integers(1, 50), number=st.integers(0, 10**9))
def test_a_letter_is_for_its_targets_and_for_nobody_else(users: int, fan: int, number: int) -> None:
    ring = Ring(users, fan)
    targets = ring.targets(number)
    assert len(targets) == len(set(targets)) == min(users, fan)
    for user in [*map(load.user, range(users)), "stranger"]:
        assert ring.is_for(number, user) == (user in targets)


def test_all_users_get_as_many() -> None:
    counted = Counter(user for number in range(500) for user in Ring(100, 3).targets(number))
    assert set(counted.values()) == {15}
    assert len(counted) == 100


def test_recorded_letters_go_to_the_members_of_their_channels_and_begin_again() -> None:
    recorded = Recorded([{"channelId": "a"}, {"channelId": "b"}], {"a": ["x"], "b": ["x", "y"]})
    assert list(recorded.targets(3)) == ["x", "y"]
    assert recorded.is_for(2, "x")
    assert not recorded.is_for(2, "y")


def test_a_record_is_prepared_in_the_spelling_of_the_api(tmp_path: Path) -> None:
    traffic.write(tmp_path, traffic.Traffic(users=20, channels=2, seed=1), 10)
    place = tmp_path / "replay"
    place.mkdir()
    packed, members = tmp_path / "traffic.ndjson.gz", tmp_path / "members.json"
    out = addressing.prepare(packed, members, place, messages_max=7, members_max=3)
    letters = addressing.letters_of(str(out))
    times = addressing.times_of(letters)
    assert len(letters) == 7
    assert times == sorted(times)
    inside = json.loads(addressing.members_path(str(out)).read_text())
    assert {letter["channelId"] for letter in letters} <= inside.keys()
    assert max(map(len, inside.values())) == 3


def test_a_clock_that_went_back_stands_still() -> None:
    letters = [{"createdAt": f"2026-01-05T08:00:0{second}+00:00"} for second in (3, 1, 4)]
    first, second, third = addressing.times_of(letters)
    assert (second - first, third - first) == pytest.approx((0, 1))
