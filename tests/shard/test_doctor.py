"""The doctor: clean where all is well, and every kind of fault is named with its place."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

from node import paths
from node.clock import iso, us_of
from node.errors import ConfigError
from node.ops import PositionRow
from shard import leftovers, status_birth
from shard.doctor import Doctor, Report

from .asking import change, said
from .running import START_US, Running, box_path, delivery, laid_out, letter, users_of

pytestmark = pytest.mark.slow

LAST_DAY_S = -2_000 * 86_400  # long ago by any clock
LAST_DAY = iso(START_US + LAST_DAY_S * 1_000_000)[:10]


async def _fill(data: Path) -> None:
    """Boxes checkpointed and not, a channel, memberships let go and on their way, a letter that waits."""
    async with Running(data, wal_pages_max=1) as running:
        await running.put_channel("news")
        await running.change("news", add=["ada", "bo"])
        for number in range(40):
            await running.deliver(delivery(letter(f"old{number}", content="x" * 2_000), ["ada"]))
        await running.deliver(delivery(letter("to-all"), channel="news"))
        await running.settled()
        await _read(running)
        await running.let_go()
        await running.checkpointed("ada")
        await running.change("news", add=["cy"], remove=["bo"])
        await running.deliver(delivery(letter("waits"), ["ada", "di"]))
        await running.deliver(delivery(letter("waits-too"), channel="news"))
        await running.settled()


async def _read(running: Running) -> None:
    """Messages of two channels read on two days, one unread again, one of another day removed, a position."""
    days = [LAST_DAY_S - number * 86_400 for number in range(3)]
    place = PositionRow("news", "to-all", START_US + days[0] * 1_000_000, 3)
    await change(running, "ada", *(said(f"old{number}", "read", days[1 + number % 2]) for number in range(6)))
    await change(running, "ada", said("to-all", "read", days[2]), said("old0", "unread", days[0]), positions=[place])
    await change(running, "ada", said("old39", "read", days[0]), said("old38", "starred", days[0]))
    await running.remove("ada", "old39")


@pytest.fixture
def data() -> Iterator[Path]:
    with laid_out() as data:
        asyncio.run(_fill(data))
        yield data


def examine(data: Path) -> Report:
    return Doctor(data).examine()


def fault(data: Path) -> str:
    """The only fault."""
    [found] = examine(data).faults
    return found


def sql(path: Path, statement: str) -> None:
    db = apsw.Connection(str(path))
    db.execute(statement).fetchall()
    db.close()


def journal(data: Path) -> Path:
    return paths.shard_db(data, 1, 0)


def statuses(data: Path) -> Path:
    return box_path(data, "ada").with_name("read_status.db")


def spoil(path: Path, at: int, count: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xaa" * count)


def test_a_good_directory_is_clean(data: Path) -> None:
    for _ in range(2):
        report = examine(data)
        assert (report.faults, report.notes) == ([], [])
        assert (report.mailboxes, report.messages) == (4, 40 - 1 + 2 + 2 + 2)
        assert (report.waiting, report.waiting_stored) == (2 + 2 + 2, 4)


def test_a_new_directory_is_clean() -> None:
    with laid_out(3) as data:
        assert examine(data).faults == []


def test_a_directory_without_a_node_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"placement\.json"):
        examine(tmp_path)


@pytest.mark.parametrize("where", [lambda size: 0, lambda size: 4_096, lambda size: size // 2 // 4_096 * 4_096])
def test_a_spoilt_page_in_a_box_is_a_fault(data: Path, where: Callable[[int], int]) -> None:
    path = box_path(data, "ada")
    spoil(path, where(path.stat().st_size), 4_096)
    faults = examine(data).faults
    assert faults
    assert all(line.startswith(f"{path.relative_to(data)}: ") for line in faults)


def test_a_spoilt_journal_is_a_fault_and_the_boxes_are_examined_all_the_same(data: Path) -> None:
    sql(journal(data), "PRAGMA wal_checkpoint(TRUNCATE)")
    spoil(journal(data), 0, 4_096)
    spoil(box_path(data, "ada"), 4_096, 4_096)
    faults = examine(data).faults
    assert any(line.startswith("journals-1/shard-0.db: ") for line in faults)
    assert any("/ada/" in line for line in faults)


def test_a_missing_journal_is_a_fault(data: Path) -> None:
    journal(data).unlink()
    assert any(line == "journals-1/shard-0.db: is missing" for line in examine(data).faults)


def test_a_box_under_the_wrong_slot_is_a_fault(data: Path) -> None:
    right = box_path(data, "di").parent
    wrong = right.parent.parent / "4095" / "di"
    wrong.parent.mkdir(exist_ok=True)
    right.rename(wrong)
    assert fault(data) == f"user_storage/4095/di: lies under the wrong slot: {right.parent.name} is right"


def test_another_body_under_the_same_id_is_a_fault(data: Path) -> None:
    sql(box_path(data, "di"), "UPDATE messages SET content='other'")
    assert "di/messages.db: message waits is not the one that the journal holds" in fault(data)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM user_channels", "membership of channel news is in the journal only"),
        (
            "INSERT INTO user_channels(channel_id, user_id) VALUES('x', 'ada')",
            "membership of channel x is in the box only",
        ),
    ],
)
def test_a_membership_that_only_one_side_knows_is_a_fault(data: Path, statement: str, words: str) -> None:
    sql(box_path(data, "ada"), statement)
    assert fault(data) == f"{box_path(data, 'ada').relative_to(data)}: {words}"


def test_a_membership_that_is_on_its_way_is_none(data: Path) -> None:
    for user in ("bo", "cy"):
        sql(box_path(data, user), "DELETE FROM user_channels")
    assert examine(data).faults == []


@pytest.mark.parametrize("lost", ["file", "directory"])
def test_a_member_whose_box_is_gone_is_a_fault(data: Path, lost: str) -> None:
    directory = box_path(data, "ada").parent
    if lost == "directory":
        shutil.rmtree(directory)
    else:
        for path in directory.glob("*.db*"):
            path.unlink()
    assert "ada" in fault(data)
    assert "news" in fault(data)


def test_a_count_of_members_that_is_wrong_is_a_fault(data: Path) -> None:
    sql(journal(data), "UPDATE channels SET members=7")
    assert fault(data) == "journals-1/shard-0.db: channel news counts 7 members and has 2"


def test_a_count_of_targets_that_is_wrong_is_a_fault(data: Path) -> None:
    sql(journal(data), "UPDATE letters SET targets=5 WHERE id='waits'")
    assert "counts 5 targets and has 2" in fault(data)


def test_a_letter_that_cannot_be_read_is_a_fault(data: Path) -> None:
    sql(journal(data), "UPDATE letters SET body=x'ff' WHERE id='waits'")
    assert fault(data).startswith("journals-1/shard-0.db: letter ")


def test_a_letter_in_the_journal_of_another_shard_is_a_fault() -> None:
    with laid_out(2) as data:
        [stranger] = users_of(1, 2, 1)
        sql(paths.shard_db(data, 1, 0), f"INSERT INTO letters VALUES(1, 2, 'm', 1, NULL, '{stranger}', x'')")
        assert fault(data) == f"journals-1/shard-0.db: letter 1 is for users of another shard: {stranger}"


def test_a_file_that_was_set_aside_is_a_fault_for_its_mail_is_missing(data: Path) -> None:
    directory = box_path(data, "ada").parent
    shutil.copyfile(directory / "messages.db", directory / "messages.db.damaged-2026")
    assert "messages.db.damaged-2026: was set aside as damaged" in fault(data)


@pytest.mark.parametrize("file", ["messages.db", "messages.db-wal", "read_status.db"])
def test_a_file_that_was_set_aside_and_has_come_back_is_worth_a_note(data: Path, file: str) -> None:
    directory, name = box_path(data, "ada").parent, f"{file}.damaged-2026-11-24T080000.000000Z"
    at_us = us_of(datetime(2026, 11, 24, 8, tzinfo=UTC))
    (directory / name).touch()
    leftovers.settle(directory, file.removesuffix("-wal"), at_us + 1, at_us + 2)
    assert "was set aside as damaged: what" in fault(data), "the backup is from after that"
    leftovers.settle(directory, file.removesuffix("-wal"), at_us - 1, at_us)
    report = examine(data)
    assert report.faults == []
    said = f"ada/{name}.restored: was set aside as damaged, and restored since"
    assert any(note.endswith(said) for note in report.notes)


@pytest.mark.parametrize("name", ["read_status.db.damaged-2026", "read_status.db-wal.damaged-2026"])
def test_a_read_status_that_was_set_aside_is_a_fault_for_it_is_forgotten(data: Path, name: str) -> None:
    shutil.copyfile(statuses(data), statuses(data).with_name(name))
    assert f"ada/{name}: was set aside as damaged" in fault(data)


def test_a_name_that_a_birth_left_is_no_fault(data: Path) -> None:
    for name in ("read_status.db.new", "read_status.db-wal.stray"):
        statuses(data).with_name(name).touch()
    assert examine(data).faults == []


@pytest.mark.parametrize("page", [0, 1, 3])
def test_a_spoilt_page_in_a_read_status_is_a_fault_and_the_box_is_examined_all_the_same(data: Path, page: int) -> None:
    sql(statuses(data), "PRAGMA wal_checkpoint(TRUNCATE)")
    spoil(statuses(data), page * 4_096, 4_096)
    sql(box_path(data, "ada"), "DELETE FROM user_channels")
    own = [line for line in examine(data).faults if line.startswith(f"{statuses(data).relative_to(data)}: ")]
    assert own
    assert len(own) == len(examine(data).faults) - 1


@pytest.mark.parametrize("damage", ["empty", "no table", "no text", "locked"])
def test_a_read_status_that_cannot_be_read_is_a_fault(data: Path, damage: str) -> None:
    path, db = statuses(data), None
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "no table":
        sql(path, "DROP TABLE read_stats")
    elif damage == "no text":
        sql(path, "UPDATE read_status SET channel_id=CAST(x'ff' AS TEXT)")
    else:
        db = apsw.Connection(str(path))
        db.execute("BEGIN EXCLUSIVE")
    logged = path.with_name("read_status.db-wal").exists()
    faults = examine(data).faults
    assert faults
    assert all(line.startswith(f"{path.relative_to(data)}: ") for line in faults)
    assert path.with_name("read_status.db-wal").exists() == logged
    if db is not None:
        db.close()


def test_a_read_status_of_no_schema_is_a_fault_and_one_of_a_later_schema_worth_a_note(data: Path) -> None:
    sql(statuses(data), "PRAGMA user_version=0")
    assert fault(data).endswith("read_status.db: has schema version 0; this program knows 1")
    later = status_birth.SCHEMA_VERSION + 1
    sql(statuses(data), f"PRAGMA user_version={later}")
    report = examine(data)
    assert report.faults == []
    assert any(f"read_status.db: has schema version {later}, of a later program" in note for note in report.notes)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM read_stats WHERE date=(SELECT max(date) FROM read_stats)",
        "UPDATE read_stats SET total_read=total_read+1 WHERE date=(SELECT max(date) FROM read_stats)",
        "UPDATE read_stats SET channel_stats='{\"x\":1}' WHERE date=(SELECT max(date) FROM read_stats)",
        "INSERT INTO read_stats(date, total_read, channel_stats) VALUES('2001-01-01', 0, '{}')",
        "UPDATE read_status SET read_at='' WHERE message_id='old39'",
    ],
)
def test_statistics_that_a_recount_does_not_bear_out_are_a_fault(data: Path, statement: str) -> None:
    sql(statuses(data), statement)
    day = "2001-01-01" if "2001" in statement else LAST_DAY
    assert fault(data) == f"{statuses(data).relative_to(data)}: read_stats is not what a recount says for {day}"


def test_statistics_that_are_wrong_for_many_days_are_one_fault(data: Path) -> None:
    sql(statuses(data), "UPDATE read_stats SET total_read=77")
    assert fault(data).endswith(" and 2 more")


def test_statistics_that_cannot_be_read_are_a_fault(data: Path) -> None:
    sql(statuses(data), "UPDATE read_stats SET channel_stats='{'")
    assert fault(data).startswith(f"{statuses(data).relative_to(data)}: ")


def test_read_statuses_without_a_box_are_examined_too(data: Path) -> None:
    """And what is said of messages that are nowhere is no fault."""
    path = box_path(data, "newborn").with_name("read_status.db")
    path.parent.mkdir(parents=True)
    shutil.copyfile(statuses(data), path)
    shutil.copyfile(f"{statuses(data)}-wal", f"{path}-wal")
    assert not any("read_status" in found for found in examine(data).faults)
    sql(path, "DELETE FROM read_stats")
    assert any("newborn/read_status.db: read_stats" in found for found in examine(data).faults)


def test_a_second_version_of_a_box_is_a_fault(data: Path) -> None:
    sql(box_path(data, "di"), "INSERT INTO sync_version VALUES(1, '2026', 1)")
    assert examine(data).faults == []
    sql(
        box_path(data, "di"),
        "DROP TABLE sync_version; CREATE TABLE sync_version(id, version, clean);"
        "INSERT INTO sync_version VALUES(1, '2026', 1), (2, '2027', 1)",
    )
    assert fault(data) == f"{box_path(data, 'di').relative_to(data)}: sync_version has 2 rows"


def test_a_box_of_schema_1_has_no_version_yet_and_one_of_schema_2_has_a_table_for_it(data: Path) -> None:
    sql(box_path(data, "di"), "DROP TABLE sync_version; PRAGMA user_version=1")
    assert examine(data).faults == []
    sql(box_path(data, "di"), "PRAGMA user_version=2")
    assert "sync_version" in fault(data)


def test_it_only_reads(data: Path) -> None:
    """Boxes with and without a log, and in the mode that a copy of a box is in."""
    sql(box_path(data, "bo"), "PRAGMA journal_mode=delete")
    sql(statuses(data), "PRAGMA journal_mode=delete")
    sql(box_path(data, "cy"), "PRAGMA wal_checkpoint(TRUNCATE)")
    box_path(data, "cy").with_name("messages.db-wal").unlink(missing_ok=True)
    before = {path: path.read_bytes() for path in (data / "user_storage").rglob("*") if path.is_file()}
    assert examine(data).faults == []
    assert {path: path.read_bytes() for path in (data / "user_storage").rglob("*") if path.is_file()} == before


def test_a_box_that_is_lost_is_a_fault(data: Path) -> None:
    box_path(data, "eve").parent.mkdir(parents=True)
    assert fault(data).endswith("/eve: has no messages.db, and no mail waits that would make it")


def test_what_a_power_cut_left_is_worth_a_note(data: Path) -> None:
    newborn = box_path(data, "newborn")
    newborn.parent.mkdir(parents=True)
    newborn.touch()
    box_path(data, "di").unlink()  # mail waits for him
    (data / "user_storage" / "README").touch()
    report = examine(data)
    assert report.faults == []
    said = "\n".join(report.notes)
    for words in ("was cut off at its birth", "has no messages.db yet"):
        assert words in said


# -- as a program ---------------------------------------------------------------------------------


def run(data: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shard.doctor", "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_exit_code_tells_and_the_last_line_counts(data: Path) -> None:
    good = run(data)
    assert (good.returncode, good.stdout.count("FAULT")) == (0, 0)
    assert good.stdout.splitlines()[-1] == (
        "4 mailboxes, 45 messages, 6 deliveries waiting (4 of them stored already), 0 dead letters, 0 faults"
    )
    sql(box_path(data, "di"), "UPDATE messages SET content='other'")
    bad = run(data)
    assert bad.returncode == 1
    assert "FAULT  user_storage/" in bad.stdout
    assert bad.stdout.splitlines()[-1].endswith("1 faults")


def test_it_refuses_while_a_shard_or_a_node_runs(data: Path) -> None:
    for lock in (paths.shard_lock(data, 0), data / "node.lock"):
        fd = os.open(lock, os.O_RDWR | os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_EX)
        refused = run(data)
        assert refused.returncode == 1
        assert "is running" in refused.stderr
        os.close(fd)
    assert run(data).returncode == 0


def test_it_says_where_there_is_no_node(tmp_path: Path) -> None:
    refused = run(tmp_path)
    assert refused.returncode == 1
    assert "placement.json" in refused.stderr
    assert "Traceback" not in refused.stderr
