"""The journal: groups go whole or not at all, the clock never runs back, nothing goes before its time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import DiskFull, Unsure
from shard.journal import MESSAGE, Journal, LetterRow, ReceiptRow, ranges

from .disks import fill, small_disk
from .running import scratch


def row(seq: int, message_id: str | None = None, body: bytes = b"body") -> LetterRow:
    return seq, MESSAGE, message_id or f"m{seq}", 1, None, "ada", body


def receipt(seq: int, message_id: str | None = None, accepted_us: int = 0) -> ReceiptRow:
    return seq, message_id or f"m{seq}", b"digest", accepted_us, 1


def seqs(journal: Journal) -> list[int]:
    return [row[0] for row in journal.letters()]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Journal]:
    journal = Journal(path)
    try:
        yield journal
    finally:
        journal.close()


def add(journal: Journal, count: int, *, accepted_us: int = 0, letters: bool = True) -> list[int]:
    """``count`` letters with their receipts, in one durable transaction."""

    def work() -> list[int]:
        made = [journal.next_seq() for _ in range(count)]
        rows = [row(seq) for seq in made] if letters else []
        journal.add(rows, [receipt(seq, accepted_us=accepted_us) for seq in made])
        return made

    return asyncio.run(journal.write(work))


def write(journal: Journal, work: Callable[[], Any]) -> Any:
    return asyncio.run(journal.write(work))


def test_what_was_committed_is_there_after_the_next_opening(tmp_path: Path) -> None:
    with opened(tmp_path / "shard.db") as journal:
        made = add(journal, 3)
    with opened(tmp_path / "shard.db") as journal:
        assert seqs(journal) == made
        assert (journal.rows, journal.receipts) == (3, 3)
        found = journal.receipt("m2")
        assert found is not None
        assert (found.digest, found.targets, found.failed, found.moved) == (b"digest", 1, 0, 0)
        assert journal.receipt("m4") is None


def test_a_group_goes_with_one_commit_and_one_that_is_rolled_back_leaves_nothing(tmp_path: Path) -> None:
    async def groups(journal: Journal) -> None:
        async with journal.lock:
            journal.begin()
            journal.add([row(1), row(2)], [receipt(1), receipt(2)])
            await journal.commit(lambda: ([], None))
            journal.begin()
            journal.add([row(3)], [receipt(3)])
            journal.purge([1, 2])
            journal.rollback()
            journal.rollback()  # nothing is open: nothing happens

    with opened(tmp_path / "shard.db") as journal:
        asyncio.run(groups(journal))
    with opened(tmp_path / "shard.db") as journal:
        assert seqs(journal) == [1, 2]
        assert journal.receipt("m3") is None


def test_a_transaction_that_fails_half_way_leaves_nothing_and_the_journal_usable(tmp_path: Path) -> None:
    def fails(journal: Journal) -> None:
        journal.add([row(7)], [receipt(7)])
        raise LookupError

    with opened(tmp_path / "shard.db") as journal:
        with pytest.raises(LookupError):
            write(journal, lambda: fails(journal))
        assert seqs(journal) == []
        assert len(add(journal, 1)) == 1


def test_an_id_has_one_receipt(tmp_path: Path) -> None:
    with opened(tmp_path / "shard.db") as journal:
        add(journal, 1)
        with pytest.raises(apsw.ConstraintError):
            write(journal, lambda: journal.add([], [receipt(journal.next_seq(), "m1")]))
        assert journal.db.execute("SELECT id FROM receipts").fetchall() == [("m1",)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(1, 4)),
            st.tuples(st.just("member"), st.booleans()),
            st.just(("purge all", 0)),
            st.just(("forget all", 0)),
            st.just(("restart", 0)),
        ),
        max_size=14,
    )
)
@settings(max_examples=60)
def test_no_number_is_given_twice_to_what_the_journal_still_holds(steps: list[tuple[str, int]]) -> None:
    """Over restarts a number comes again only when no letter, receipt or membership knows it. So what
    is accepted later has a higher number than everything it can be compared with."""
    with scratch() as directory:
        journal = Journal(directory / "shard.db")
        try:
            for step, argument in steps:
                if step == "add":
                    add(journal, argument)
                elif step == "member":
                    seq = journal.next_seq()
                    change = (
                        "INSERT INTO members VALUES('c', 'ada', ?1, NULL, 0, NULL)"
                        if argument
                        else "UPDATE members SET left_seq=?1 WHERE left_seq IS NULL"
                    )
                    journal.db.execute(change, (seq,))
                elif step == "purge all":
                    _purge_all(journal)
                elif step == "forget all":
                    _forget_all(journal)
                else:
                    journal.close()
                    journal = Journal(directory / "shard.db")
                known = [0, *seqs(journal)]
                known += [row[0] for row in journal.db.execute("SELECT seq FROM receipts")]
                for joined, left in journal.db.execute("SELECT joined_seq, left_seq FROM members"):
                    known += [joined, left or 0]
                before = journal._seq
                assert before >= max(known)
                assert journal.oldest_seq() == min(seqs(journal), default=before + 1)
        finally:
            journal.close()


def _purge_all(journal: Journal) -> None:
    write(journal, lambda: journal.purge(seqs(journal)))


def _forget_all(journal: Journal) -> None:
    write(journal, lambda: journal.forget(1, 0))


@given(st.sets(st.integers(1, 60)))
def test_runs_of_numbers_cover_exactly_the_numbers(numbers: set[int]) -> None:
    runs = list(ranges(sorted(numbers)))
    assert {number for first, last in runs for number in range(first, last + 1)} == numbers
    assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(runs))


@given(kept=st.sets(st.integers(1, 30)))
@settings(max_examples=25)
def test_a_purge_takes_exactly_what_it_is_told(kept: set[int]) -> None:
    with scratch() as directory, opened(directory / "shard.db") as journal:
        add(journal, 30)
        write(journal, lambda: journal.purge([seq for seq in range(30, 0, -1) if seq not in kept]))
        assert seqs(journal) == sorted(kept)
        assert journal.db.execute("SELECT count(*) FROM receipts").fetchall() == [(30,)]


def test_receipts_go_by_age_and_by_number_but_never_before_their_letters(tmp_path: Path) -> None:
    with opened(tmp_path / "shard.db") as journal:
        old = add(journal, 4, accepted_us=100)
        young = add(journal, 4, accepted_us=200)
        write(journal, lambda: journal.purge([*old[:2], *young]))
        assert write(journal, lambda: journal.forget(150, 0)) == 2
        kept = [journal.receipt(f"m{seq}") is not None for seq in old + young]
        assert kept == [False, False, True, True, True, True, True, True]
        # Two of the six have letters; of the four surplus ones the oldest two must stay.
        assert write(journal, lambda: journal.forget(0, 4)) == 2
        assert [seq for seq in old + young if journal.receipt(f"m{seq}")] == [*old[2:], *young[2:]]


def test_it_is_known_without_looking_when_nothing_is_old_enough_to_be_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path / "shard.db") as journal:
        assert not journal.may_forget(10**9, 0)
        add(journal, 1, accepted_us=500, letters=False)
        journal.receipts = 1
        assert journal.may_forget(100, 0), "not looked at yet"
        assert write(journal, lambda: journal.forget(100, 0)) == 0
        assert not journal.may_forget(500, 0)
        assert journal.may_forget(501, 0)
        assert journal.may_forget(100, 1)


@given(
    ages=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30),
    before=st.integers(0, 10),
    surplus=st.integers(0, 30),
    portion=st.integers(1, 40),
)
@settings(max_examples=60)
def test_forgetting_takes_nothing_that_is_young_needed_or_beyond_its_portion(
    ages: list[tuple[int, bool]], before: int, surplus: int, portion: int
) -> None:
    """Accepted in the order of time, as receipts are."""
    ages = sorted(ages)
    with scratch() as directory, opened(directory / "shard.db") as journal:
        numbered = list(enumerate(ages, 1))
        write(
            journal,
            lambda: journal.add(
                [row(seq) for seq, (_, waits) in numbered if waits],
                [receipt(seq, accepted_us=age) for seq, (age, _) in numbered],
            ),
        )
        went = write(journal, lambda: journal.forget(before, surplus, portion))
        left = {row[0] for row in journal.db.execute("SELECT seq FROM receipts")}
        gone = {seq for seq, (age, waits) in numbered[:portion] if not waits and (age < before or seq <= surplus)}
        assert {seq for seq, _ in numbered} - left == gone
        assert went == len(gone)


def test_merged_parts_of_a_receipt_add_up(tmp_path: Path) -> None:
    with opened(tmp_path / "shard.db") as journal:
        write(journal, lambda: journal.merge_receipt("m", b"", 200, 3, 1))
        write(journal, lambda: journal.merge_receipt("m", b"digest", 100, 4, 0))
        found = journal.receipt("m")
        assert found is not None
        assert (found.digest, found.accepted_us, found.targets, found.failed, found.moved) == (b"digest", 100, 7, 1, 1)


def test_a_full_disk_refuses_a_transaction_and_the_journal_recovers(tmp_path: Path) -> None:
    async def group(journal: Journal) -> None:
        async with journal.lock:
            journal.begin()
            try:
                journal.add([row(1_000, body=bytes(400_000))], [])
                await journal.commit(lambda: ([], None))
            except apsw.FullError:
                journal.rollback()
                raise DiskFull() from None

    with small_disk(tmp_path / "disk", 4 * 1_048_576) as disk, opened(disk / "shard.db") as journal:
        add(journal, 5)
        fill(disk / "ballast")
        for _ in range(3):
            with pytest.raises(DiskFull):
                asyncio.run(group(journal))
            with pytest.raises(DiskFull):
                write(journal, lambda: journal.add([row(1_000, body=bytes(400_000))], []))
        assert seqs(journal) == [1, 2, 3, 4, 5]
        (disk / "ballast").unlink()
        asyncio.run(group(journal))
        assert seqs(journal) == [1, 2, 3, 4, 5, 1_000]
        assert journal.db.pragma("integrity_check") == "ok"


def test_a_commit_that_fails_in_any_other_way_is_neither_done_nor_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        in_transaction = False

        def execute(self, sql: str) -> None:
            raise apsw.IOError(sql)

    with opened(tmp_path / "shard.db") as journal, monkeypatch.context() as patch:
        patch.setattr(journal, "db", Failing())
        with pytest.raises(Unsure):
            journal._commit()


def test_rows_that_were_let_go_make_room_for_new_ones(tmp_path: Path) -> None:
    with opened(tmp_path / "shard.db") as journal:
        used = []
        for _ in range(4):
            made = [journal.next_seq() for _ in range(400)]
            write(journal, lambda made=made: journal.add([row(seq, body=bytes(2_000)) for seq in made], []))
            used.append(journal.used_bytes())
            write(journal, lambda made=made: journal.purge(made))
        assert max(used) <= used[0] * 1.1
        assert journal.used_bytes() < used[0] / 4
