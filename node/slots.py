"""Which shard owns which user. Pure.

``slot = xxh3_64(userId) % 4096``. A table says which shard owns which slot; it is computed, by
rendezvous hashing, from nothing but the number of shards: each slot goes to the shard whose hash
with it is the highest. So any process computes the same table, and from N to N+1 shards a slot
either stays or goes to the new shard: 1/(N+1) of them move, and none between the old ones.
"""

from __future__ import annotations

from functools import lru_cache

import xxhash

SLOTS = 4096


@lru_cache(maxsize=65_536)
def slot_of(name: str) -> int:
    """The slot of a userId (or of any other name that needs a home shard)."""
    return xxhash.xxh3_64_intdigest(name.encode()) % SLOTS


def owned_by(shard: int, shards: int) -> list[int]:
    """The slots of ``shard`` among ``shards`` shards."""
    return [slot for slot, owner in enumerate(table_for(shards)) if owner == shard]


@lru_cache(maxsize=64)
def table_for(shards: int) -> tuple[int, ...]:
    """The owner of each of the 4096 slots among ``shards`` shards (at least 1)."""
    if shards < 1:
        raise ValueError("a node has at least one shard")
    return tuple(
        max(range(shards), key=lambda shard: xxhash.xxh3_64_intdigest(f"{slot}/{shard}".encode()))
        for slot in range(SLOTS)
    )
