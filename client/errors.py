"""What can keep a device from syncing. Each says in one line what a person can do something about.

After any of them the old files are as they were, and the next sync starts from what is there.
"""

from __future__ import annotations


class DeviceError(Exception):
    """The message is one line for people."""


class BadCall(DeviceError):
    """What was asked for makes no sense: a name, a status, an address."""


class NoBox(DeviceError):
    """The server knows no such user (404). Nothing was touched."""


class Refused(DeviceError):
    """The server said no (4xx); ``field`` is what it names."""

    def __init__(self, words: str, status: int, field: str | None = None) -> None:
        super().__init__(words)
        self.status = status
        self.field = field


class Unavailable(DeviceError):
    """No answer, or one that asks to come again, for longer than there was patience. ``after_s``: when to."""

    def __init__(self, words: str, after_s: float | None = None) -> None:
        super().__init__(words)
        self.after_s = after_s


class Damaged(DeviceError):
    """What comes is, again and again, not what the server announces."""


class NoRoom(DeviceError):
    """The disk of the folder is full."""


class Busy(DeviceError):
    """Another process is syncing into this folder, or holds a file in it."""


class Trouble(Exception):
    """One attempt failed in a way that another may not; ``after_s`` is when the server wants it."""

    def __init__(self, words: str, after_s: float | None = None) -> None:
        super().__init__(words)
        self.after_s = after_s
