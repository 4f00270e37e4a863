"""Users by the shard that owns them."""

from __future__ import annotations

from itertools import count, islice

from node.slots import slot_of, table_for


def owned_by(shard: int, shards: int, number: int = 1) -> list[str]:
    """``number`` userIds that live on ``shard`` of ``shards``."""
    table = table_for(shards)
    names = (f"person{index}" for index in count())
    return list(islice((name for name in names if table[slot_of(name)] == shard), number))
