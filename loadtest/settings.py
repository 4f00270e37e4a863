"""How long and how large the benches are. One struct, checked by the command line."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    data: Path
    """where the data goes while it is measured: a real disk, not a memory file system"""
    seconds: float = 10.0
    """of load, a turn"""
    rounds: int = 5
    """turns of each subject"""
    shards: int = 2
    routers: int = 2
    """the peer gets as many HTTP processes"""
    connections: int = 128
    users: int = 10_000
    members: int = 100_000
    """of the channel"""
    open_mailboxes: int = 5_000
    rows: int = 1_000_000
    """in the large mailbox"""
    box_bytes: int = 57_000_000
    """of the box that devices download"""
    devices: int = 200
    device_bytes_per_s: float = 1e6
