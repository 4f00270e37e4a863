"""Where the files of the audit log lie, and what is in them (:mod:`node.audit`).

::

    audit/<chain>-<number>.jsonl    lines; a file that another follows is never written again
    audit-heads/<chain>.json        the head: how many lines there are on disk, and the last hash
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from node import audit, paths
from node.audit import Head, Line

_NAME = re.compile(r"([a-z]+(?:-[0-9]+)?)-([0-9]{6,})\.jsonl")
_LINE_MAX = 16_384
"""bytes; names are short"""


def path_of(data: Path, chain: str, number: int) -> Path:
    return paths.audit_dir(data) / f"{chain}-{number:06}.jsonl"


def head_path(data: Path, chain: str) -> Path:
    return paths.audit_heads_dir(data) / f"{chain}.json"


def load_head(data: Path, chain: str) -> Head | None:
    """None if there is none that can be read."""
    try:
        return msgspec.json.decode(head_path(data, chain).read_bytes(), type=Head)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def files_of(data: Path, chain: str) -> list[int]:
    """The numbers of its files, in order."""
    found = map(_NAME.fullmatch, _names(paths.audit_dir(data)))
    return sorted(int(name[2]) for name in found if name is not None and name[1] == chain)


def chains(data: Path) -> list[str]:
    """Those that have a file or a head."""
    files = map(_NAME.fullmatch, _names(paths.audit_dir(data)))
    heads = {name.removesuffix(".json") for name in _names(paths.audit_heads_dir(data)) if name.endswith(".json")}
    return sorted({name[1] for name in files if name is not None} | heads)


def strangers(data: Path) -> list[str]:
    """Names in the directory that are no file of a chain."""
    return sorted(name for name in _names(paths.audit_dir(data)) if _NAME.fullmatch(name) is None)


def first_line(path: Path) -> Line | None:
    """What a file begins with; None if that is no line."""
    with path.open("rb") as file:
        return audit.read(file.read(_LINE_MAX).partition(b"\n")[0])


def last_line(path: Path) -> Line | None:
    """The last whole line; None if it is none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LINE_MAX))
        return audit.read(file.read().rpartition(b"\n")[0].rpartition(b"\n")[2])


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
