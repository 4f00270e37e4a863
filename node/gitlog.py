"""The log of a git repository as mail: a top-level folder is a channel, an author a user, a commit a message. Pure.

A commit becomes one message, in the channel of the folder of which it touched most files; what it says depends on the
commit alone, so that the same commit is the same message whenever it is sent. What touches no folder is in ``top``.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from node.model import NewMessage

_BEGIN = "\x01"
FORMAT = "%x01%H%x00%an%x00%ae%x00%ct%x00%s%x00%b%x00"
"""of ``git log -z --numstat --no-renames``: fields end with NUL, which no message of a commit can hold"""
TOP = "top"
_FIELDS = 6
_FILE = re.compile(r"(\d+|-)\t(\d+|-)\t(.+)", re.DOTALL)
_NAME_MAX = 128
_BODY_MAX = 20_000
_FILES_SHOWN = 20
_LARGE = 20
_LAST_S = 253_402_300_799  # the end of the year 9999; git has none before 1970
_HIGH, _NORMAL, _LOW = 8, 5, 3
_URGENT = re.compile(r"\b(security|cve|urgent|hotfix|revert|crash|data loss|vulnerab\w+)\b", re.IGNORECASE)
_MINOR = re.compile(
    r"^(docs?|chore|style|typo|readme|bump|merge|test|tests|lint|format|changelog|ci|release)\b", re.IGNORECASE
)


class Touched(NamedTuple):
    """A file of a commit; lines are None where git counts none."""

    path: str
    added: int | None
    removed: int | None


class Commit(NamedTuple):
    hash: str
    author: str
    email: str
    at: datetime
    subject: str
    body: str
    files: tuple[Touched, ...]


def commits(log: str) -> Iterator[Commit]:
    """The commits of a log in :data:`FORMAT`, in its order."""
    parts = log.split("\0")
    at = 0
    while at + _FIELDS <= len(parts):
        fields = parts[at : at + _FIELDS]
        at += _FIELDS
        files = []
        while at < len(parts) and not parts[at].startswith(_BEGIN):
            if found := _FILE.fullmatch(parts[at].lstrip("\n")):
                added, removed, path = found.groups()
                files.append(Touched(path, _lines(added), _lines(removed)))
            at += 1
        hash, author, email, when, subject, body = fields
        yield Commit(
            hash.removeprefix(_BEGIN),
            author.strip(),
            email.strip(),
            datetime.fromtimestamp(min(int(when), _LAST_S), UTC),
            subject.strip(),
            body.strip(),
            tuple(files),
        )


def channel_of(commit: Commit) -> str:
    """The channel's id; of two folders touched alike the first in the alphabet."""
    folders = Counter(file.path.split("/", 1)[0] for file in commit.files if "/" in file.path)
    if not folders:
        return TOP
    return name_from(min(folders, key=lambda folder: (-folders[folder], folder)), TOP)


def author_of(commit: Commit) -> str:
    """The author's userId: the name, else what stands before the ``@``, as far as they have Latin letters or digits."""
    return name_from(commit.author) or name_from(commit.email.split("@", 1)[0], "somebody")


def name_from(text: str, otherwise: str = "") -> str:
    """``text`` as a name that pobox takes (:mod:`node.ids`): ``Åsa Öberg`` is ``asa.oberg``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"\s+", ".", plain.strip())
    return re.sub(r"^[^a-z0-9]+|[^a-z0-9._@:-]", "", plain)[:_NAME_MAX] or otherwise


def message(commit: Commit) -> NewMessage:
    """What its channel is told of ``commit``."""
    return NewMessage(
        id=f"git:{commit.hash}",
        channel_id=channel_of(commit),
        title=commit.subject or commit.hash[:12],
        content=_content(commit),
        message_type="commit",
        priority=priority(commit),
        sender=commit.author[:256] or author_of(commit),
        created_at=commit.at,
        metadata={"commit": commit.hash[:12], "files": len(commit.files)},
    )


def priority(commit: Commit) -> int:
    """High for what sounds urgent, low for small change, a little more than normal for what touches a lot."""
    if _URGENT.search(commit.subject):
        return _HIGH
    if _MINOR.match(commit.subject) or not commit.files:
        return _LOW
    return _NORMAL + 1 if len(commit.files) >= _LARGE else _NORMAL


def members(log: Iterable[Commit]) -> dict[str, list[str]]:
    """``{channel: [userId, …]}``: who touched which folder, the busiest first."""
    counts: dict[str, Counter[str]] = {}
    for commit in log:
        counts.setdefault(channel_of(commit), Counter())[author_of(commit)] += 1
    return {channel: [user for user, _count in users.most_common()] for channel, users in sorted(counts.items())}


def _content(commit: Commit) -> str:
    parts = [commit.body[:_BODY_MAX]] if commit.body else []
    shown = [f"- {_code(file.path)}{_change(file)}" for file in commit.files[:_FILES_SHOWN]]
    if (more := len(commit.files) - len(shown)) > 0:
        shown.append(f"- and {more} more")
    if shown:
        parts.append("\n".join(shown))
    return "\n\n".join(parts)


def _code(path: str) -> str:
    """As code in Markdown, whatever is in it."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", path)), default=0))
    pad = " " if path.startswith("`") or path.endswith("`") else ""
    return f"{fence}{pad}{' '.join(path.splitlines())}{pad}{fence}"


def _change(file: Touched) -> str:
    if file.added is None or file.removed is None:
        return ""
    return f" +{file.added} -{file.removed}"


def _lines(text: str) -> int | None:
    return None if text == "-" else int(text)
