"""What ``pobox demo`` sends: of a log, or where there is none of a small set that is always the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from node import gitlog
from node.model import NewMessage

READER = "you"
WELCOME = NewMessage(
    id="demo:welcome",
    users=[READER],
    title="Welcome to pobox",
    content="""This box is yours: one SQLite file, kept by the node and held by this page too. Reading, searching and
starring work **without a network**; the node is told what you did when there is one again.

- `j` and `k` walk through the list, `s` stars, `e` archives, `/` searches, `?` shows all keys
- new mail shows within a second, in every window that is open
- cut the network, reload, and it is all still here

Any service sends with one request:

```sh
curl -s http://127.0.0.1:8080/api/v3/messages -H 'content-type: application/json' \\
  -d '{"users": ["you"], "title": "Hello", "content": "Sent by **curl**"}'
```
""",
    sender="pobox",
    priority=8,
)

_PEOPLE = {"ada": "Ada Kern", "bo": "Bo Lindqvist", "chen": "陈晓", "dina": "Dina Haddad", "eli": "Eli Stone"}
_CHANNELS = {
    "kitchen": ("dina", "bo", "eli"),
    "deploys": ("chen", "ada"),
    "garden": ("eli", "dina"),
    "incidents": ("ada", "chen", "bo"),
}
_SAID = (
    ("kitchen", "Bread is in the oven", "Two loaves, ready at **noon**. First come, first served."),
    ("deploys", "Release 4.2 is out", "| service | before | now |\n|---|---|---|\n| web | 4.1.7 | 4.2.0 |\n"),
    ("garden", "The tomatoes need a stake", "The ones by the wall lean over. String is in the shed."),
    ("incidents", "Slow answers in the north", "p99 went from 80 ms to *1.4 s* at 09:12. Looking into it."),
    ("incidents", "Slow answers: it is the disk", "`iostat` shows one device at 100%. It is being replaced."),
    ("deploys", "Rolling back 4.2", "Until the disk is replaced. No data is touched."),
    ("kitchen", "Who took the blue cup?", "It has a chip on the handle, and it is dear to me."),
    ("incidents", "Slow answers: over", "Disk replaced at 10:40, p99 is at 78 ms. A report follows."),
    ("garden", "Frost tonight", "- cover the lemon tree\n- take the pots in\n- water in the morning, not now"),
    ("deploys", "Release 4.2 is out again", "Same build, healthy disk."),
    ("kitchen", "Soup", "Lentils today, and there is plenty."),
    ("garden", "First snowdrops", "> The winter isn't over, but it has been told.\n\nBehind the shed."),
)
_ROUNDS = 3
_URGENT = "incidents"


@dataclass(frozen=True)
class Mail:
    """``messages`` in the order in which they are sent, and who is in which channel."""

    source: str
    messages: list[NewMessage]
    members: dict[str, list[str]]

    @property
    def users(self) -> set[str]:
        return {user for users in self.members.values() for user in users}

    def members_with(self, reader: str) -> dict[str, list[str]]:
        """The same, and ``reader`` in each."""
        return {channel: list(dict.fromkeys([reader, *users])) for channel, users in self.members.items()}


def of_log(log: Iterable[gitlog.Commit]) -> Mail:
    """Of the commits of ``log``, which has the newest first."""
    commits = list(log)[::-1]
    return Mail("The log", [gitlog.message(commit) for commit in commits], gitlog.members(commits))


def generated() -> Mail:
    """Of no log."""
    messages = []
    for number in range(_ROUNDS * len(_SAID)):
        channel, title, content = _SAID[number % len(_SAID)]
        people = _CHANNELS[channel]
        messages.append(
            NewMessage(
                id=f"demo:{number}",
                channel_id=channel,
                title=title,
                content=content,
                priority=8 if channel == _URGENT else 5,
                sender=_PEOPLE[people[number % len(people)]],
            )
        )
    return Mail(
        "No git log here, so a small set of messages",
        messages,
        {channel: list(who) for channel, who in _CHANNELS.items()},
    )
