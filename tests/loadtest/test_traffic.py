"""The generator's promise: the same seed, the same traffic, shaped like what was recorded."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest import traffic
from loadtest.traffic import CONTENT_BYTES_MAX, TITLE_MAX, TITLE_MIN, Traffic
from node import ids


def test_the_same_seed_gives_the_same_traffic() -> None:
    one, other = (Traffic(users=50, channels=5, seed=7) for _ in range(2))
    assert one.members == other.members
    assert list(one.messages(200)) == list(other.messages(200))


def test_another_seed_gives_other_traffic() -> None:
    one, other = (Traffic(users=50, channels=5, seed=seed) for seed in (1, 2))
    assert one.members != other.members
    assert {m.id for m in one.messages(50)}.isdisjoint(m.id for m in other.messages(50))


@settings(max_examples=25, deadline=None)
@given(users=st.integers(1, 300), channels=st.integers(1, 40), seed=st.integers(0, 2**32), count=st.integers(0, 40))
def test_whatever_is_generated_is_accepted_by_the_rules_of_a_node(
    users: int, channels: int, seed: int, count: int
) -> None:
    made = Traffic(users=users, channels=channels, seed=seed)
    assert len(made.members) == channels
    for channel, members in made.members.items():
        ids.check_name(channel, "channel")
        ids.check_names(members, "members")
        assert 1 <= len(set(members)) == len(members) <= users
    messages = list(made.messages(count))
    assert len({message.id for message in messages}) == count
    for message in messages:
        ids.check_name(message.id, "id")
        assert message.sender in made.members[message.channel_id]
        assert TITLE_MIN <= len(message.title) <= TITLE_MAX
        assert len(message.content.encode()) <= CONTENT_BYTES_MAX
        assert datetime.fromisoformat(message.created_at).tzinfo is not None


def test_time_only_goes_forward_and_sometimes_stands_still() -> None:
    times = [datetime.fromisoformat(m.created_at) for m in Traffic(users=10, channels=2, seed=3).messages(500)]
    assert times == sorted(times)
    assert len(set(times)) < len(times)


def test_few_channels_have_most_members_and_most_messages() -> None:
    made = Traffic(users=1_000, channels=8, seed=1)
    sizes = [len(members) for members in made.members.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 5 * sizes[-1]
    counts = Counter(message.channel_id for message in made.messages(2_000))
    assert counts.most_common(1)[0][0] == next(iter(made.members))


def test_some_text_is_long_some_empty_and_some_not_ascii() -> None:
    messages = list(Traffic(users=100, channels=8, seed=1).messages(3_000))
    assert any(len(message.content) > 2_000 for message in messages)
    assert any(not message.content for message in messages)
    assert any(not message.title.isascii() for message in messages)
    assert sum(message.title.isascii() for message in messages) > 2_500


def test_the_files_are_as_recorded_traffic_comes(tmp_path: Path) -> None:
    arguments = ["--messages", "30", "--users", "20", "--channels", "3", "--seed", "5"]
    contents = []
    for name in ("a", "b"):
        done = CliRunner().invoke(traffic.main, [*arguments, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        contents.append([(tmp_path / name / file).read_bytes() for file in ("traffic.ndjson.gz", "members.json")])
    assert contents[0] == contents[1]
    lines = gzip.decompress(contents[0][0]).splitlines()
    assert [list(json.loads(line)) for line in lines] == [
        ["id", "channel_id", "title", "content", "sender", "created_at"]
    ] * 30
    members = msgspec.json.decode(contents[0][1], type=dict[str, list[str]])
    assert {json.loads(line)["channel_id"] for line in lines} <= set(members)


@pytest.mark.parametrize(("users", "channels"), [(0, 1), (1, 0)])
def test_traffic_without_users_or_channels_is_refused(users: int, channels: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Traffic(users=users, channels=channels, seed=1)
