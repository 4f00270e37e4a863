"""What is counted is what is in the files, those whose log was never folded in included."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from loadtest import count
from loadtest.errors import BenchError


def _mailbox(data: Path, user: str, messages: int, *, folded: bool) -> Path:
    path = data / "user_storage" / "7" / user / "messages.db"
    path.parent.mkdir(parents=True)
    db = apsw.Connection(str(path))
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(not folded))
    db.pragma("journal_mode", "wal")
    db.execute("CREATE TABLE messages(id TEXT PRIMARY KEY)")
    db.executemany("INSERT INTO messages VALUES(?)", [(f"m{number}",) for number in range(messages)])
    db.close()
    return path


def test_messages_in_the_log_count_and_stay_there(tmp_path: Path) -> None:
    _mailbox(tmp_path, "ada", 3, folded=True)
    log = _mailbox(tmp_path, "bob", 4, folded=False).with_name("messages.db-wal")
    assert log.stat().st_size > 0
    assert count.elsewhere(tmp_path) == count.Stored(mailboxes=2, messages=7)
    assert log.stat().st_size > 0


def test_a_file_that_is_no_mailbox_is_an_error(tmp_path: Path) -> None:
    _mailbox(tmp_path, "ada", 1, folded=True).write_bytes(b"not a database, but long enough to be looked at" * 20)
    with pytest.raises(BenchError, match="can't be read"):
        count.elsewhere(tmp_path)
