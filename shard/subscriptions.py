"""Which devices of this shard's users are to be told of new messages, and where. On disk in ``shard.db``.

All of them are in memory too (some 700 bytes each), so that a delivery can see at no cost whether there is anybody to
tell. Disk first: memory says what was committed. The table is made with the first subscription; a node without any
writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

import apsw
import msgspec

from node.clock import iso
from node.model import PushDevice
from shard.journal import Journal
from shard.sqlite import has_table

DEVICES_MAX = 32
"""of one user"""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS subscriptions(
    user_id TEXT NOT NULL, device TEXT NOT NULL, endpoint TEXT NOT NULL, p256dh BLOB NOT NULL, auth BLOB NOT NULL,
    priority_min INTEGER NOT NULL, created_us INTEGER NOT NULL, PRIMARY KEY(user_id, device)) WITHOUT ROWID"""
_ALL = "SELECT user_id, device, endpoint, p256dh, auth, priority_min, created_us FROM subscriptions"
_PUT = "INSERT OR REPLACE INTO subscriptions VALUES(?,?,?,?,?,?,?)"
_DROP_TWINS = "DELETE FROM subscriptions WHERE user_id=? AND device<>? AND endpoint=?"
_DROP = "DELETE FROM subscriptions WHERE user_id=? AND device=? AND endpoint=?"

_DROP_ALL = "DELETE FROM subscriptions WHERE user_id=?"


class Subscription(msgspec.Struct, frozen=True, gc=False):
    user: str
    device: str
    endpoint: str
    p256dh: bytes
    """the device's public key, an uncompressed point"""
    auth: bytes
    """its secret, 16 bytes"""
    priority_min: int
    created_us: int

    def outward(self) -> PushDevice:
        """Without what would let somebody else send to it."""
        return PushDevice(
            device=self.device,
            host=urlsplit(self.endpoint).hostname or "",
            priority_min=self.priority_min,
            created_at=iso(self.created_us),
        )


def stored(db: apsw.Connection) -> list[Subscription]:
    """All that are in the journal's database ``db``; none if there is no table."""
    if not has_table(db, "subscriptions"):
        return []
    return [Subscription(*row) for row in db.execute(_ALL)]


def add(db: apsw.Connection, subscription: Subscription) -> None:
    """Put one into ``db``, in place of what the device had, and of what another device had at the same endpoint: it is
    the same browser under another name."""
    assert db.in_transaction
    db.execute(_SCHEMA)
    db.execute(_DROP_TWINS, (subscription.user, subscription.device, subscription.endpoint))
    db.execute(_PUT, msgspec.structs.astuple(subscription))


def drop_all(db: apsw.Connection, user: str) -> None:
    """Forget every device of ``user``."""
    assert db.in_transaction
    if has_table(db, "subscriptions"):
        db.execute(_DROP_ALL, (user,))


class Subscriptions:
    """Those in ``journal``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.of: dict[str, dict[str, Subscription]] = {}
        """by user, then by device; nobody is in it without a device"""
        self.take(stored(journal.db))

    def take(self, subscriptions: Iterable[Subscription]) -> None:
        """They are on disk here."""
        for subscription in subscriptions:
            self.of.setdefault(subscription.user, {})[subscription.device] = subscription

    def __len__(self) -> int:
        return sum(map(len, self.of.values()))

    def find(self, user: str, device: str) -> Subscription | None:
        return self.of.get(user, {}).get(device)

    async def put(self, subscription: Subscription) -> bool:
        """Durable when this returns; whether the device is new. The caller has checked that there is room for it."""
        await self._journal.write(lambda: add(self._journal.db, subscription))
        devices = self.of.setdefault(subscription.user, {})
        for twin in [one for one in devices.values() if one.endpoint == subscription.endpoint]:
            if twin.device != subscription.device:
                del devices[twin.device]
        is_new = subscription.device not in devices
        devices[subscription.device] = subscription
        return is_new

    async def drop(self, subscription: Subscription) -> None:
        """Forget it, unless the device has subscribed anew meanwhile, elsewhere."""
        user, device, endpoint = subscription.user, subscription.device, subscription.endpoint

        def work() -> None:
            self._journal.db.execute(_DROP, (user, device, endpoint))

        await self._journal.write(work)
        now = self.find(user, device)
        if now is not None and now.endpoint == endpoint:
            del self.of[user][device]
            if not self.of[user]:
                del self.of[user]
