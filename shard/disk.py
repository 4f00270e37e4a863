"""What a shard does to the disk other than through SQLite, in one place.

The barrier is the heart of it: :meth:`Disk.flush` returns when everything that was written to
the file system before it began is on stable storage. Mailbox commits rely on it instead of a
flush each; so thousands of mailboxes share one. ``syncfs`` reports a failed write-back through
the descriptor it is called on, once; that descriptor is therefore opened before the first write,
and after one failure nothing more may be believed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import apsw

from node import paths
from node.clock import iso, now_us
from node.errors import DiskFull, Unsure
from node.placement import sync_directory

_libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    """The file system (or the two) of ``data`` and of the mailboxes in it, which may be a mount of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        boxes = paths.boxes_dir(data)
        boxes.mkdir(mode=0o700, exist_ok=True)
        self._fd = os.open(boxes, os.O_RDONLY | os.O_DIRECTORY)
        self._data_fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
        self._failed: str | None = None

    def flush(self) -> None:
        """The barrier. Raises :class:`Unsure` if the disk didn't take all of it, then and ever after."""
        if self._failed is None and _libc.syncfs(self._fd) != 0:
            self._failed = f"syncfs: {os.strerror(ctypes.get_errno())}"
        if self._failed is not None:
            raise Unsure(self._failed)

    def free_bytes(self) -> int:
        """What is left on the fuller of the two."""
        return min(status.f_bavail * status.f_frsize for status in (os.fstatvfs(self._fd), os.fstatvfs(self._data_fd)))

    def make_directory(self, path: Path) -> None:
        """``path`` and its parent, private to the owner; no flush."""
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)

    def write(self, path: Path, content: bytes) -> None:
        """``path`` holds ``content`` and nothing else; no flush. A failure leaves no part of it."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if os.pwrite(fd, content, 0) != len(content):
                raise OSError(28, "No space left on device", str(path))
            os.ftruncate(fd, len(content))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
            raise
        finally:
            os.close(fd)

    def sync_file(self, path: Path) -> None:
        """``path``'s content and length are durable. Never call it on a database's main file:
        closing it would drop SQLite's locks."""
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_log(self, path: Path) -> None:
        """``path`` goes, and no power cut brings it back: a new database must never find the log of another one."""
        stray = path.with_name(f"{path.name}.stray")
        self.rename(path, stray)
        self.remove(stray)

    def rename(self, old: Path, new: Path) -> None:
        """``old`` is called ``new`` from now on, durably."""
        old.rename(new)
        sync_directory(new.parent)

    def set_aside(self, path: Path) -> str:
        """Keep the damaged database at ``path`` under another name, for whoever wants to look into it; the stamp in
        that name. The log goes first."""
        stamp = iso(now_us()).replace(":", "")
        for name in (path.with_name(path.name + "-wal"), path):
            if name.exists():
                self.rename(name, name.with_name(f"{name.name}.damaged-{stamp}"))
        return stamp

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._data_fd)


@contextlib.contextmanager
def full_is_507() -> Iterator[None]:
    """A full disk, whoever met it, is :class:`DiskFull`."""
    try:
        yield
    except apsw.FullError as error:
        raise DiskFull() from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull() from error
        raise
