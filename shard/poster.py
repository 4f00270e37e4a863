"""POSTs to addresses that were looked at (:mod:`shard.outward`), over connections that are kept.

Importing this takes a while, and most shards never send: so it is done by the first who does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from time import time

import httpcore

from shard.outward import CONNECT_S, Answer, Unreachable, addresses

_ANSWER_S = 10.0
_ALL_S = 20.0
_ANSWER_BYTES_MAX = 16_384
_ADDRESSES_MAX = 3
_FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, TimeoutError, OSError)


class Poster:
    """At most ``connections`` at a time; ``allow_private``: to anybody. Making one reads the machine's certificates."""

    def __init__(self, *, allow_private: bool, connections: int) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpcore.default_ssl_context(),
            max_connections=connections,
            keepalive_expiry=30,
            network_backend=_Checked(allow_private),
        )

    async def post(self, url: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        """See :meth:`shard.outward.Outward.post`."""
        timeouts = {"connect": CONNECT_S, "read": _ANSWER_S, "write": _ANSWER_S, "pool": _ALL_S}
        try:
            async with (
                asyncio.timeout(_ALL_S),
                self._pool.stream(
                    "POST", url, headers=headers, content=body, extensions={"timeout": timeouts}
                ) as response,
            ):
                taken = 0
                async for part in response.aiter_stream():
                    taken += len(part)
                    if taken > _ANSWER_BYTES_MAX:
                        break  # the connection is given up with it
                return Answer(response.status, _retry_after_s(response.headers))
        except _FAILURES as error:
            raise Unreachable(type(error).__name__) from error

    async def close(self) -> None:
        await self._pool.aclose()


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were looked at."""

    def __init__(self, allow_private: bool) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - of the interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if self._allow_private:
            return await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        failure: Exception = Unreachable("no address")
        for address in (await addresses(host, port))[:_ADDRESSES_MAX]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _retry_after_s(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """``Retry-After``: seconds, or a date."""
    for name, value in headers:
        if name.lower() == b"retry-after":
            with contextlib.suppress(ValueError, OverflowError):
                text = value.decode("ascii").strip()
                if text.isdigit():
                    return float(text)
                return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    return None
