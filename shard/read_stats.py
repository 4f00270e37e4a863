"""How much a person read each day, in all and by channel.

The table says what counting the rows of ``read_status`` by the day of ``read_at`` (UTC) would say; a day on
which nothing was read, as far as is known now, has no row.
"""

from __future__ import annotations

from collections import defaultdict

import apsw
import msgspec

from shard.merge import Marks

_DAY = "SELECT channel_stats FROM read_stats WHERE date=?"
_KEEP_DAY = """
INSERT INTO read_stats(date, total_read, channel_stats, updated_at) VALUES(?,?,?,?)
ON CONFLICT(date) DO UPDATE SET total_read=excluded.total_read, channel_stats=excluded.channel_stats,
    updated_at=excluded.updated_at"""
_DROP_DAY = "DELETE FROM read_stats WHERE date=?"


def keep(db: apsw.Connection, marks: list[Marks], now: str) -> None:
    """Bring the table from the old times of reading of ``marks`` to the new ones; part of their transaction."""
    assert db.in_transaction
    days: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for mark in marks:
        if mark.was_read_at != mark.read.at:
            if mark.was_read_at:
                days[mark.was_read_at[:10]][mark.channel_id] -= 1
            if mark.read.at:
                days[mark.read.at[:10]][mark.channel_id] += 1
    for day, by_channel in days.items():
        row = db.execute(_DAY, (day,)).fetchone()
        counts: dict[str, int] = {} if row is None else msgspec.json.decode(row[0])
        for channel, more in by_channel.items():
            counts[channel] = counts.get(channel, 0) + more
        counts = {channel: count for channel, count in counts.items() if count}
        if counts:
            db.execute(_KEEP_DAY, (day, sum(counts.values()), msgspec.json.encode(counts).decode(), now))
        else:
            db.execute(_DROP_DAY, (day,))
