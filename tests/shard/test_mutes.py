"""Mutes: in the order of joins and leaves, through kills and changes of N, and gone with the membership."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node import ops, paths
from node.clock import iso
from node.errors import NotFound, NotOpen
from node.slots import slot_of
from shard.doctor import Doctor
from shard.journal import Journal
from shard.members import FOR_GOOD_US, Members

from .cluster import Cluster
from .playing import played
from .running import Running, laid_out, scratch

FUTURE_US = 4_000_000_000_000_000
USERS = [f"user{number}" for number in range(4)]


async def mute(running: Running, user: str, until_us: int | None, channel: str = "news") -> None:
    question = ops.SetMute(0, running.layout.version, slot_of(user), user, channel, until_us)
    await running.while_alive(running.shard.channels.mute(question))


async def mutes(running: Running, user: str) -> dict[str, str | bool | None]:
    """Channels of ``user``'s box: False for one that is heard, else until when it is muted."""
    question = ops.AskUserChannels(0, running.layout.version, slot_of(user), user)
    try:
        found = await running.while_alive(running.shard.desk.channels(question))
    except NotFound:
        return {}
    return {channel.id: channel.is_muted and channel.muted_until for channel in found.channels}


async def come(running: Running, user: str, channel: str = "news") -> None:
    """Join as one who comes by himself."""
    question = ops.ChangeMembers(0, running.layout.version, channel, [user], [], [slot_of(user)], 1, True)
    await running.while_alive(running.shard.channels.change_members(question))


USER = st.sampled_from(USERS)
STEP = st.one_of(
    st.tuples(st.just("join"), USER, st.just(0)),
    st.tuples(st.just("leave"), USER, st.just(0)),
    st.tuples(st.just("mute"), USER, st.sampled_from([FOR_GOOD_US, FUTURE_US, FUTURE_US + 1])),
    st.tuples(st.just("mute"), USER, st.sampled_from([FOR_GOOD_US, FUTURE_US])),
    st.tuples(st.just("unmute"), USER, st.just(0)),
    st.tuples(st.just("look"), USER, st.just(0)),
    st.tuples(st.just("barrier"), st.just(""), st.just(0)),
    st.tuples(st.just("change"), st.just(""), st.sampled_from([1, 2, 3])),
    st.tuples(st.just("kill"), st.just(""), st.just(0)),
)


async def _live(data: Path, steps: list[tuple[str, str, int]]) -> None:
    state: dict[str, int | None] = {}
    async with Cluster(data, 2) as cluster:
        await cluster.put_channel("news")
        for kind, user, argument in steps:
            if kind == "join":
                await cluster.join("news", [user])
                state.setdefault(user, None)
            elif kind == "leave":
                await cluster.leave("news", [user])
                state.pop(user, None)
            elif kind in ("mute", "unmute"):
                until_us = argument if kind == "mute" else None
                if user in state:
                    await mute(cluster.at_home(user), user, until_us)
                    state[user] = until_us
                else:
                    with pytest.raises(NotFound):
                        await mute(cluster.at_home(user), user, until_us)
            elif kind == "look":
                assert await mutes(cluster.at_home(user), user) == _told(state, user)
            elif kind == "barrier":
                await cluster.settled()
                await cluster.let_go()
            elif kind == "change" and argument != cluster.shards:
                await cluster.change(argument)
            elif kind == "kill":
                await cluster.kill()
                await cluster._start()
        await cluster.settled()
        for user in USERS:
            assert await mutes(cluster.at_home(user), user) == _told(state, user)
    assert Doctor(data).examine().faults == []


def _told(state: dict[str, int | None], user: str) -> dict[str, Any]:
    if user not in state:
        return {}
    until_us = state[user]
    return {"news": False if until_us is None else None if until_us == FOR_GOOD_US else iso(until_us)}


@pytest.mark.slow
@settings(max_examples=60)
@example([("join", "user0", 0), ("mute", "user0", 0), ("leave", "user0", 0), ("kill", "", 0), ("look", "user0", 0)])
@example([("join", "user0", 0), ("mute", "user0", 0), ("leave", "user0", 0), ("join", "user0", 0), ("kill", "", 0)])
@example([("join", "user0", 0), ("mute", "user0", FUTURE_US), ("barrier", "", 0), ("change", "", 3)])
@given(st.lists(STEP, max_size=14))
def test_every_box_ends_as_it_was_answered(steps: list[tuple[str, str, int]]) -> None:
    with scratch() as directory:
        asyncio.run(_live(directory / "data", steps))


def test_a_mute_that_was_answered_is_there_after_a_kill_before_it_was_delivered() -> None:
    async def go(data: Path) -> None:
        async with Running(data) as running:
            await running.put_channel("news")
            await running.change("news", add=["ada"])
            for until_us in (FOR_GOOD_US, None, FUTURE_US):
                await mute(running, "ada", until_us)
        for _ in range(2):
            async with Running(data) as running:
                assert await mutes(running, "ada") == {"news": iso(FUTURE_US)}

    with laid_out() as data:
        asyncio.run(go(data))


@played
async def test_who_joins_again_hears_the_channel() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.put_channel("news")
            await running.change("news", add=["ada"])
            await mute(running, "ada", FOR_GOOD_US)
            await running.change("news", add=["ada"])  # is in: nothing changes
            assert await mutes(running, "ada") == {"news": None}
            await running.change("news", remove=["ada"])
            await running.change("news", add=["ada"])
            assert await mutes(running, "ada") == {"news": False}


@played
async def test_what_says_nothing_new_is_not_journaled_and_what_is_not_there_is_named() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.put_channel("news")
            await running.change("news", add=["ada"])
            await mute(running, "ada", FUTURE_US)
            rows = running.shard.journal.rows
            await mute(running, "ada", FUTURE_US)
            assert running.shard.journal.rows == rows
            for user, channel in (("bob", "news"), ("ada", "sport")):
                with pytest.raises(NotFound) as refused:
                    await mute(running, user, None, channel)
                assert refused.value.field == "channelId"


@played
async def test_who_comes_by_himself_finds_only_open_channels_open() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.put_channel("news")
            with pytest.raises(NotOpen) as refused:
                await come(running, "ada")
            assert refused.value.field == "channelId"
            await running.change("news", add=["bob"])
            await come(running, "bob")  # is in already
            question = ops.PutChannel(0, "news", None, None, None, 1, True)
            await running.while_alive(running.shard.channels.put(question))
            await come(running, "ada")
            assert await running.channels_of("ada") == ["news"]
        async with Running(data) as running:
            assert (await running.shard.channels.get(ops.GetChannel(0, "news"))).open


def test_a_journal_from_before_mutes_and_open_channels_gets_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "shard.db"
    journal = Journal(path)
    members = Members(journal.db)
    members.put("news", "News", None, None, 5)
    members.change("news", ["ada"], [], journal.next_seq(), 7)
    for change in (
        "DROP INDEX members_muted", "ALTER TABLE channels DROP COLUMN open", "ALTER TABLE members DROP COLUMN muted_us",
    ):  # fmt: skip
        journal.db.execute(change)
    journal.close()
    for _ in range(2):
        journal = Journal(path)
        members = Members(journal.db)
        assert not members.channel("news").open
        standing = members.standing("news", "ada")
        assert standing is not None
        assert not standing.is_muted
        assert members.mute("news", "ada", 9)
        assert members.is_muted("news", "ada", 8)
        assert not members.is_muted("news", "ada", 9)
        assert members.mute("news", "ada", None)
        assert not members.is_muted("news", "ada", 8)
        journal.close()


def test_the_doctor_finds_a_mute_that_the_journal_does_not_know() -> None:
    async def go(data: Path) -> None:
        async with Running(data) as running:
            await running.put_channel("news")
            await running.change("news", add=["ada"])
            await running.settled()
            await running.let_go()

    with laid_out() as data:
        asyncio.run(go(data))
        assert Doctor(data).examine().faults == []
        db = apsw.Connection(str(paths.user_dir(data, "ada") / "messages.db"))
        db.execute("UPDATE user_channels SET is_muted=1")
        db.close()
        [fault] = Doctor(data).examine().faults
        assert "news is muted otherwise" in fault
