"""A change of the number of shards: everything that waits arrives once, wherever it is killed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import paths, placement
from node.errors import ConfigError, Refused
from node.placement import Placement
from node.slots import SLOTS
from shard import layout
from shard.journal import Journal
from shard.layout import lay_out

from .cluster import Cluster, hold_back
from .elsewhere import held_elsewhere
from .running import box_path, letter, scratch, stored, until
from .test_dead_letters import dead, requeue, scheduled

pytestmark = pytest.mark.slow

CHANGES = (1, 2, 3, 5, 2)
USERS = [f"user{number}" for number in range(24)]


def play(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_a_new_directory_is_laid_out_and_one_that_fits_is_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    move = lay_out(data, 3)
    assert move is not None
    assert placement.load(data) == Placement(version=1, shards=3)
    assert sorted(path.name for path in (data / "journals-1").glob("*.db")) == [f"shard-{i}.db" for i in range(3)]
    assert lay_out(data, 3) is None
    assert placement.load(data) == Placement(version=1, shards=3)


def test_nothing_is_moved_beneath_a_shard_that_runs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    lay_out(data, 2)
    held = os.open(paths.shard_lock(data, 1), os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(ConfigError, match="shard 1 is running"):
            lay_out(data, 3)
        assert lay_out(data, 2) is None
    finally:
        os.close(held)
    assert lay_out(data, 3) is not None


def test_letters_that_wait_through_every_change_arrive_once_and_their_receipts_add_up() -> None:
    async def go() -> None:
        with scratch() as directory:
            data = directory / "data"
            async with Cluster(data, CHANGES[0]) as cluster:
                await cluster.put_channel("news")
                members: list[str] = []
                expected: dict[str, set[str]] = {}
                for number, shards in enumerate(CHANGES):
                    if number:
                        move = await cluster.change(shards)
                        assert move is not None
                        assert move.letters > 0
                        old = CHANGES[number - 1]
                        assert move.slots == pytest.approx(SLOTS * abs(shards - old) / max(shards, old), rel=0.1)
                    await asyncio.sleep(0)
                    hold_back(cluster)
                    await cluster.join("news", USERS[number::5])
                    members += USERS[number::5]
                    await cluster.leave("news", [USERS[number]])
                    members.remove(USERS[number])
                    assert await cluster.members("news") == len(members)
                    for name, kwargs, targets in (
                        (f"direct{number}", {"users": USERS[number:]}, USERS[number:]),
                        (f"fresh{number}", {"users": USERS[:number + 1], "fresh": True}, USERS[: number + 1]),
                        (f"channel{number}", {"channel": "news"}, members),
                        (f"freshchannel{number}", {"channel": "news", "fresh": True}, members),
                    ):  # fmt: skip
                        expected[name] = set(targets)
                        assert await cluster.deliver(letter(name), **kwargs) == len(targets)  # type: ignore[arg-type]
                await cluster.change(2 + 1)
                await cluster.settled()
                for name, targets in expected.items():
                    part = await cluster.receipt(name)
                    assert (name, part.targets, part.pending, part.failed) == (name, len(targets), 0, 0)
                for user in USERS:
                    channels = await cluster.at_home(user).channels_of(user)
                    assert channels == (["news"] if user in members else [])
                await cluster.let_go()
                assert cluster.rows == 0
            assert stored(data) == {
                user: sorted(name for name, targets in expected.items() if user in targets) for user in sorted(USERS)
            }

    play(go())


# -- everything at once, against a model ----------------------------------------------------------

USER = st.sampled_from(USERS[:6])
step = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 4), st.booleans()),
    st.tuples(st.just("send"), st.integers(0, 4), st.booleans()),
    st.tuples(st.just("half sent"), st.integers(0, 4), st.just(False)),
    st.tuples(st.just("to channel"), st.integers(5, 7), st.booleans()),
    st.tuples(st.just("other body"), st.integers(0, 7), st.just(False)),
    st.tuples(st.just("remove"), USER, st.integers(0, 7)),
    st.tuples(st.just("join"), USER, st.just(0)),
    st.tuples(st.just("leave"), USER, st.just(0)),
    st.tuples(st.just("settle"), st.just(0), st.booleans()),
    st.tuples(st.just("change"), st.sampled_from([1, 2, 3]), st.just(0)),
    st.tuples(st.just("change"), st.sampled_from([1, 2, 3]), st.just(0)),
)


async def _live(data: Path, steps: list[Any]) -> dict[str, list[str]]:
    accepted: dict[str, set[str]] = {}
    removed: set[tuple[str, str]] = set()
    members: set[str] = set()
    boxes: set[str] = set()
    async with Cluster(data, 2) as cluster:
        await cluster.put_channel("news")
        for kind, argument, flag in steps:
            name = f"m{argument}"
            if kind in ("send", "half sent"):
                users = USERS[argument : argument + 3]
                accepted[name] = set(users)
                half = kind == "half sent"
                targets = await cluster.deliver(letter(name), users, only_home=half)
                if half:  # the caller had no answer, so it asks again
                    targets = await cluster.deliver(letter(name), users)
                assert targets == 3
                boxes |= set(users)
            elif kind == "to channel":
                expected = accepted.setdefault(name, set(members))
                assert await cluster.deliver(letter(name), channel="news") == len(expected)
                boxes |= expected
            elif kind == "other body" and name in accepted:
                with pytest.raises(Refused) as refused:
                    await cluster.deliver(letter(name, content="other"), USERS[:6], digest=b"other")
                assert refused.value.status == 409
            elif kind == "remove":
                name = f"m{flag}"
                if argument in accepted.get(name, ()) and (argument, name) not in removed:
                    await cluster.at_home(argument).remove(argument, name)
                    removed.add((argument, name))
            elif kind in ("join", "leave"):
                await (cluster.join if kind == "join" else cluster.leave)("news", [argument])
                members = members | {argument} if kind == "join" else members - {argument}
                boxes |= members
            elif kind == "settle":
                await cluster.settled()
                if flag:
                    await cluster.let_go()
            elif kind == "change":
                await cluster.change(argument)
        await cluster.settled()
        assert await cluster.members("news") == len(members)
        for name, targets in accepted.items():
            part = await cluster.receipt(name)
            assert (name, part.targets, part.pending, part.failed) == (name, len(targets), 0, 0)
        for user in boxes:
            assert await cluster.at_home(user).channels_of(user) == (["news"] if user in members else [])
        await cluster.let_go()
        assert cluster.rows == 0
    return {
        user: sorted(name for name, targets in accepted.items() if user in targets and (user, name) not in removed)
        for user in sorted(boxes)
    }


@given(st.lists(step, max_size=12))
@settings(max_examples=60)
def test_a_life_with_changes_of_shards_ends_as_it_should(steps: list[Any]) -> None:
    with scratch() as directory:
        expected = asyncio.run(_live(directory / "data", steps))
        assert stored(directory / "data") == expected


# -- sent again -----------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
def test_another_body_is_refused_also_when_the_first_was_for_a_channel_that_is_gone(half: bool) -> None:
    """``half``: only the home had accepted it before the change, so it is asked for again and refused."""

    async def go() -> None:
        with scratch() as directory:
            async with Cluster(directory / "data", 2) as cluster:
                await cluster.put_channel("news")
                await cluster.join("news", USERS[:4])
                targets = await cluster.deliver(letter("m"), channel="news", only_home=half)
                assert (targets < 4) == half
                await cluster.change(3)
                await cluster.drop_channel("news")
                if half:
                    with pytest.raises(Refused):
                        await cluster.deliver(letter("m"), channel="news")
                else:
                    assert await cluster.deliver(letter("m"), channel="news") == 4
                assert (await cluster.receipt("m")).targets == targets
                with pytest.raises(Refused) as refused:
                    await cluster.deliver(letter("m", content="other"), USERS[:2], digest=b"other")
                assert refused.value.status == 409

    play(go())


def test_a_channel_letter_sent_again_after_changes_is_not_for_those_who_joined_since() -> None:
    async def go() -> None:
        with scratch() as directory:
            async with Cluster(directory / "data", 2) as cluster:
                await cluster.put_channel("news")
                await cluster.join("news", USERS[:10])
                assert await cluster.deliver(letter("m"), channel="news") == 10
                for shards in (3, 1, 2):
                    await cluster.join("news", USERS[:20])
                    await cluster.leave("news", USERS[:3])
                    await cluster.change(shards)
                    assert await cluster.deliver(letter("m"), channel="news") == 10
                    await cluster.settled()
                    part = await cluster.receipt("m")
                    assert (part.targets, part.pending) == (10, 0)
            boxes = stored(directory / "data")
            assert {user for user, ids in boxes.items() if ids == ["m"]} == set(USERS[:10])
            assert {user for user, ids in boxes.items() if ids == []} == set(USERS[10:20])

    play(go())


def test_half_a_channel_letter_stays_half_through_every_change_until_it_is_sent_again() -> None:
    async def go() -> None:
        with scratch() as directory:
            async with Cluster(directory / "data", 3) as cluster:
                await cluster.put_channel("news")
                await cluster.join("news", USERS)
                assert await cluster.deliver(letter("m"), channel="news", only_home=True) < len(USERS)
                for shards in (2, 1, 3):
                    await cluster.change(shards)
                assert await cluster.deliver(letter("m"), channel="news") == len(USERS)
                await cluster.settled()
                assert (await cluster.receipt("m")).targets == len(USERS)
            assert stored(directory / "data") == {user: ["m"] for user in sorted(USERS)}

    play(go())


def test_a_removal_beside_two_rows_of_its_message_disturbs_nothing() -> None:
    """A message that is sent again after a change may be in the journal twice, while one of its readers
    has it already and removes it."""

    async def go() -> None:
        with scratch() as directory:
            async with Cluster(directory / "data", 2) as cluster:
                hold_back(cluster)
                await cluster.deliver(letter("m"), USERS, only_home=True)
                await cluster.change(1)
                hold_back(cluster)
                await cluster.deliver(letter("m"), USERS)
                [running] = cluster.running
                await running.remove(USERS[0], "m")
                await running.remove(USERS[1], "m")
                assert await running.ids(USERS[0]) == []
                for user in USERS[2:]:
                    assert await running.ids(user) == ["m"]
                assert running.shard.backlog.waiting == 0
                assert (await cluster.receipt("m")).pending == 0

    play(go())


def test_a_letter_accepted_by_its_home_alone_is_completed_after_the_change() -> None:
    async def go() -> None:
        with scratch() as directory:
            async with Cluster(directory / "data", 3) as cluster:
                assert await cluster.deliver(letter("m"), USERS, only_home=True) < len(USERS)
                await cluster.change(2)
                assert await cluster.deliver(letter("m"), USERS) == len(USERS)
                assert await cluster.deliver(letter("m"), USERS) == len(USERS)
                await cluster.settled()
                part = await cluster.receipt("m")
                assert (part.targets, part.pending) == (len(USERS), 0)
            assert stored(directory / "data") == {key: ["m"] for key in sorted(USERS)}

    play(go())


# -- killed on the way ----------------------------------------------------------------------------


class Killed(Exception):
    pass


def _die(*_arguments: object, **_more: object) -> None:
    raise Killed


def _dies_sweeping(data: Path, current: Placement | None) -> None:
    if current is not None and current.version == 2:
        raise Killed
    _sweep(data, current)


_sweep = layout.sweep

STEPS: list[tuple[Any, str, Callable[..., Any]]] = [
    (layout._Mover, "_move_members", _die),
    (layout._Mover, "_move_letters", _die),
    (layout._Mover, "_move_receipts", _die),
    (layout.placement, "sync_directory", _die),
    (layout.placement, "save", _die),
    (layout, "sweep", _dies_sweeping),
]


@pytest.mark.parametrize(("where", "name", "death"), STEPS, ids=[name for _, name, _ in STEPS])
@pytest.mark.parametrize("then", [2, 3, 5])
def test_a_kill_at_any_step_leaves_one_whole_layout(
    where: Any, name: str, death: Callable[..., Any], then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it the node starts with any number of shards: the old one, the one it was changing to, another."""

    async def go() -> None:
        with scratch() as directory:
            data = directory / "data"
            async with Cluster(data, 2) as cluster:
                await cluster.put_channel("news")
                hold_back(cluster)
                await cluster.join("news", USERS[:5])
                await cluster.deliver(letter("m"), USERS)
                await cluster.deliver(letter("n"), channel="news")
            with monkeypatch.context() as patch:
                patch.setattr(where, name, death)
                with pytest.raises(Killed):
                    lay_out(data, 3)
            async with Cluster(data, then) as cluster:
                await cluster.settled()
                assert (await cluster.receipt("m")).targets == len(USERS)
                assert await cluster.members("news") == 5
                assert len(list(data.glob("journals-*"))) == 1
            assert stored(data) == {user: ["m", "n"] if user in USERS[:5] else ["m"] for user in sorted(USERS)}

    play(go())


def test_what_another_layout_left_behind_is_removed_and_nothing_else(tmp_path: Path) -> None:
    data = tmp_path / "data"
    lay_out(data, 2)
    shutil.copytree(paths.journals_dir(data, 1), paths.journals_dir(data, 7))
    (data / "user_storage" / "7").mkdir(parents=True)
    lay_out(data, 2)
    assert (data / "user_storage" / "7").is_dir()
    assert sorted(path.name for path in data.iterdir()) == [
        "journals-1", "placement.json", "run", "user_storage", "vapid.pem",
    ]  # fmt: skip


def _leave_traces(data: Path, shards: int) -> set[Path]:
    """What ``shards`` shards have beside their journals; all of it but the locks."""
    for index in range(shards):
        copies = paths.snapshots_dir(data, index)
        copies.mkdir(parents=True, exist_ok=True)
        (copies / "1.db").touch()
        for path in (paths.changes_path, paths.socket_path, paths.shard_lock):
            path(data, index).touch()
    kinds = (paths.snapshots_dir, paths.changes_path, paths.socket_path)
    return {path(data, index) for path in kinds for index in range(shards)}


def test_copies_counters_and_sockets_of_shards_that_are_no_more_are_removed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    lay_out(data, 12)
    traces = _leave_traces(data, 12)
    others = {data / "snapshots" / "shard-x", data / "run" / "changes-9.old", data / "run" / "router-9.sock"}
    for path in others:
        path.touch()
    locks = {paths.shard_lock(data, index) for index in range(12)}
    assert lay_out(data, 12) is None
    assert all(path.exists() for path in traces)
    lay_out(data, 2)
    kept = {
        place(data, index) for place in (paths.snapshots_dir, paths.changes_path, paths.socket_path) for index in (0, 1)
    }
    assert {path for path in traces if path.exists()} == kept
    assert all((paths.snapshots_dir(data, index) / "1.db").exists() for index in (0, 1))
    assert all(path.exists() for path in others)
    assert all(path.exists() for path in locks), "somebody may hold one, and another who made it anew would hold it too"


def test_what_a_killed_change_left_of_them_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    lay_out(data, 4)
    traces = _leave_traces(data, 4)
    with monkeypatch.context() as patch:
        patch.setattr(layout, "sweep", _dies_sweeping)
        with pytest.raises(Killed):
            lay_out(data, 1)
    assert all(path.exists() for path in traces)
    assert lay_out(data, 1) is None
    assert {path.name for path in traces if path.exists()} == {"shard-0", "changes-0", "shard-0.sock"}


def test_journals_without_a_placement_that_hold_letters_are_not_thrown_away(tmp_path: Path) -> None:
    """``placement.json`` may be lost by hand; what was accepted must not follow it."""
    data = tmp_path / "data"
    lay_out(data, 1)
    journal = Journal(paths.shard_db(data, 1, 0))
    journal.db.execute("INSERT INTO letters VALUES(1, 0, 'm', 1, NULL, 'ada', x'00')")
    journal.close()
    (data / "placement.json").unlink()
    with pytest.raises(Exception, match="placement"):
        lay_out(data, 1)
    assert paths.shard_db(data, 1, 0).exists()


def test_dead_letters_and_pauses_go_with_their_user_through_every_change() -> None:
    async def go() -> None:
        with scratch() as directory:
            data = directory / "data"
            async with Cluster(data, 2) as cluster:
                await cluster.put_channel("news")
                await cluster.join("news", USERS)
                await cluster.settled()
                for running in cluster.running:
                    await running.let_go()
                with contextlib.ExitStack() as held:
                    for user in USERS[:6]:
                        cluster.at_home(user).shard.mailboxes.discard(user)
                        held.enter_context(held_elsewhere(box_path(data, user), "write"))
                    await cluster.deliver(letter("all", at=-10_000_000, timeout_s=1), channel="news")
                    await cluster.deliver(letter("patient"), USERS[:6])
                    for running in cluster.running:
                        await until(lambda r=running: r.shard.backlog.waiting == len(r.shard.put_off), "the rest")
                        await until(lambda r=running: not r.shard.put_off.given_up.deaths, "the deaths on disk")
                    for shards in (3, 1, 2):
                        for running in cluster.running:
                            await scheduled(running, len(running.shard.put_off))
                        await cluster.change(shards)
                        assert {user for r in cluster.running for user in r.shard.put_off._users} == set(USERS[:6])
                        assert min(w.attempts for r in cluster.running for w in r.shard.put_off._users.values()) >= 4
                        for running in cluster.running:
                            await until(lambda r=running: r.shard.backlog.waiting == len(r.shard.put_off), "the rest")
                        part = await cluster.receipt("all")
                        assert (part.targets, part.pending, part.failed) == (len(USERS), 0, 6)
                for user in USERS[:6]:
                    running = cluster.at_home(user)
                    (one,) = await dead(running, user)
                    assert (one.message_id, one.reason) == ("all", "expired")
                    await requeue(running, user, "all")
                await cluster.settled()
                part = await cluster.receipt("all")
                assert (part.targets, part.pending, part.failed) == (len(USERS), 0, 0)
                await cluster.let_go()
                assert cluster.rows == 0
            assert stored(data) == {user: ["all"] + ["patient"] * (user in USERS[:6]) for user in sorted(USERS)}

    play(go())
