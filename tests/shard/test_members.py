"""Members: a letter is for those who were in the channel when it was accepted, however late it is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import NotFound
from shard.journal import MESSAGE, Journal
from shard.members import Members

from .running import scratch

USERS = ["ada", "bo", "cy", "di"]
CHANNELS = ["news", "sport"]


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[tuple[Journal, Members]]:
    journal = Journal(directory / "shard.db")
    try:
        yield journal, Members(journal.db)
    finally:
        journal.close()


some = st.lists(st.sampled_from(USERS), max_size=3)
channel = st.sampled_from(CHANNELS)
step = st.one_of(
    st.tuples(st.just("change"), channel, some, some),
    st.tuples(st.just("letter"), channel, st.just([]), st.just([])),
    st.tuples(st.just("letter"), channel, st.just([]), st.just([])),
    st.tuples(st.just("drop"), channel, st.just([]), st.just([])),
    st.tuples(st.just("done"), channel, st.just([]), st.just([])),
    st.tuples(st.just("sweep"), channel, st.just([]), st.just([])),
    st.tuples(st.just("reopen"), channel, st.just([]), st.just([])),
)


@given(st.lists(step, max_size=30), st.integers(1, 3))
@settings(max_examples=80)
def test_letters_see_the_members_of_their_time(steps: list[Any], limit: int) -> None:
    """Random joins, leaves, drops and letters; sweeps and restarts in between; every letter that waits
    is asked again after each step, page by page and through each user's spans."""
    with scratch() as directory, contextlib.ExitStack() as stack:
        journal, members = stack.enter_context(opened(directory))
        state: dict[str, set[str]] = {}
        waiting: dict[int, tuple[str, set[str]]] = {}
        for kind, name, add, remove in steps:
            if kind == "change":
                if name not in state:
                    members.put(name, None, None, None, 1)
                    state[name] = set()
                joined, left = members.change(name, add, remove, journal.next_seq(), 1)
                assert joined == [user for user in dict.fromkeys(add) if user not in state[name]]
                state[name] |= set(add)
                assert left == [user for user in dict.fromkeys(remove) if user in state[name]]
                state[name] -= set(remove)
            elif kind == "letter" and name in state:
                seq = journal.next_seq()
                assert members.channels[name].members == len(state[name])
                journal.db.execute("INSERT INTO letters VALUES(?,?,'m',1,?,'',x'')", (seq, MESSAGE, name))
                waiting[seq] = name, set(state[name])
            elif kind == "drop" and name in state:
                assert members.drop(name, journal.next_seq()) == sorted(state.pop(name))
            elif kind == "done" and waiting:
                seq = min(waiting)
                del waiting[seq]
                journal.db.execute("DELETE FROM letters WHERE seq=?", (seq,))
            elif kind == "sweep":
                members.sweep(journal.oldest_seq())
                if not waiting:
                    assert journal.db.execute("SELECT * FROM members WHERE left_seq IS NOT NULL").fetchall() == []
            elif kind == "reopen":
                stack.close()
                journal, members = stack.enter_context(opened(directory))
            _check(members, state, waiting, limit)


def _check(members: Members, state: dict[str, set[str]], waiting: dict[int, tuple[str, set[str]]], limit: int) -> None:
    for seq, (name, expected) in waiting.items():
        found: list[str] = []
        while page := members.at(name, seq, found[-1] if found else "", limit):
            found += page
        assert found == sorted(expected)
        for user in USERS:
            spans = [span for span in members.spans(user) if span[0] == name]
            assert any(joined < seq and (left is None or left > seq) for _, joined, left in spans) == (user in expected)
    assert set(members.channels) == set(state)
    for name, users in state.items():
        assert members.now(name, "", 100) == sorted(users)
        assert set(members.standings(name)) == users
        assert members.channel(name).members == len(users)


def test_an_unknown_channel_is_named(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, members), pytest.raises(NotFound) as refused:
        members.channel("nowhere")
    assert refused.value.field == "channelId"


def test_what_is_not_told_of_a_channel_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, members):
        assert members.put("news", None, "about", "ada", 5)
        assert not members.put("news", "News", None, None, 9)
        record = members.channel("news")
        assert (record.name, record.description, record.created_by, record.created_us) == ("News", "about", "ada", 5)
    with opened(tmp_path) as (_, members):
        assert members.channel("news") == record


def test_what_was_rolled_back_is_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path) as (journal, members):
        members.put("news", None, None, None, 1)
        journal.begin()
        members.change("news", ["ada"], [], 1, 1)
        members.put("sport", None, None, None, 1)
        journal.rollback()
        members.load()
        assert list(members.channels) == ["news"]
        assert members.channel("news").members == 0
