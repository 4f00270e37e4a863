"""Which devices are told of new messages, and the key for which they subscribe. The shard of the user keeps them, and
looks whether the address is one that this node sends to."""

from __future__ import annotations

import falcon.asgi

from node import ops
from node.errors import BadField
from node.ids import check_name
from node.model import PushDevices, PushKey, PushSubscription
from router import query
from router.body import Bodies, Request, check_type, decoder
from router.links import Links, about
from router.messages import encode
from router.sync import device as checked

_BODY_BYTES_MAX = 16_384
_LOOK_UP_S = 10.0
"""for the name of a push service to be looked up"""
_decode = decoder(PushSubscription)


class PushDeviceList:
    """``/api/v3/push/key``, ``/api/v3/users/{userId}/push`` and ``…/devices/{device}/push``."""

    def __init__(self, links: Links, bodies: Bodies) -> None:
        self._links = links
        self._bodies = bodies

    async def key(self, req: Request, resp: falcon.asgi.Response) -> None:
        """The node's public key; all shards have the same."""
        query.parameters(req)
        resp.data = encode(PushKey(public_key=await self._links.ask(0, ops.AskPushKey(0), str)))

    async def list(self, req: Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """Without addresses and keys: with them anybody could send."""
        check_name(user_id, "userId")
        query.parameters(req)
        resp.data = encode(await self._links.ask_about(ops.ListPush(*about(user_id)), PushDevices))

    async def put(self, req: Request, resp: falcon.asgi.Response, user_id: str, device: str) -> None:
        """Durable when answered."""
        check_name(user_id, "userId")
        name = _name(device)
        query.parameters(req)
        check_type(req, "application/json")
        given = _decode(await self._bodies.read(req, _BODY_BYTES_MAX))
        request = ops.PutPush(
            *about(user_id),
            name,
            given.endpoint,
            given.keys.p256dh,
            given.keys.auth,
            given.priority_min,
        )
        resp.status = 201 if await self._links.ask_about(request, bool, timeout_s=_LOOK_UP_S) else 204

    async def drop(self, req: Request, resp: falcon.asgi.Response, user_id: str, device: str) -> None:
        """Nothing is sent any more; 404 if nothing was."""
        check_name(user_id, "userId")
        name = _name(device)
        query.parameters(req)
        await self._links.ask_about(ops.DropPush(*about(user_id), name), type(None))
        resp.status = 204


def _name(device: str) -> str:
    """As a device names itself when it syncs."""
    if not checked({"device": device}):
        raise BadField("device must have a name", field="device")
    return device
