"""Boxes of an earlier schema get what they lack in the background: a chore, until a round has seen all of them."""

from __future__ import annotations

import os
from pathlib import Path

from node import paths
from node.errors import DiskFull
from shard.journal import Journal
from shard.mailbox import SCHEMA_VERSION, Mailbox
from shard.rounds import Chore
from shard.sqlite import has_table

_TABLE = "CREATE TABLE boxes(id INTEGER PRIMARY KEY CHECK(id=1), schema INTEGER NOT NULL)"
_READ = "SELECT schema FROM boxes"
_WRITE = "INSERT OR REPLACE INTO boxes(id, schema) VALUES(1,?)"


class Upgrades(Chore):
    """``journal`` remembers up to which schema all boxes of the shard have been brought; ``data`` is the node's."""

    def __init__(self, journal: Journal, data: Path) -> None:
        self._journal = journal
        if not has_table(journal.db, "boxes"):
            journal.db.execute(_TABLE)
            with os.scandir(paths.boxes_dir(data)) as slots:
                if next(slots, None) is None:  # a new node's are all of today
                    journal.db.execute(_WRITE, (SCHEMA_VERSION,))
        row = journal.db.execute(_READ).fetchone()
        self.is_due = row is None or row[0] < SCHEMA_VERSION
        """whether there may be boxes of an earlier one"""

    def do(self, box: Mailbox, now_us: int, *, sweep: bool) -> int:
        return int(box.upgrade())

    async def ended(self, failed: int) -> bool:
        if failed:
            return False
        try:
            await self._journal.write(lambda: self._journal.db.execute(_WRITE, (SCHEMA_VERSION,)))
        except DiskFull:  # the next start looks again
            return False
        return True
