"""Files that stay beside a person's box when it is replaced: the box as it was before a restore, one that was damaged.

::

    messages.db.replaced-<time>           what was there before a restore
    messages.db.damaged-<time>            set aside as damaged
    messages.db.damaged-<time>.restored   and what it held has come back since
    archive_2024.db.damaged-<time>        a year of the archive, likewise
    archive.replaced-<time>/              of years in which only the box that was replaced names something

What was replaced, and what has come back, goes with the backups of its day. What hasn't come back stays until somebody
removes it.
"""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

from node.clock import DAY_US, us_of
from shard.archive import DIRECTORY

RESTORED = ".restored"
"""at the end of the name of what was set aside and has come back"""
_NAME = re.compile(r".+\.(?:replaced|damaged)-([0-9T-]{17}(?:\.[0-9]+)?)Z(?:\.restored)?")
_MAKING = ".restoring"
_MAKING_US = DAY_US


def settle(box: Path, file: str, since_us: int, until_us: int) -> None:
    """What was set aside of ``file`` in the directory ``box`` between the two times has come back: a backup from before
    was restored to after. What was set aside before that backup was made is in no backup, and stays."""
    for path in damaged(box, file):
        at_us = _put_aside_us(path.name)
        if not is_settled(path) and at_us is not None and since_us <= at_us <= until_us:
            mark(path)


def mark(path: Path) -> None:
    """What was set aside at ``path`` has come back."""
    path.rename(path.with_name(f"{path.name}{RESTORED}"))


def damaged(box: Path, file: str) -> list[Path]:
    """All that was set aside of ``file``, log included."""
    return sorted(box.glob(f"{file}*.damaged-*"))


def is_settled(path: Path) -> bool:
    return path.name.endswith(RESTORED)


def age_out(box: Path, before_us: int, now_us: int) -> None:
    """Remove what is from before ``before_us``, and what a kill left of a file in the making a day ago."""
    for path in box.glob("*.db*.*"):
        if _MAKING in path.name:
            if path.stat().st_mtime_ns // 1000 < now_us - _MAKING_US:
                path.unlink(missing_ok=True)
        elif ".damaged-" not in path.name or is_settled(path):
            at_us = _put_aside_us(path.name)
            if at_us is not None and at_us < before_us:
                path.unlink(missing_ok=True)
    for path in box.glob(f"{DIRECTORY}.replaced-*"):
        at_us = _put_aside_us(path.name)
        if at_us is not None and at_us < before_us:
            shutil.rmtree(path)


def _put_aside_us(name: str) -> int | None:
    """When what is called ``name`` was put aside; None if it doesn't say so."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        return us_of(datetime.strptime(found[1], "%Y-%m-%dT%H%M%S.%f").replace(tzinfo=UTC))
    except ValueError:
        return None
