"""What a mailbox may be in the way with, by name. Only these are waited for and tried again; any other error ends the
process, and the journal is replayed. The words are stable: dead letters, metrics and the API have them."""

from __future__ import annotations

import errno

import apsw

from node.errors import DiskFull, Unavailable
from shard.mailbox import CORRUPT


class VolumeDown(Unavailable):
    """The disk under the mailbox gives errors for everybody; it is asked again later."""


OUT_OF_ORDER = (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, OSError)
"""what a file that can't be opened, read or written shows itself by"""
_DISK = (apsw.IOError, apsw.ReadOnlyError)
_DISK_NUMBERS = frozenset(
    {errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EUCLEAN, errno.EREMOTEIO, errno.ENOTCONN}
)
_NO_ROOM = (apsw.FullError, DiskFull)
_BUSY = (apsw.BusyError, apsw.LockedError)
_DAMAGED = (*CORRUPT, apsw.SQLError)  # a table is gone: opened anew, the box is found damaged
NAMED = (*_DAMAGED, *_NO_ROOM, *_BUSY, *OUT_OF_ORDER, VolumeDown)

BUSY, DAMAGED, IO, NO_ROOM, VOLUME = "busy", "damaged", "io_error", "disk_full", "volume"
FOR_EVERYBODY = (NO_ROOM, VOLUME)
"""not one box's own trouble: no letter uses up a try by it"""
EXPIRED = "expired"
"""of a letter: its sender wants it no more"""
FULL = "full"
"""of a channel's letter: the mailbox holds as much as it may; nothing that failed"""
REASONS = (BUSY, DAMAGED, EXPIRED, FULL, IO)
"""why a letter may be given up"""


def word(error: Exception) -> str:
    """The name of what ``error``, one of ``NAMED``, is about."""
    if isinstance(error, _NO_ROOM) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return NO_ROOM
    if isinstance(error, VolumeDown):
        return VOLUME
    if isinstance(error, _DAMAGED):
        return DAMAGED
    return BUSY if isinstance(error, _BUSY) else IO


def is_of_the_disk(error: BaseException | None) -> bool:
    """Whether ``error`` is one that other boxes on the same disk may well give too."""
    return isinstance(error, _DISK) or (isinstance(error, OSError) and error.errno in _DISK_NUMBERS)
