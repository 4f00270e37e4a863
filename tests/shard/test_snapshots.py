"""Copies for devices: whole, openable anywhere, bounded, and no rest of one that failed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from node import zstd
from node.errors import DiskFull, Overloaded
from shard import snapshots as module
from shard.mailbox import Mailbox, template
from shard.snapshots import IDENTITY, Kept, Snapshots

from .playing import played
from .test_mailbox import change, row

ROOM = 2**40


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Mailbox]:
    (tmp_path / "messages.db").write_bytes(template())
    box = Mailbox("ada", tmp_path / "messages.db")
    change(box, *(row(f"m{n}") for n in range(100)))
    box.issue(1, None)
    yield box
    box.close()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "snapshots" / "shard-0"


def made(spool: Path, **settings: Any) -> Snapshots:
    known: dict[str, Any] = {"bytes_max": 2**30, "keep_s": 600, "room_bytes": lambda: ROOM, **settings}
    return Snapshots(spool, **known)


async def keep(snapshots: Snapshots, box: Mailbox, user: str = "ada", version: str = "v") -> Kept:
    _version, path, hidden = await snapshots.copy(box, lambda: version)
    return await snapshots.finish(user, version, path, hidden)


def files(spool: Path) -> list[str]:
    return sorted(path.name for path in spool.iterdir())


@played
async def test_a_copy_is_what_it_says_and_opens_where_nothing_may_be_written(
    box: Mailbox, spool: Path, tmp_path: Path
) -> None:
    snapshots = made(spool)
    kept = await keep(snapshots, box)
    content = kept.path.read_bytes()
    assert (kept.size, kept.state.size) == (len(content), len(content))
    assert kept.state.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert content[18:20] == b"\x01\x01"
    db = apsw.Connection(f"file:{kept.path}?mode=ro", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    assert db.pragma("integrity_check") == "ok"
    assert db.pragma("journal_mode") == "delete"
    assert db.execute("SELECT count(*) FROM messages").fetchall() == [(100,)]
    db.close()
    snapshots.close()


@played
async def test_packed_copies_are_made_once_and_unpack_to_the_same(box: Mailbox, spool: Path) -> None:
    snapshots = made(spool)
    kept = await keep(snapshots, box)
    for encoding, unpack in (("zstd", zstd.decompress), ("gzip", gzip.decompress)):
        one, two = await asyncio.gather(*(snapshots.packed("ada", kept, encoding) for _ in range(2)))
        assert one.path == two.path
        assert (await snapshots.packed("ada", kept, encoding)).path == one.path
        assert unpack(one.path.read_bytes()) == kept.path.read_bytes()
        assert one.size == one.path.stat().st_size
        assert one.state == kept.state
    assert len(files(spool)) == 3
    snapshots.close()


@played
async def test_what_was_used_longest_ago_goes_when_there_is_too_much(box: Mailbox, spool: Path) -> None:
    size = box.path.stat().st_size + box.log_pages() * 4096
    snapshots = made(spool, bytes_max=size * 3)
    kept = [await keep(snapshots, box, version=f"v{n}") for n in range(3)]
    for n in range(3, 12):
        assert snapshots.kept("ada", "v0", IDENTITY) == kept[0]
        await keep(snapshots, box, version=f"v{n}")
        assert snapshots.bytes <= size * 3
    assert snapshots.kept("ada", "v1", IDENTITY) is None
    snapshots.close()
    assert snapshots.bytes == sum(path.stat().st_size for path in spool.iterdir())


@played
async def test_one_that_is_larger_than_all_may_be_is_made_all_the_same(box: Mailbox, spool: Path) -> None:
    snapshots = made(spool, bytes_max=1)
    assert (await keep(snapshots, box)).path.exists()
    snapshots.close()


@played
async def test_what_nobody_asks_for_goes_after_a_while(box: Mailbox, spool: Path) -> None:
    snapshots = made(spool, keep_s=600)
    kept = await keep(snapshots, box)
    snapshots.sweep()
    assert snapshots.kept("ada", "v", IDENTITY) == kept
    snapshots._keep_s = -1
    with kept.path.open("rb") as reader:
        snapshots.sweep()
        snapshots.close()
        assert (snapshots.bytes, files(spool)) == (0, [])
        assert len(reader.read()) == kept.size  # who has it open reads on


@played
async def test_a_restart_begins_with_nothing(box: Mailbox, spool: Path) -> None:
    snapshots = made(spool)
    await keep(snapshots, box)
    snapshots.close()
    again = made(spool)
    assert not spool.exists()
    await keep(again, box)
    again.close()


@played
async def test_without_room_it_is_507_and_the_older_ones_go_first(box: Mailbox, spool: Path) -> None:
    room = [ROOM]
    snapshots = made(spool, room_bytes=lambda: room[0])
    kept = await keep(snapshots, box)
    room[0] = 100
    with pytest.raises(DiskFull):
        await keep(snapshots, box, version="w")
    assert not kept.path.exists()
    snapshots.close()
    assert files(spool) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), apsw.FullError("full")])
@played
async def test_a_disk_that_is_full_in_the_middle_is_507_and_leaves_no_rest(
    box: Mailbox, spool: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, *_rest: Any) -> int:
        raise error

    snapshots = made(spool)
    kept = await keep(snapshots, box)
    monkeypatch.setattr(module, "seal", fails)
    monkeypatch.setattr(module, "_pack", fails)
    for _ in range(module.MAKING_MAX + 1):  # nor does it count as one in the making
        with pytest.raises(DiskFull):
            await keep(snapshots, box, version="w")
    with pytest.raises(DiskFull):
        await snapshots.packed("ada", kept, "zstd")
    snapshots.close()
    assert files(spool) == [kept.path.name]


@played
async def test_too_many_at_once_are_refused(box: Mailbox, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAKING_MAX", 2)
    snapshots = made(spool)
    copies = [await snapshots.copy(box, lambda: "v") for _ in range(2)]
    with pytest.raises(Overloaded):
        await snapshots.copy(box, lambda: "v")
    for _version, path, hidden in copies:
        await snapshots.finish("ada", "v", path, hidden)
    await keep(snapshots, box)
    snapshots.close()


@played
async def test_a_file_that_somebody_removed_is_not_offered(box: Mailbox, spool: Path) -> None:
    snapshots = made(spool)
    kept = await keep(snapshots, box)
    kept.path.unlink()
    assert snapshots.kept("ada", "v", IDENTITY) is None
    assert snapshots.bytes == 0
    snapshots.close()


@played
async def test_a_copy_is_not_let_go_to_make_room_for_its_own_packed_form(box: Mailbox, spool: Path) -> None:
    snapshots = made(spool, bytes_max=int(box.bytes() * 1.5))
    plain = await keep(snapshots, box)
    packed = await snapshots.packed("ada", plain, "zstd")
    assert packed.path.exists()


@played
async def test_copies_in_the_making_count_for_what_there_may_be(box: Mailbox, spool: Path, tmp_path: Path) -> None:
    snapshots = made(spool, bytes_max=3 * box.bytes())
    most = 0
    box.copy_to(tmp_path / "one.db")

    async def one(number: int) -> None:
        nonlocal most
        mine = tmp_path / f"u{number}.db"  # a box is copied by whoever holds it: two threads are never in the same one
        shutil.copy(tmp_path / "one.db", mine)
        with contextlib.closing(Mailbox(f"u{number}", mine)) as held:
            version, path, hidden = await snapshots.copy(held, lambda: f"v{number}")
        most = max(most, sum(file.stat().st_size for file in spool.iterdir()))
        await snapshots.finish(f"u{number}", version, path, hidden)

    done = await asyncio.gather(*map(one, range(40)), return_exceptions=True)
    assert {type(outcome) for outcome in done} == {type(None), Overloaded}
    assert most <= 4 * box.bytes()
