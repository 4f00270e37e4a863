"""What is past its time goes, wherever it lies, and what isn't stays; nothing brings it back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import ops
from node.clock import DAY_US, iso, now_us
from node.slots import slot_of
from shard import archive, retention
from shard.disk import Disk
from shard.doctor import Doctor
from shard.mailbox import Mailbox
from shard.retention import Retention
from shard.rows import Row
from tests.shard.test_backup import KEPT, back_up

from .asking import change as mark
from .asking import recount, said, statuses
from .playing import played
from .running import START_US, Running, box_path, delivery, laid_out, letter, until
from .test_archive import in_files, opened, read_all, row
from .test_mailbox import change
from .test_restore import restore

DAY_S = 86_400
NOW = iso(START_US)
NOW_US = START_US + 30 * DAY_US
"""when 30 days have passed since the start of all things"""
BEFORE = NOW


@pytest.fixture(autouse=True)
def _a_start_finds_nothing_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the day of today is: the round that a start begins with is as of the start of all things."""
    monkeypatch.setattr("shard.rounds.now_us", lambda: START_US)


class NoDisk(Disk):
    """Whose order is noted down."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def sync_file(self, path: Path) -> None:
        self.told.append("synced")


def aged(message_id: str, made: int, accepted: int) -> Row:
    """A message of so many days before or after the cut."""
    return (*row(message_id, made)[:8], row(message_id, accepted)[8], None)


def expired(box: Mailbox, before: str = BEFORE, most: int = 500) -> list[str]:
    gone: list[str] = []
    while some := retention.expire(box, before, NOW, NoDisk([]), most):
        gone += some
    return gone


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-900, 20), st.integers(-900, 20)), min_size=1, max_size=12),
    st.integers(-900, 20),
    st.integers(1, 4),
    st.booleans(),
)
def test_a_message_goes_if_it_was_made_and_accepted_long_ago_and_else_stays(
    days: list[tuple[int, int]], archived: int, most: int, again: bool
) -> None:
    with laid_out() as data:
        box = opened(data)
        rows = [aged(f"m{number}", *both) for number, both in enumerate(days)]
        change(box, *rows)
        while archive.move(box, iso(START_US + archived * DAY_US)):
            pass
        box.meter()
        if again:
            box.close()
            box = opened(data)
        gone = expired(box, most=most)
        assert sorted(gone) == sorted(f"m{number}" for number, both in enumerate(days) if max(both) < 0)
        left = {one[0] for one in rows} - set(gone)
        assert set(read_all(box, 3)) == left
        assert set(in_files(data)) <= left
        if again:
            box.close()
            box = opened(data)
        change(box, *rows)
        assert set(read_all(box, 3)) == left, "by replay or retry nothing comes back"
        assert all(box.knows(one[0]) for one in rows)
        assert box.usage().messages == len(left) - len(in_files(data))
        box.forget_expired(NOW)
        assert sorted(box.expired()) == sorted(gone)
        box.forget_expired(iso(START_US + 1))
        assert box.expired() == []
        box.close()


def test_the_archive_loses_nothing_before_the_box_says_so_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    box = opened(tmp_path)
    change(box, row("a", -500), row("b", -400), row("c", -1), row("new", 0))
    archive.move(box, iso(START_US - 100 * DAY_US))
    assert in_files(tmp_path) == ["a", "b"]
    commit, drop = Mailbox.commit, archive.drop
    monkeypatch.setattr(Mailbox, "commit", lambda box: (commit(box), told.append("committed"))[0])
    monkeypatch.setattr(archive, "drop", lambda *all: (drop(*all), told.append("dropped"))[0])
    assert sorted(retention.expire(box, BEFORE, NOW, NoDisk(told))) == ["a", "b", "c"]
    assert told == ["committed", "synced", "dropped"]
    assert list((tmp_path / "archive").iterdir()) == [], "a file that holds nothing goes"
    box.close()


async def send_old(running: Running, user: str, *ids: str) -> None:
    for number, message_id in enumerate(ids):
        await running.deliver(delivery(letter(message_id, at=-(number + 1) * DAY_S), [user]))
    await running.settled()


@played
async def test_a_round_takes_the_marks_too_devices_are_told_and_a_replay_brings_nothing_back() -> None:
    with laid_out() as data:
        async with Running(data, retention_days=30) as running:
            await running.rounded()
            await send_old(running, "ada", "old", "older")
            await send_old(running, "bo", "other")
            await running.deliver(delivery(letter("new"), ["ada"]))
            await mark(running, "ada", said("old", "read"), said("new", "read"), said("older", "starred"))
            check = ops.AskSync(0, 1, slot_of("ada"), "ada", None)
            before = await running.while_alive(running.shard.devices.check(check))
            await running.while_alive(running.shard.rounds.round(NOW_US, sweep=False))
            after = await running.while_alive(running.shard.devices.check(check))
            assert after.version > before.version
            assert await running.ids("ada") == ["new"]
            assert await running.ids("bo") == []
            assert [one.message_id for one in (await statuses(running, "ada")).statuses] == ["new"]
            assert await running.shard.statuses.counts(ops.AskCounts(0, 1, slot_of("ada"), "ada")) == await recount(
                running, "ada"
            )
            assert running.shard.retention.expired == 3
        async with Running(data, retention_days=30) as running:
            await running.settled()
            assert await running.ids("ada") == ["new"]
            assert await running.ids("bo") == []
            await running.stop()
        assert Doctor(data).examine().faults == []


@pytest.mark.slow
@played
@pytest.mark.parametrize("where", ["commit", "sync", "drop", "marks"])
async def test_a_kill_in_the_middle_leaves_all_or_what_the_next_round_finds(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_all: object, **_more: object) -> None:
        raise Killed

    with laid_out() as data:
        async with Running(data, retention_days=30, archive_after_days=10) as running:
            await running.rounded()
            await send_old(running, "ada", "a", "b", "c")
            await running.deliver(delivery(letter("new", at=5 * DAY_S), ["ada"]))
            await mark(running, "ada", said("a", "read"))
            await running.let_go()  # before that its birth may be lost, and nothing is taken out of files
            await running.while_alive(running.shard.rounds.round(START_US + 11 * DAY_US, sweep=True))
            assert in_files(box_path(data, "ada").parent) == ["a", "b", "c"]
            with monkeypatch.context() as patch:
                if where == "commit":
                    patch.setattr(Mailbox, "commit", killed)
                elif where == "sync":
                    patch.setattr(Disk, "sync_file", killed)
                elif where == "drop":
                    patch.setattr(archive, "drop", killed)
                else:
                    patch.setattr(Retention, "after", killed)
                with pytest.raises(Killed):
                    await running.shard.rounds.round(NOW_US, sweep=True)
        async with Running(data, retention_days=30, archive_after_days=10) as running:
            await running.settled()
            assert await running.ids("ada") == (["new", "a", "b", "c"] if where == "commit" else ["new"])
            await running.while_alive(running.shard.rounds.round(NOW_US, sweep=True))
            assert await running.ids("ada") == ["new"]
            assert in_files(box_path(data, "ada").parent) == []
            assert (await statuses(running, "ada")).statuses == []
            await running.stop()
        assert Doctor(data).examine().faults == []


@pytest.mark.slow
@played
async def test_a_restore_brings_back_nothing_that_is_past_its_time() -> None:
    with laid_out() as data:
        old_us = now_us() - 40 * DAY_US
        async with Running(data, retention_days=30, backup=KEPT) as running:
            await running.rounded()
            old = letter("old", at=(old_us - START_US) // 1_000_000)
            await running.deliver(delivery(old, ["ada"]))
            fresh = letter("fresh", at=(now_us() - START_US) // 1_000_000)
            await running.deliver(delivery(fresh, ["ada"]))
            await back_up(running)
            await running.while_alive(running.shard.rounds.round(now_us(), sweep=False))
            assert await running.ids("ada") == ["fresh"]
            done = await restore(running, "ada", now_us())
            assert done.after.messages == 1
            assert await running.ids("ada") == ["fresh"]
            await running.deliver(delivery(old, ["ada"]))
            await running.settled()
            assert await running.ids("ada") == ["fresh"]


@pytest.mark.slow
@played
async def test_a_full_box_has_room_again_when_what_is_past_its_time_has_gone() -> None:
    with laid_out() as data:
        async with Running(data, retention_days=30, quota_messages=2) as running:
            await running.rounded()
            await send_old(running, "ada", "a", "b")
            assert running.shard.quotas.full_of(["ada"]) == ["ada"]
            await running.while_alive(running.shard.rounds.round(NOW_US, sweep=False))
            await until(lambda: not running.shard.quotas.full_of(["ada"]), "room", running.life)
