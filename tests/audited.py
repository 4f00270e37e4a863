"""An audit log to look at, and chains that a test writes into one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec

from node import audit, audit_files
from node.audit import Entry
from node.audit_chain import Chain
from node.audit_files import path_of
from node.audit_verify import verify
from node.config import Audit

SMALL = Audit(file_bytes_max=1_000)
NOON_US = 1_795_521_600_000_000


def entry(number: int) -> Entry:
    return Entry(deed="users.delete", who={"key": "k"}, whom={"user": f"u{number}"}, status=204)


def append(data: Path, count: int, *, name: str = "router-0", at_us: int = NOON_US, settings: Audit = SMALL) -> None:
    """Lines, one at a time."""
    with contextlib.closing(Chain(data, name, settings)) as chain:
        for number in range(count):
            chain.append([(at_us, entry(number))], at_us)


def lines_of(data: Path, name: str = "router-0") -> list[dict[str, Any]]:
    """All that are whole, over all files."""
    content = b"".join(path_of(data, name, number).read_bytes() for number in audit_files.files_of(data, name))
    return [msgspec.json.decode(line) for _at, line in audit.whole_lines(content)]


def faults(data: Path) -> list[str]:
    return verify(data).faults
