"""Which version of a box there is, and whether a device needs it.

Most devices ask and there is nothing new. So what a shard said of a box is kept, with the marks of that
person that were read *before* it was asked (:mod:`node.changes`): while they stand, nothing has come that the
answer doesn't know of, and it is given again without asking anybody. Only what a device says of itself goes on to
the shard: at once when it has another version than it said last, otherwise now and then.
"""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic

import falcon.asgi

from node import ops
from node.changes import Mark
from node.errors import BadField, PoboxError
from node.ids import check_name
from node.model import SyncCheck
from router import query
from router.body import Request
from router.links import Links, about
from router.messages import encode

_KEPT_MAX = 32_768
_DEVICE_MAX = 128
_VERSION_MAX = 64
_DEVICES_MAX = 65_536
_TELL_S = 300.0
_FLOOR = ops.SyncState("2026-11-24T08:44:00.000000Z", 40_960, "sha256:" + 64 * "0")
SNAPSHOT_TIMEOUT_S = 60.0
"""for a box of some gigabytes to be copied and hashed; whoever gives up finds it done the next time"""


class Versions:
    """What is known of the boxes on the shards behind ``links``."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._kept: dict[str, tuple[tuple[int, Mark], ops.SyncState]] = {}
        self._told: OrderedDict[tuple[str, str], tuple[str | None, float]] = OrderedDict()  # what a shard was, and when
        self.known = self.asked = 0
        """answers that were known, and those for which a shard was asked"""

    async def newest(self, user: str, device: str | None, local: str | None) -> ops.SyncState:
        """The version of ``user``'s box, with everything in it that was accepted before this call. ``device`` has
        ``local``."""
        mark = self._links.mark(user)
        kept = self._kept.get(user)
        known = kept[1] if kept is not None and kept[0] == mark else None
        if known is not None and (device is None or not self._is_news(user, device, local)):
            self.known += 1
            return known
        self.asked += 1
        request = ops.AskSync(*about(user), device, local)
        try:
            state = await self._links.ask_about(request, ops.SyncState, timeout_s=SNAPSHOT_TIMEOUT_S)
        except PoboxError:
            if known is None:
                raise
            return known  # the shard hears of the device another time
        if device is not None:
            self._told[user, device] = (local, monotonic())
            self._told.move_to_end((user, device))
            if len(self._told) > _DEVICES_MAX:
                self._told.popitem(last=False)
        if mark is not None:
            self._kept.pop(user, None)
            self._kept[user] = (mark, state)
            if len(self._kept) > _KEPT_MAX:
                del self._kept[next(iter(self._kept))]  # what was found out longest ago
        return state

    def _is_news(self, user: str, device: str, local: str | None) -> bool:
        """Whether the shard is to hear of it."""
        told = self._told.get((user, device))
        return told is None or told[0] != local or monotonic() - told[1] >= _TELL_S


class FloorVersions(Versions):
    """Knows one version of every box, and asks nobody: what the HTTP side of a check costs. The load tests measure
    the real thing against it; ``--floor`` is the only way to it."""

    async def newest(self, user: str, device: str | None, local: str | None) -> ops.SyncState:
        """As :meth:`Versions.newest` seen from outside."""
        return _FLOOR


class Checks:
    """``/api/v3/sync/{userId}/check``."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions

    async def get(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """What the server has, and whether the device needs it."""
        check_name(user_id, "userId")
        given = query.parameters(req, "localVersion", "device")
        local = given.get("localVersion")
        if local is not None and len(local) > _VERSION_MAX:
            raise BadField(f"localVersion may have {_VERSION_MAX} characters", field="localVersion")
        state = await self._versions.newest(user_id, device(given), local)
        resp.data = encode(
            SyncCheck(
                server_version=state.version,
                server_size=state.size,
                server_checksum=state.checksum,
                local_version=local,
                need_sync=local != state.version,
            )
        )


def device(given: dict[str, str]) -> str | None:
    """The name that the device gives itself, if it does."""
    name = given.get("device")
    if name is not None and (len(name) > _DEVICE_MAX or not name.isprintable()):
        raise BadField(f"device may have {_DEVICE_MAX} printable characters", field="device")
    return name
