"""Where disks are built: in memory if there is a place for it, since thousands of them are."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MEMORY = Path("/dev/shm")


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pobox-", dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        yield Path(name)
