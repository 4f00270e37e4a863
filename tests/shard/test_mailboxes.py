"""The set of open boxes: bounded, one holder at a time, in line; births before their first barrier."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

from shard import mailboxes
from shard.disk import Disk
from shard.layout import lay_out
from shard.mailbox import Mailbox, template
from shard.mailboxes import Mailboxes
from shard.opener import Errand

from .running import box_path
from .test_mailbox import change, ids, row


def _make(data: Path, *, open_max: int = 16, wal_pages_max: int = 1) -> Mailboxes:
    data.mkdir(exist_ok=True)
    return Mailboxes(Disk(data), template(), open_max=open_max, wal_pages_max=wal_pages_max)


async def _open(boxes: Mailboxes, user: str) -> None:
    async with boxes.hold(user, create=True) as box:
        assert box is not None


async def _barrier(boxes: Mailboxes) -> None:
    boxes.barrier_done(boxes.barrier_begun())


def test_no_more_boxes_are_open_than_the_bound_and_those_used_last_stay(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        for number in range(40):
            await _open(boxes, f"u{number}")
            assert len(boxes) <= 16
            assert boxes.free("u0") is not None, "it was used a moment ago"
        assert len(boxes) == 16
        assert {f"u{number}" for number in range(25, 40)} <= set(boxes._open)
        boxes.close()

    asyncio.run(play())


def test_many_that_come_at_once_leave_no_more_open_than_the_bound(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        await asyncio.gather(*(_open(boxes, f"u{number}") for number in range(100)))
        await _open(boxes, "one more")
        assert len(boxes) <= 16
        assert boxes._lines == {}
        boxes.close()

    asyncio.run(play())


def test_a_box_that_is_held_is_not_closed_to_make_room(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        async with boxes.hold("held", create=True) as box:
            assert box is not None
            for number in range(40):
                await _open(boxes, f"u{number}")
            change(box, row("a"))
            assert boxes.free("held") is None
        assert boxes.free("held") is box
        boxes.close()

    asyncio.run(play())


def test_whoever_comes_first_holds_first_also_while_the_box_is_being_opened(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        order: list[int] = []

        async def holder(number: int) -> None:
            async with boxes.hold("ada", create=True) as box:
                assert box is not None
                order.append(number)
                await asyncio.sleep(0.001)
                assert order[-1] == number, "two at a time"

        tasks = [asyncio.create_task(holder(number)) for number in range(3)]
        await asyncio.sleep(0)
        assert boxes.free("ada") is None
        tasks += [asyncio.create_task(holder(number)) for number in range(3, 8)]
        await asyncio.gather(*tasks)
        assert order == list(range(8))
        assert len(boxes) == 1
        boxes.close()

    asyncio.run(play())


def test_a_holder_that_gives_up_while_waiting_leaves_the_line(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        async with boxes.hold("ada", create=True):
            waiting = asyncio.create_task(_open(boxes, "ada"))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting])
        await _open(boxes, "ada")
        assert boxes._lines == {}
        assert boxes.free("ada") is not None
        boxes.close()

    asyncio.run(play())


def test_at_the_end_nobody_gets_a_box_in_which_a_thread_still_works_and_none_is_closed(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        begun, going = threading.Event(), threading.Event()

        async def work() -> None:
            async with boxes.hold("ada", create=True):
                await boxes.read(lambda: (begun.set(), going.wait(30)))

        async def be_alone() -> None:
            async with boxes.alone("ada"):
                pass

        worker, others = asyncio.create_task(work()), [asyncio.create_task(_open(boxes, "ada")) for _ in range(2)]
        others.append(asyncio.create_task(be_alone()))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        boxes.end()
        others.append(asyncio.create_task(boxes.vacate()))
        worker.cancel()
        await asyncio.wait([worker, *others])
        assert worker.cancelled()
        assert {type(other.exception()) for other in others} == {mailboxes.Away}
        assert boxes.free("ada") is None
        with pytest.raises(mailboxes.Away):
            await _open(boxes, "bo")
        boxes._evict()
        assert len(boxes) == 1
        going.set()
        boxes.close()

    asyncio.run(play())


_START = """
import sys
import threading
from pathlib import Path
from node.placement import Placement
from shard.core import Shard
from shard.disk import Disk
from node.config import Config
data, index = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    shard = Shard(Config(), Placement(version=1, shards=4), index, Disk(data))
    assert shard.mailboxes.opener._template == Path(sys.argv[3]).read_bytes(), "half a template"
    shard.close()
"""


@pytest.mark.slow
def test_shards_that_start_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Each makes its template of an empty box; a half one would spoil every birth."""
    data = tmp_path / "data"
    lay_out(data, 4)
    (tmp_path / "whole").write_bytes(template())
    command = [sys.executable, "-c", _START, str(data)]
    shards = [
        subprocess.Popen(
            [*command, str(index), str(tmp_path / "whole")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(4)
    ]
    for shard in shards:
        assert shard.stdout is not None
        assert shard.stdout.readline()
    for shard in shards:
        assert shard.stdin is not None
        shard.stdin.write(b"go\n")
        shard.stdin.flush()
    outcomes = [shard.communicate(timeout=60)[1].decode() for shard in shards]
    assert [shard.returncode for shard in shards] == [0] * 4, outcomes
    assert not list((data / "journals-1").glob("template*"))


def test_nobody_is_born_by_being_asked_for(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        async with boxes.hold("nobody", create=False) as box:
            assert box is None
        assert not box_path(tmp_path / "data", "nobody").parent.exists()
        boxes.close()

    asyncio.run(play())


def test_a_box_is_checkpointed_only_when_a_barrier_has_covered_its_birth(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")

        async def write(user: str) -> None:
            async with boxes.hold(user, create=True) as box:
                assert box is not None
                change(box, row("a"), row("b"))
                boxes.wrote(user, 2)

        def log(user: str) -> int:
            return box_path(tmp_path / "data", user).with_name("messages.db-wal").stat().st_size

        await write("early")
        assert await boxes.tend() == 0, "no barrier yet in this life of the process"
        begun = boxes.barrier_begun()
        await write("during")  # its birth may or may not be covered
        boxes.barrier_done(begun)
        assert await boxes.tend() == 1
        assert (log("early"), log("during") > 0) == (0, True)
        await _barrier(boxes)
        assert await boxes.tend() == 1
        assert log("during") == 0
        async with boxes.hold("during", create=False) as box:
            assert box is not None
            assert sorted(ids(box)) == ["a", "b"]
        boxes.close()

    asyncio.run(play())


def test_boxes_that_nobody_uses_are_checkpointed_and_closed_and_the_others_stay(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data", wal_pages_max=1_000)
        for user in ("ada", "bob", "cyd"):
            async with boxes.hold(user, create=True) as box:
                assert box is not None
                change(box, row(f"for-{user}"))
        assert await boxes.cool(0) == 0, "their births are not covered"
        await _barrier(boxes)
        boxes._open["ada"].used_s -= 100
        boxes._open["bob"].used_s -= 100
        async with boxes.hold("bob", create=False):
            assert await boxes.cool(50) == 1
        assert set(boxes._open) == {"bob", "cyd"}
        log = box_path(tmp_path / "data", "ada").with_name("messages.db-wal")
        assert not log.exists() or log.stat().st_size == 0
        async with boxes.hold("ada", create=False) as box:
            assert box is not None
            assert ids(box) == ["for-ada"]
        boxes.close()

    asyncio.run(play())


def test_a_bound_that_falls_closes_boxes_in_portions(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data", open_max=200)
        for number in range(150):
            await _open(boxes, f"u{number}")
        async with boxes.hold("u0", create=False):
            boxes.bound(20)
            assert len(boxes) == 86
            boxes.bound(20)
            boxes.bound(20)
            assert len(boxes) == 20
            assert "u0" in boxes._open, "somebody holds it"
        boxes.close()

    asyncio.run(play())


def test_a_newborn_that_was_closed_and_opened_again_is_still_one(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        await _barrier(boxes)
        async with boxes.hold("ada", create=True) as box:
            assert box is not None
            change(box, row("a"))
        boxes.discard("ada")
        async with boxes.hold("ada", create=True) as box:
            assert box is not None
            change(box, row("b"))
        boxes.wrote("ada", 1)
        assert await boxes.tend() == 0
        await _barrier(boxes)
        assert await boxes.tend() == 1
        boxes.close()

    asyncio.run(play())


def test_a_box_of_an_earlier_process_is_not_checkpointed_before_the_first_barrier(tmp_path: Path) -> None:
    async def play() -> None:
        before = _make(tmp_path / "data")
        async with before.hold("ada", create=True) as box:
            assert box is not None
            change(box, row("a"))
        before.close()
        boxes = _make(tmp_path / "data")
        await _open(boxes, "ada")
        assert await boxes.tend() == 0
        await _barrier(boxes)
        assert await boxes.tend() == 1
        boxes.close()

    asyncio.run(play())


@pytest.mark.parametrize("damage", ["nothing left", "half", "zeros", "one sector"])
def test_a_birth_that_a_power_cut_tore_is_completed_and_keeps_its_log(tmp_path: Path, damage: str) -> None:
    async def play() -> None:
        before = _make(tmp_path / "data")
        async with before.hold("ada", create=True) as box:
            assert box is not None
            change(box, row("a"))
        before.close()
        path = box_path(tmp_path / "data", "ada")
        content = path.read_bytes()
        path.write_bytes({
            "nothing left": b"",
            "half": content[: len(content) // 2 + 100],
            "zeros": bytes(len(content)),
            "one sector": bytes(512) + content[512:],
        }[damage])  # fmt: skip
        boxes = _make(tmp_path / "data")
        async with boxes.hold("ada", create=True) as box:
            assert box is not None
            assert box.newborn
            assert ids(box) == ["a"]
            assert box._db.pragma("integrity_check") == "ok"
        assert boxes.damaged == 0
        boxes.close()

    asyncio.run(play())


def test_a_sound_box_that_was_put_back_in_another_journal_mode_is_taken_as_it_is(tmp_path: Path) -> None:
    async def play() -> None:
        before = _make(tmp_path / "data")
        async with before.hold("ada", create=True) as box:
            assert box is not None
            change(box, row("a"))
        before.close()
        path = box_path(tmp_path / "data", "ada")
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA journal_mode=delete").fetchone() == ("delete",)
        boxes = _make(tmp_path / "data")
        async with boxes.hold("ada", create=True) as box:
            assert box is not None
            change(box, row("b"))
            assert sorted(ids(box)) == ["a", "b"]
            assert box._db.pragma("journal_mode") == "wal"
        assert boxes.damaged == 0
        boxes.close()

    asyncio.run(play())


@pytest.mark.parametrize("damage", ["header", "everything", "long zeros"])
def test_a_damaged_file_is_set_aside_and_kept(tmp_path: Path, damage: str) -> None:
    async def play() -> None:
        before = _make(tmp_path / "data")
        async with before.hold("ada", create=True) as box:
            assert box is not None
            change(box, *[row(f"m{n}", content="x" * 2_000) for n in range(50)])
        await _barrier(before)
        before.wrote("ada", 50)
        assert await before.tend() == 1
        before.close()
        path = box_path(tmp_path / "data", "ada")
        content = path.read_bytes()
        garbage = bytes(range(1, 256)) * (len(content) // 255 + 1)
        spoilt = {
            "header": garbage[:100] + content[100:],
            "everything": garbage[: len(content)],
            "long zeros": bytes(len(content)),
        }[damage]
        path.write_bytes(spoilt)
        boxes = _make(tmp_path / "data")
        async with boxes.hold("ada", create=True) as box:
            assert box is not None
            assert ids(box) == []
            change(box, row("new"))
        assert boxes.damaged == 1
        [aside] = path.parent.glob("messages.db.damaged-*")
        assert aside.read_bytes() == spoilt
        boxes.close()

    asyncio.run(play())


def test_a_kill_while_a_damaged_box_is_set_aside_does_not_mix_its_log_with_a_new_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        class Killed(Exception):
            pass

        before = _make(tmp_path / "data")
        async with before.hold("ada", create=True) as box:
            assert box is not None
            change(box, *[row(f"old{n}", content="x" * 2_000) for n in range(50)])
        before.close()
        path = box_path(tmp_path / "data", "ada")
        boxes = _make(tmp_path / "data")
        rename = Disk.rename
        renames: list[Path] = []

        def killed_after_the_first(disk: Disk, old: Path, new: Path) -> None:
            if renames:
                raise Killed
            renames.append(old)
            rename(disk, old, new)

        with monkeypatch.context() as patch:
            patch.setattr(Disk, "rename", killed_after_the_first)
            with pytest.raises(Killed):
                boxes.opener.set_aside(path, apsw.CorruptError("as if"))
        boxes.close()
        boxes = _make(tmp_path / "data")
        async with boxes.hold("ada", create=True) as box:
            assert box is not None
            assert ids(box) == [], "the log of the damaged box must not be taken up by the new one"
        boxes.close()

    asyncio.run(play())


def test_a_visit_pushes_no_box_out_and_leaves_none_open(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data", wal_pages_max=64)
        for number in range(16):
            assert not boxes.is_crowded("v0")
            await _open(boxes, f"u{number}")
        assert boxes.is_crowded("v0")
        before = set(boxes._open)
        errands: list[tuple[str, Errand]] = [(f"v{n}", lambda box: change(box, row("a"))) for n in range(20)]
        assert await boxes.visit(errands) == [None] * 20
        assert set(boxes._open) == before
        assert boxes._lines == {}
        async with boxes.hold("v7", create=False) as box:
            assert box is not None
            assert ids(box) == ["a"]
            assert not await boxes._checkpoint("v7"), "no barrier has covered its birth"
        boxes.close()

    asyncio.run(play())


def test_a_box_stays_open_once_it_is_used_more_often_than_the_one_that_would_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000.0]
    monkeypatch.setattr(mailboxes, "monotonic", lambda: clock[0])

    async def come(boxes: Mailboxes, user: str) -> bool:
        """Whether mail for ``user`` finds the box open, or has it opened to stay so."""
        clock[0] += 1.0
        if boxes.is_at_rest(user) and boxes.is_crowded(user):
            await boxes.visit([(user, lambda box: None)])
            return False
        await _open(boxes, user)
        return True

    async def play() -> None:
        boxes = _make(tmp_path / "data")
        regulars = [f"u{number}" for number in range(16)]
        many = [f"v{number}" for number in range(20)]
        for user in regulars:
            assert await come(boxes, user)
        for _ in range(3):
            assert [await come(boxes, user) for user in regulars] == [True] * 16
            assert [await come(boxes, user) for user in many] == [False] * 20, "none is used more often than another"
            assert set(boxes._open) == set(regulars)
        assert [await come(boxes, "often") for _ in range(3)] == [False, True, True]
        assert len(boxes) == 16
        assert len(boxes._used_s) <= 16
        clock[0] += 100.0
        moved = [await come(boxes, user) for _ in range(2) for user in many[:10]]
        assert moved == [False] * 10 + [True] * 10, "whoever comes instead of others is soon at home"
        boxes.close()

    asyncio.run(play())


def test_a_box_with_a_long_log_stays_open_after_a_visit_and_is_checkpointed(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data", wal_pages_max=20)
        many = [row(f"m{number}", content="x" * 2_000) for number in range(50)]
        errands: list[tuple[str, Errand]] = [("ada", lambda box: change(box, *many)), ("bo", lambda box: None)]
        assert await boxes.visit(errands) == [None, None]
        assert list(boxes._open) == ["ada"]
        await _barrier(boxes)
        assert await boxes.tend() == 1
        assert boxes._open["ada"].log_pages() == 0
        boxes.close()

    asyncio.run(play())


def test_who_wants_a_box_that_is_visited_waits_in_line(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        going = threading.Event()

        def errand(box: Mailbox) -> None:
            assert going.wait(30)
            change(box, row("a"))

        visit = asyncio.ensure_future(boxes.visit([("ada", errand)]))
        await asyncio.sleep(0)
        assert not boxes.is_at_rest("ada")

        async def read() -> list[str]:
            async with boxes.hold("ada", create=False) as box:
                assert box is not None
                return ids(box)

        reader = asyncio.ensure_future(read())
        await asyncio.sleep(0.05)
        assert not reader.done()
        going.set()
        assert await visit == [None]
        assert await reader == ["a"]
        boxes.close()

    asyncio.run(play())


def test_one_visit_that_fails_fails_alone(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")

        def fail(box: Mailbox) -> None:
            raise apsw.FullError("as if")

        done: Errand = lambda box: change(box, row("a"))  # noqa: E731
        [first, second, third] = await boxes.visit([("ada", done), ("bo", fail), ("cy", done)])
        assert (first, third) == (None, None)
        assert isinstance(second, apsw.FullError)
        assert boxes.is_at_rest("bo")
        boxes.close()

    asyncio.run(play())


def test_a_box_that_is_found_damaged_while_open_is_set_aside_off_the_loop_and_empty_at_the_next_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        threads = set()
        set_aside = Disk.set_aside

        def noted(self: Disk, path: Path) -> str:
            threads.add(threading.current_thread())
            return set_aside(self, path)

        monkeypatch.setattr(Disk, "set_aside", noted)
        async with boxes.hold("ada", create=True) as box:
            assert box is not None
            change(box, row("a"))
        boxes.discard("ada", apsw.CorruptError("a page is not what it should be"))
        assert threads == set()
        async with boxes.hold("ada", create=False) as box:
            assert box is not None, "there was a box, and is one again"
            assert ids(box) == []
        assert threads
        assert threading.current_thread() not in threads
        assert boxes.damaged == 1
        boxes.close()

    asyncio.run(play())


def test_a_box_that_was_set_aside_before_a_kill_is_there_for_who_reads(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        async with boxes.hold("ada", create=True) as box:
            assert box is not None
        boxes.close()
        path = box_path(tmp_path / "data", "ada")
        path.rename(path.with_name(f"{path.name}.damaged-2026-11-24T084400.000000Z"))
        again = _make(tmp_path / "data")
        async with again.hold("bob", create=False) as box:
            assert box is None
        async with again.hold("ada", create=False) as box:
            assert box is not None
            assert ids(box) == []
        again.close()

    asyncio.run(play())


def test_a_file_that_took_a_condemned_ones_place_is_not_set_aside(tmp_path: Path) -> None:
    async def play() -> None:
        boxes = _make(tmp_path / "data")
        async with boxes.hold("ada", create=True) as box:
            assert box is not None
            change(box, row("a"))
        boxes.discard("ada", apsw.CorruptError("a page is not what it should be"))
        async with boxes.seize("ada"):
            pass  # here another file takes its place
        async with boxes.hold("ada", create=False) as box:
            assert box is not None
            assert ids(box) == ["a"]
        assert boxes.damaged == 0
        boxes.close()

    asyncio.run(play())
