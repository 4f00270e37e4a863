"""One box: repeating anything changes nothing, what was removed stays away, pages come in order."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.clock import iso
from node.errors import BadField
from node.model import Message
from shard.disk import Disk
from shard.mailbox import SCHEMA_VERSION, Mailbox, Standing, template, torn_at_birth
from shard.rows import Row

from .running import START_US, letter, scratch

SECTOR = 512
NOW_US = START_US
CHANNEL = ("news", "News", None, None, "2026-01-01T00:00:00.000000Z")


@pytest.fixture(scope="module")
def empty() -> bytes:
    return template()


@pytest.fixture
def path(tmp_path: Path, empty: bytes) -> Path:
    (tmp_path / "messages.db").write_bytes(empty)
    return tmp_path / "messages.db"


@pytest.fixture
def box(path: Path) -> Iterator[Mailbox]:
    box = Mailbox("ada", path)
    yield box
    box.close()


def row(message_id: str, *, channel: str = "direct", at: int = 0, content: str = "content") -> Row:
    body = letter(message_id, channel_id=channel, at=at, content=content)
    return (
        body.id, body.channel_id, body.title, body.content, body.message_type, body.priority, body.sender,
        body.created_at, body.updated_at, body.metadata,
    )  # fmt: skip


def change(
    box: Mailbox,
    *rows: Row,
    remove: str | None = None,
    join: str | Standing | None = None,
    leave: str | None = None,
) -> None:
    box.begin()
    if rows:
        box.insert(list(rows))
    if remove:
        box.remove(remove, "now")
    if join:
        box.join(CHANNEL, join if isinstance(join, Standing) else Standing(join))
    if leave:
        box.leave(leave)
    box.commit()


def ids(box: Mailbox) -> list[str]:
    return [message.id for message in box.page(None, 1_000, None).messages]


def test_inserting_again_changes_nothing(box: Mailbox) -> None:
    change(box, row("a", content="first"), row("b"))
    change(box, row("b"), row("a", content="second"), row("c"))
    change(box, row("a", content="third"))
    assert sorted(ids(box)) == ["a", "b", "c"]
    found = box.read("a")
    assert found is not None
    assert found.content == "first"


@pytest.mark.parametrize("reopened", [False, True])
def test_what_was_removed_does_not_come_back(path: Path, reopened: bool) -> None:
    box = Mailbox("ada", path)
    change(box, row("a"), row("b"))
    change(box, remove="a")
    change(box, remove="never-there")
    if reopened:
        box.close()
        box = Mailbox("ada", path)
    change(box, row("a"))
    change(box, row("a"), row("c"), row("never-there"))
    assert sorted(ids(box)) == ["b", "c"]
    assert not box.has("a")
    assert box.read("a") is None
    box.close()


def test_what_was_rolled_back_leaves_nothing_and_later_writes_are_right(box: Mailbox) -> None:
    box.begin()
    box.insert([row("a")])
    box.remove("b", "now")
    box.join(CHANNEL, Standing("then"))
    box.rollback()
    box.rollback()
    change(box, row("b"), row("c", channel="news"))
    assert sorted(ids(box)) == ["b", "c"]
    assert box.channels(NOW_US).channels == []


def test_no_list_of_open_boxes_is_kept_that_each_closing_would_walk(box: Mailbox) -> None:
    assert box.channel_ids() == set()
    assert apsw.connections() == []


def test_writing_outside_a_transaction_is_a_mistake(box: Mailbox) -> None:
    for work in (
        lambda: box.insert([row("a")]),
        lambda: box.remove("a", "now"),
        lambda: box.leave("c"),
        lambda: box.join(CHANNEL, Standing("then")),
    ):
        with pytest.raises(AssertionError):
            work()


def test_join_leave_and_join_again(box: Mailbox) -> None:
    change(box, join="2026-01-02T00:00:00.000000Z")
    change(box, join="2026-01-02T00:00:00.000000Z")
    [channel] = box.channels(NOW_US).channels
    assert (channel.id, channel.name, channel.joined_at, channel.is_muted) == (
        "news",
        "News",
        "2026-01-02T00:00:00.000000Z",
        False,
    )
    change(box, leave="news")
    change(box, leave="news")
    assert box.channels(NOW_US).channels == []
    change(box, join="2026-01-03T00:00:00.000000Z")
    assert [c.joined_at for c in box.channels(NOW_US).channels] == ["2026-01-03T00:00:00.000000Z"]


def muted(box: Mailbox, now_us: int) -> bool:
    [channel] = box.channels(now_us).channels
    return channel.is_muted


def test_a_mute_holds_until_its_moment_or_for_good(box: Mailbox) -> None:
    change(box, join=Standing("then", True, iso(NOW_US + 1)))
    [channel] = box.channels(NOW_US).channels
    assert (channel.is_muted, channel.muted_until) == (True, iso(NOW_US + 1))
    assert muted(box, NOW_US)
    assert not muted(box, NOW_US + 1)
    [channel] = box.channels(NOW_US + 1).channels
    assert (channel.is_muted, channel.muted_until) == (False, None)
    change(box, join=Standing("then", True))
    [channel] = box.channels(NOW_US).channels
    assert (channel.is_muted, channel.muted_until) == (True, None)
    assert muted(box, NOW_US + 10**15)
    change(box, join=Standing("then"))
    assert not muted(box, NOW_US)


_TABLE_OF_OLD = """
CREATE TABLE user_channels(
    channel_id TEXT NOT NULL, user_id TEXT NOT NULL, joined_at DATETIME, is_muted BOOLEAN DEFAULT FALSE,
    PRIMARY KEY (channel_id, user_id)) WITHOUT ROWID"""


def make_old(path: Path, version: int) -> None:
    """Take from an empty box what later schemas brought."""
    db = apsw.Connection(str(path))
    db.execute("DROP TABLE user_channels")
    db.execute(_TABLE_OF_OLD)
    if version == 1:
        db.execute("DROP TABLE sync_version")
    db.pragma("user_version", version)
    db.close()


@pytest.mark.parametrize(("version", "synced"), [(1, False), (2, False), (2, True)])
def test_a_box_of_an_older_schema_is_read_as_it_is_and_learns_to_mute_when_that_is_needed(
    path: Path, version: int, synced: bool
) -> None:
    make_old(path, version)
    db = apsw.Connection(str(path))
    db.execute("INSERT INTO channels(id, name, created_at) VALUES('news', 'News', ?)", (CHANNEL[4],))
    db.execute("INSERT INTO user_channels(channel_id, user_id, joined_at) VALUES('news', 'ada', 'then')")
    if synced:
        db.execute("INSERT INTO sync_version VALUES(1, ?, 1)", (iso(NOW_US),))
    db.close()
    box = Mailbox("ada", path)
    assert [(c.id, c.is_muted) for c in box.channels(NOW_US).channels] == [("news", False)]
    assert not muted(box, NOW_US)
    assert box.clean == synced
    change(box, join=Standing("then"))  # says nothing new, but the file is another one now
    assert not box.clean
    change(box, join=Standing("then", True, iso(NOW_US + 5)))
    box.close()
    box = Mailbox("ada", path)
    assert muted(box, NOW_US)
    before = box.issue(NOW_US, None)
    change(box, join=Standing("then", True, iso(NOW_US + 5)))
    assert (box.clean, box.version) == (True, before)
    box.close()
    db = apsw.Connection(str(path))
    assert db.pragma("user_version") == SCHEMA_VERSION
    assert db.pragma("integrity_check") == "ok"
    db.close()


def test_a_box_of_a_later_schema_has_only_more_and_is_used_as_it_is(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute("ALTER TABLE messages ADD COLUMN later TEXT")
    db.execute("CREATE TABLE of_later(id INTEGER PRIMARY KEY)")
    db.pragma("user_version", SCHEMA_VERSION + 1)
    db.close()
    box = Mailbox("ada", path)
    change(box, row("a"), join=Standing("then", True))
    assert box.issue(1, None)
    assert muted(box, NOW_US)
    box.close()
    db = apsw.Connection(str(path))
    assert db.pragma("user_version") == SCHEMA_VERSION + 1
    db.close()


@pytest.mark.parametrize("reopened", [False, True])
def test_a_channel_knows_its_newest_message(path: Path, reopened: bool) -> None:
    box = Mailbox("ada", path)
    change(box, join="then")
    if reopened:
        box.close()
        box = Mailbox("ada", path)
    change(box, row("b", channel="news", at=5), row("a", channel="news", at=9), row("c", channel="other", at=20))
    change(box, row("d", channel="news", at=7))
    [newest] = box._db.execute("SELECT last_message_at FROM channels WHERE id='news'").fetchone() or [None]
    assert newest == row("a", at=9)[7]
    box.close()


# -- pages ----------------------------------------------------------------------------------------


@given(
    made=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["c1", "c2"]), st.booleans()), max_size=25),
    channel=st.sampled_from([None, "c1", "c2", "c3"]),
    limit=st.integers(1, 7),
)
@settings(max_examples=60)
def test_pages_are_the_sorted_list_cut_in_pieces(
    empty: bytes, made: list[tuple[int, str, bool]], channel: str | None, limit: int
) -> None:
    """Newest first by time, then as they came; a removed one is in no page."""
    with scratch() as directory:
        (directory / "messages.db").write_bytes(empty)
        box = Mailbox("ada", directory / "messages.db")
        expected: list[tuple[int, int, str]] = []
        for number, (at, of, removed) in enumerate(made):
            change(box, row(f"m{number}", channel=of, at=at))
            if not removed and channel in (None, of):
                expected.append((at, number, f"m{number}"))
        # Only afterwards, so that no rowid is used twice.
        for number, (_, _, removed) in enumerate(made):
            if removed:
                change(box, remove=f"m{number}")
        pages: list[Message] = []
        cursor = None
        while True:
            page = box.page(channel, limit, cursor)
            pages += page.messages
            if page.cursor is None:
                break
            assert len(page.messages) == limit
            cursor = page.cursor
        box.close()
    assert [message.id for message in pages] == [name for _, _, name in sorted(expected, reverse=True)]


def test_a_message_that_comes_between_two_pages_repeats_and_hides_nothing(box: Mailbox) -> None:
    change(box, *[row(f"m{number}", at=number) for number in range(6)])
    first = box.page(None, 3, None)
    change(box, row("new", at=99), row("old", at=0))
    second = box.page(None, 100, first.cursor)
    assert [m.id for m in first.messages] == ["m5", "m4", "m3"]
    assert [m.id for m in second.messages] == ["m2", "m1", "old", "m0"]


@pytest.mark.parametrize("cursor", ["", "x", "~", "2026~", "2026~-1", "2026~1.5", "~" + "9" * 19, "2026~1~2", "2026~x"])
def test_a_cursor_that_is_not_ours_is_refused_and_named(box: Mailbox, cursor: str) -> None:
    with pytest.raises(BadField) as refused:
        box.page(None, 10, cursor)
    assert refused.value.field == "cursor"


def test_a_message_comes_back_as_it_was_stored(box: Mailbox) -> None:
    full: Any = ("id", "c", "t", "ü\n'\"", "text", 9, None, "2026", "2027", '{"a": [1, null, {"b": "ä"}]}')
    change(box, full)
    found = box.read("id")
    assert found is not None
    assert (found.content, found.priority, found.sender, found.metadata) == (
        "ü\n'\"",
        9,
        None,
        {"a": [1, None, {"b": "ä"}]},
    )


# -- births ---------------------------------------------------------------------------------------


@st.composite
def losses(draw: st.DrawFn) -> tuple[frozenset[int], int]:
    """Which of up to 200 sectors are lost, and after how many bytes the file ends (in permille)."""
    return draw(st.frozensets(st.integers(0, 199))), draw(st.integers(0, 1_000))


@given(losses())
@example((frozenset(), 1_000))
@example((frozenset(range(200)), 1_000))
@example((frozenset(), 0))
def test_a_birth_that_lost_any_of_its_sectors_is_seen(empty: bytes, loss: tuple[frozenset[int], int]) -> None:
    lost, permille = loss
    content = bytearray(empty)
    for sector in lost:
        content[sector * SECTOR : (sector + 1) * SECTOR] = bytes(len(content[sector * SECTOR : (sector + 1) * SECTOR]))
    del content[len(content) * permille // 1_000 :]
    assert torn_at_birth(bytes(content), empty) == (bytes(content) != empty)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("insert"), st.integers(0, 5)),
            st.tuples(st.just("remove"), st.integers(0, 5)),
            st.just(("join", 0)),
            st.just(("leave", 0)),
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=60)
def test_a_box_that_was_checkpointed_is_never_taken_for_a_torn_birth(
    empty: bytes, changes: list[tuple[str, int]]
) -> None:
    with scratch() as directory:
        path = directory / "messages.db"
        path.write_bytes(empty)
        box = Mailbox("ada", path)
        for kind, number in changes:
            if kind == "insert":
                change(box, row(f"m{number}"))
            elif kind == "remove":
                change(box, remove=f"m{number}")
            elif kind == "join":
                change(box, join="then")
            else:
                change(box, leave="news")
        disk = Disk(directory)
        box.checkpoint(disk)
        box.close()
        disk.close()
        assert not torn_at_birth(path.read_bytes(), empty)


def test_two_templates_are_the_same(empty: bytes) -> None:
    assert template() == empty


# -- the file -------------------------------------------------------------------------------------


def test_a_checkpoint_leaves_no_log_and_the_rows(path: Path) -> None:
    disk = Disk(path.parent)
    box = Mailbox("ada", path)
    change(box, *[row(f"m{number}", content="x" * 900) for number in range(100)])
    assert box.log_pages() > 20
    box.checkpoint(disk)
    assert box.log_path.stat().st_size == 0
    assert box.log_pages() <= 0
    change(box, row("after"))
    box.close()
    disk.close()
    again = Mailbox("ada", path)
    assert len(ids(again)) == 101
    assert again._db.pragma("integrity_check") == "ok"
    again.close()


def test_a_newborn_is_not_checkpointed(box: Mailbox, tmp_path: Path) -> None:
    box.newborn = True
    disk = Disk(tmp_path)
    with pytest.raises(AssertionError):
        box.checkpoint(disk)
    disk.close()


def test_a_box_takes_three_descriptors_no_shared_memory_and_a_bounded_cache(path: Path) -> None:
    gc.collect()  # what other tests have left open goes now, not in between
    before = len(os.listdir("/proc/self/fd"))
    box = Mailbox("ada", path)
    change(box, row("a"))
    assert len(os.listdir("/proc/self/fd")) - before == 3
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["messages.db", "messages.db-wal"]
    assert box._db.pragma("synchronous") == 0
    assert box._db.pragma("cache_size") == 10
    assert box._db.pragma("wal_autocheckpoint") == 0
    assert box._db.pragma("locking_mode") == "exclusive"
    change(box, *[row(f"m{number}", content="x" * 3_000) for number in range(300)])
    for _ in box._db.execute("SELECT * FROM messages"):
        pass
    used = box._db.status(apsw.SQLITE_DBSTATUS_CACHE_USED)[0]
    assert used < 40 * 4_096
    box.close()


def test_closing_keeps_the_log_for_the_next_opening(path: Path) -> None:
    box = Mailbox("ada", path)
    change(box, row("a"))
    box.close()
    assert path.with_name("messages.db-wal").stat().st_size > 0
    again = Mailbox("ada", path)
    assert ids(again) == ["a"]
    again.close()


def test_a_box_that_another_connection_has_open_is_busy(path: Path) -> None:
    box = Mailbox("ada", path)
    with pytest.raises(apsw.BusyError):
        Mailbox("ada", path)
    box.close()
    Mailbox("ada", path).close()


# -- versions -----------------------------------------------------------------------------------------------


def test_a_box_is_clean_from_the_issue_of_a_version_to_the_first_change(box: Mailbox) -> None:
    assert (box.version, box.clean) == (None, False)
    change(box, row("a"))
    version = box.issue(1_000_000, None)
    assert (box.version, box.clean) == (version, True) == ("1970-01-01T00:00:01.000000Z", True)
    change(box, row("b"))
    assert (box.version, box.clean) == (version, False)


def test_a_change_that_changes_nothing_leaves_the_version(box: Mailbox) -> None:
    """A replay must not make every device come."""
    change(box, row("a", channel="news"), row("b"), join="news")
    change(box, row("a", channel="news"), remove="b")
    box.issue(1, None)
    change(box, row("a", channel="news"), row("b"), join="news")
    change(box, remove="b")
    assert box.clean
    change(box, leave="news")
    assert not box.clean


def test_a_change_that_was_rolled_back_leaves_the_version(box: Mailbox) -> None:
    box.issue(1, None)
    box.begin()
    box.insert([row("a")])
    box.rollback()
    box.begin()
    box.commit()
    assert box.clean


def test_the_version_lives_in_the_box(path: Path) -> None:
    box = Mailbox("ada", path)
    version = box.issue(1, None)
    box.close()
    again = Mailbox("ada", path)
    assert (again.version, again.clean) == (version, True)
    change(again, row("a"))
    again.close()
    third = Mailbox("ada", path)
    assert (third.version, third.clean) == (version, False)
    third.close()


@given(st.lists(st.tuples(st.integers(0, 2**50), st.none() | st.text() | st.integers(0, 2**50).map(iso)), max_size=8))
def test_versions_grow_whatever_the_clock_does(steps: list[tuple[int, str | None]]) -> None:
    with scratch() as directory:
        (directory / "messages.db").write_bytes(template())
        box = Mailbox("ada", directory / "messages.db")
        last = ""
        for now_us, after in steps:
            version = box.issue(now_us, after)
            assert version > last
            assert version >= iso(now_us)
            last = version
        box.close()


def test_a_box_of_schema_1_works_and_is_brought_up_to_date_with_its_first_version(path: Path) -> None:
    make_old(path, 1)
    box = Mailbox("ada", path)
    change(box, row("a"))
    box.close()
    box = Mailbox("ada", path)
    assert (box.has("a"), box.version, box.clean) == (True, None, False)
    version = box.issue(1, None)
    change(box, row("b"))
    box.close()
    box = Mailbox("ada", path)
    assert (box.version, box.clean, box.has("b")) == (version, False, True)
    box.close()
    db = apsw.Connection(str(path))
    assert db.pragma("user_version") == SCHEMA_VERSION
    db.close()


def test_copies_of_one_content_are_alike_to_the_byte(box: Mailbox, tmp_path: Path) -> None:
    change(box, *(row(f"m{n}") for n in range(200)))
    box.issue(1, None)
    for name in ("one", "two"):
        box.copy_to(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    copy = apsw.Connection(str(tmp_path / "one"))
    assert copy.pragma("integrity_check") == "ok"
    assert copy.execute("SELECT count(*) FROM messages").fetchall() == [(200,)]
    copy.close()


@pytest.mark.parametrize("version", [1, 2])
def test_a_box_of_an_older_schema_is_upgraded_once_and_is_another_content_then(path: Path, version: int) -> None:
    make_old(path, version)
    if version == 2:
        db = apsw.Connection(str(path))
        db.execute("INSERT INTO sync_version VALUES(1, ?, 1)", (iso(NOW_US),))
        db.close()
    box = Mailbox("ada", path)
    assert box.clean == (version == 2)
    assert box.upgrade()
    assert not box.clean
    assert not box.upgrade()
    assert box.issue(NOW_US, None) >= iso(NOW_US)
    box.close()
    db = apsw.Connection(str(path))
    assert db.pragma("user_version") == SCHEMA_VERSION
    db.close()
