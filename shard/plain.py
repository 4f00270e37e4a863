"""What of all that was written to people lies on a stopped node in plain: each file says it itself by how it begins.

Who there is, times, sizes and ids are in the open on every node; files that hold nothing else are not looked at.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from node import paths
from shard import history
from shard.keyring import head_of, is_encrypted
from shard.leftovers import RESTORED
from shard.sealing import is_sealed

ENCRYPTING = ".encrypting"
"""at the end of the name of an encrypted file in the making"""

_TELLS_NOTHING = re.compile(r".+\.(?:json|begun|fresh|lock)(?:\.new)?|.+-shm")
_LOG = re.compile(r"(.+\.db.*?)-(?:wal|journal)(.*)")
_IN_THE_MAKING = re.compile(rf".+(?:\.new|\.part|\.restoring|\.restoring-wal|\{ENCRYPTING})")
_USELESS = re.compile(rf".+-wal\.(?:stray|replaced-.+)|.+\.damaged-.+\{RESTORED}")
"""logs of files that have gone, and what was damaged and has come back"""


def people(data: Path) -> list[Path]:
    """The directories of all who have one."""
    return sorted(path for path in paths.boxes_dir(data).glob("*/*") if path.parent.name.isdigit())


def log_of(path: Path) -> Path:
    """Of the database at ``path``."""
    return path.with_name(f"{path.name}-wal")


def files(data: Path) -> Iterator[Path]:
    """All that are plain, and hold, or may hold, what was written to people."""
    yield from (path for path in _all(data) if _is_plain(path))


def discard(data: Path) -> None:
    """Remove what a kill left half made or half removed, and what is plain and of use to nobody."""
    for place in paths.boxes_dir(data).glob(f"{paths.erased_dir(data, '').name}*"):
        shutil.rmtree(place)  # a start would, before it does anything else
    for path in paths.run_dir(data).glob("parcel-*"):
        path.unlink()  # of a handover that nobody goes on with
    for path in list(_all(data)):
        if _IN_THE_MAKING.fullmatch(path.name) or (_USELESS.fullmatch(path.name) and _is_plain(path)):
            path.unlink()
    for path in paths.backups_dir(data).glob("*/*/shard-*.db"):
        if not path.with_suffix(".json").exists():  # without it the copy of a journal is a part of no backup
            path.unlink()


def word_for(path: Path) -> str:
    """Why one of :func:`files` is plain still, where nothing more is known."""
    if ".damaged-" in path.name:
        return "damaged, so it stays as it is; remove it"
    if _LOG.fullmatch(path.name):
        return "a log, and the file that it is of is not there; remove it"
    return "nobody knows what it is; remove it"


def _all(data: Path) -> Iterator[Path]:
    """Every file, but for copies that devices get: nothing of these is plain, and they go with a start."""
    for place in people(data):
        yield from (path for path in place.rglob("*") if path.parent.name != ".sync" and path.is_file())
    backups = paths.backups_dir(data)
    for found in (
        data.glob("journals-*/*"),
        backups.glob("*"),
        backups.glob("*/*/*"),
        paths.history_dir(data).glob("*/shard-*/*"),
    ):
        yield from (path for path in found if path.is_file())


def _is_plain(path: Path) -> bool:
    """Whether it is, and more than names."""
    head = head_of(path)
    if not head or _TELLS_NOTHING.fullmatch(path.name):
        return False
    if path.suffix == ".seg":
        return history.is_plain(head)
    if of := _LOG.fullmatch(path.name):
        return not is_encrypted(head_of(path.with_name(of[1] + of[2])))
    return not is_encrypted(head) and not is_sealed(head)
