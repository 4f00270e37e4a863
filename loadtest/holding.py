"""Mail that is accepted and stays where it is: in the journal, the lanes and the tail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from shard.postmen import Postmen


def held(postmen: Postmen) -> asyncio.Event:
    """Have ``postmen`` rest whenever this is not set: now, and until the caller sets it. Reads deliver all the same."""
    work, go = postmen._slice, asyncio.Event()

    async def when_let_go() -> Awaitable[None] | None:
        await go.wait()
        return await work()

    postmen._slice = when_let_go  # type: ignore[method-assign]
    return go
