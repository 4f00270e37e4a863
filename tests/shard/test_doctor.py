"""The doctor: clean where all is well, and every kind of fault is named with its place."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from node import paths
from node.errors import ConfigError
from shard.doctor import Doctor, Report

from .running import Running, box_path, delivery, laid_out, letter, users_of


async def _fill(data: Path) -> None:
    """Boxes checkpointed and not, a channel, memberships let go and on their way, a letter that waits."""
    async with Running(data, wal_pages_max=1) as running:
        await running.put_channel("news")
        await running.change("news", add=["ada", "bo"])
        for number in range(40):
            await running.deliver(delivery(letter(f"old{number}", content="x" * 2_000), ["ada"]))
        await running.deliver(delivery(letter("to-all"), channel="news"))
        await running.settled()
        await running.let_go()
        await running.checkpointed("ada")
        await running.change("news", add=["cy"], remove=["bo"])
        await running.deliver(delivery(letter("waits"), ["ada", "di"]))
        await running.deliver(delivery(letter("waits-too"), channel="news"))
        await running.settled()


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


def spoil(path: Path, at: int, count: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xaa" * count)


def test_a_good_directory_is_clean(data: Path) -> None:
    for _ in range(2):
        report = examine(data)
        assert (report.faults, report.notes) == ([], [])
        assert (report.mailboxes, report.messages) == (4, 40 + 2 + 2 + 2)
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
        for path in directory.iterdir():
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


def test_what_a_power_cut_left_is_worth_a_note(data: Path) -> None:
    newborn = box_path(data, "newborn")
    newborn.parent.mkdir(parents=True)
    newborn.touch()
    (newborn.parent.parent / "unborn").mkdir()
    (data / "user_storage" / "README").touch()
    report = examine(data)
    assert [line for line in report.faults if "unborn" not in line] == []
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
        "4 mailboxes, 46 messages, 6 deliveries waiting (4 of them stored already), 0 faults"
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
