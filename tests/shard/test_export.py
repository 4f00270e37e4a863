"""What a person takes along: read marks and archive, as files."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import apsw
import pytest

from node import ops
from node.errors import DiskFull
from node.slots import slot_of
from shard import archive
from shard import backup_files as files
from shard.sqlite import Key
from tests.shard.asking import change, said
from tests.shard.running import Running, delivery, laid_out, letter


def test_read_marks_and_archive_are_there_as_plain_files() -> None:
    async def test() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                for number in range(3):
                    await running.deliver(delivery(letter(f"n{number}", at=number), ["ada"]))
                await change(running, "ada", said("n0", "read"))
                async with running.shard.desk.box("ada") as box:
                    assert archive.move(box, "2090-01-01T00:00:00.000000Z") == 2
                made = await running.shard.exports.files(ops.Export(0, 1, slot_of("ada"), "ada"))
                rows = {}
                for one in made:
                    table = "messages" if "archive" in one.name else "read_status"
                    with contextlib.closing(files.reading(data / one.file, "ada")) as db:
                        rows[one.name] = db.execute(f"SELECT count(*) FROM {table}").fetchone()
                assert sorted(rows.values()) == [(1,), (2,)]
                assert "read_status.db" in rows

    asyncio.run(test())


def test_a_full_disk_is_507_and_leaves_no_half_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(_source: apsw.Connection, path: Path, _key: Key | None) -> None:
        path.write_bytes(b"half")
        raise apsw.FullError("database or disk is full")

    async def test() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                for number in range(3):
                    await running.deliver(delivery(letter(f"n{number}", at=number), ["ada"]))
                async with running.shard.desk.box("ada") as box:
                    assert archive.move(box, "2090-01-01T00:00:00.000000Z") == 2
                monkeypatch.setattr("shard.export.copy_out", half)
                with pytest.raises(DiskFull):
                    await running.shard.exports.files(ops.Export(0, 1, slot_of("ada"), "ada"))
                assert not list((data / "snapshots" / "shard-0").iterdir())

    asyncio.run(test())
