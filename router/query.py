"""Names in a path and parameters behind the question mark: each checked, none ignored.

A parameter that is empty counts as left out.
"""

from __future__ import annotations

import re

import falcon.asgi

from node.errors import BadField
from node.ids import check_name

LIMIT_MAX = 500
LIMIT_DEFAULT = 50
STATUSES_MAX = 10_000
STATUSES_DEFAULT = 1_000
_LIMIT = re.compile(r"[0-9]{1,5}")
_CURSOR = re.compile(r"[!-~]{1,1024}")


def parameters(req: falcon.asgi.Request, *known: str) -> dict[str, str]:
    """The parameters given; raises :class:`BadField` for one that isn't ``known`` or comes twice."""
    given: dict[str, str] = {}
    for name, value in req.params.items():
        if name not in known:
            shown = name.encode("utf-8", "replace").decode()[:128]
            raise BadField(f"unknown parameter {shown}; known: {', '.join(known) or 'none'}", field=shown)
        if not isinstance(value, str):
            raise BadField(f"{name} is given more than once", field=name)
        if value:
            given[name] = value
    return given


def limit(given: dict[str, str], default: int = LIMIT_DEFAULT, most: int = LIMIT_MAX) -> int:
    """How many are wanted: 1 to ``most``, ``default`` if it isn't said."""
    text = given.get("limit")
    if text is None:
        return default
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= most:
        raise BadField(f"limit must be a number from 1 to {most}", field="limit")
    return int(text)


def prefix(given: dict[str, str]) -> str:
    """What the names asked for begin with, itself a name; empty for all."""
    text = given.get("prefix")
    return "" if text is None else check_name(text, "prefix")


def cursor(given: dict[str, str]) -> str | None:
    """What an earlier answer gave as its cursor; what it means is the shard's business."""
    text = given.get("cursor")
    if text is not None and not _CURSOR.fullmatch(text):
        raise BadField("cursor must come from an earlier answer", field="cursor")
    return text


def after(given: dict[str, str]) -> str:
    """A cursor that is the last name of an earlier answer; empty for the first page."""
    text = given.get("cursor")
    return "" if text is None else check_name(text, "cursor")


def flag(given: dict[str, str], name: str) -> bool | None:
    """Whether ``name`` is to be so; None if it isn't said."""
    text = given.get(name)
    if text not in (None, "true", "false"):
        raise BadField(f"{name} must be true or false", field=name)
    return None if text is None else text == "true"
