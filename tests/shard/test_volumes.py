"""A disk that gives errors is left alone, and noticed when it is well again; one bad box is no bad disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from node import paths
from node.breaker import State
from node.errors import NotFound, Unavailable
from shard import volumes
from shard.mailbox import Mailbox
from shard.opener import Opener
from shard.trouble import VolumeDown
from shard.volumes import Volumes

from .playing import played
from .running import Running, delivery, laid_out, letter, stored, until

BAD = apsw.IOError("disk I/O error")


def made(tmp_path: Path) -> Volumes:
    paths.boxes_dir(tmp_path).mkdir(parents=True)
    return Volumes(tmp_path)


def only_state(found: Volumes) -> State:
    (state,) = found.states().values()
    return state


def test_one_bad_box_is_no_bad_disk_and_five_are_unless_something_goes_well(tmp_path: Path) -> None:
    found = made(tmp_path)
    for _ in range(100):
        found.ended("ada", found.enter("ada"), BAD)
    assert found.are_in_doubt
    for number in range(3):
        found.ended(f"u{number}", None, OSError(5, "I/O error"))
    found.ended("well", found.enter("well"), None)
    assert not found.are_in_doubt
    for number in range(4):
        found.ended(f"u{number}", None, BAD)
    assert only_state(found) is State.CLOSED
    found.ended("u4", None, BAD)
    assert only_state(found) is State.OPEN
    assert found.is_down("anybody")
    with pytest.raises(VolumeDown) as refused:
        found.enter("anybody")
    assert (refused.value.status, refused.value.retry_after) == (503, 1)


@pytest.mark.parametrize(
    "error",
    [apsw.BusyError("b"), apsw.FullError("f"), OSError(28, "no room"), apsw.CorruptError("c"), NotFound("n")],
)
def test_what_is_not_the_disks_trouble_opens_nothing(tmp_path: Path, error: Exception) -> None:
    found = made(tmp_path)
    for number in range(50):
        found.ended(f"u{number}", found.enter(f"u{number}"), error)
    assert not found.are_in_doubt


def test_one_probe_at_a_time_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, now = made(tmp_path), 100.0
    monkeypatch.setattr(volumes, "monotonic", lambda: now)
    for number in range(5):
        found.ended(f"u{number}", found.enter(f"u{number}"), BAD)
    now += 1.0
    probe = found.enter("u0")
    with pytest.raises(VolumeDown):
        found.enter("u1")
    found.ended("u0", probe, BAD)
    now += 1.9
    with pytest.raises(VolumeDown):
        found.enter("u1")
    now += 0.1
    found.ended("u1", found.enter("u1"), apsw.CorruptError("an answer"))
    assert only_state(found) is State.CLOSED
    assert not found.are_in_doubt


@pytest.mark.parametrize(
    "error", [apsw.BusyError("held"), OSError(28, "no room"), apsw.CantOpenError("?"), asyncio.CancelledError()]
)
def test_a_probe_that_finds_out_nothing_is_sent_again_after_the_same_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    found, now = made(tmp_path), 100.0
    monkeypatch.setattr(volumes, "monotonic", lambda: now)
    for number in range(5):
        found.ended(f"u{number}", found.enter(f"u{number}"), BAD)
    for _ in range(5):
        now += 1.0
        found.ended("u0", found.enter("u0"), error)
        assert only_state(found) is State.OPEN
        with pytest.raises(VolumeDown):
            found.enter("u1")
    found.ended("u7", None, error)  # in passing
    assert only_state(found) is State.OPEN
    now += 1.0
    found.ended("u0", found.enter("u0"), None)
    assert only_state(found) is State.CLOSED


def test_where_a_box_lies_is_asked_of_the_disk_when_told_to_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made(tmp_path)
    found.learn("ada")
    assert not found.knows("ada"), "its slot is not there yet"
    paths.user_dir(tmp_path, "ada").mkdir(parents=True)
    found.learn("ada")
    assert found.knows("ada")
    monkeypatch.setattr(Path, "stat", None)
    found.ended("ada", found.enter("ada"), BAD)
    found.ended("bob", found.enter("bob"), BAD)
    assert found.are_in_doubt


@played
async def test_mail_waits_while_its_disk_is_bad_and_reads_hear_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "_PAUSE_S", 0.05)
    monkeypatch.setattr(volumes, "_PAUSE_MAX_S", 0.1)
    users = [f"u{number}" for number in range(8)]
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("first"), users))
            await running.settled()
            await running.let_go()
        async with Running(data) as running:
            await _play_bad_disk(running, users, monkeypatch)
        assert stored(data) == {user: ["first", "m"] for user in users}


async def _play_bad_disk(running: Running, users: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    open_: Callable[..., Mailbox | None] = Opener.open

    def failing(self: Opener, user: str, *, create: bool) -> Mailbox | None:
        opened.append(user)
        raise BAD

    monkeypatch.setattr(Opener, "open", failing)
    known = running.shard.mailboxes.volumes
    await running.deliver(delivery(letter("m"), users))
    await until(lambda: only_state(known) is State.OPEN, "the breaker", running.life)
    await until(lambda: running.shard.put_off.failed_tries["volume"] > 8, "letters to wait", running.life)
    tries, knocks = running.shard.put_off.failed_tries["volume"], len(opened)
    with pytest.raises(Unavailable):
        await running.ids("u0")
    await until(lambda: running.shard.put_off.failed_tries["volume"] > tries + 20, "many more tries", running.life)
    assert len(opened) - knocks < 10, "only probes knock"
    assert running.shard.backlog.waiting == len(users)
    monkeypatch.setattr(Opener, "open", open_)
    await running.settled()
    assert only_state(known) is State.CLOSED
    await until(lambda: not known.are_in_doubt, "all to be well", running.life)
    assert sorted(await running.ids("u0")) == ["first", "m"]
    assert running.shard.dead.count == 0
