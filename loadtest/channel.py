"""channel: one message to a channel of 100,000 members."""

from __future__ import annotations

import contextlib
import time

import httpx

from loadtest import load
from loadtest.errors import BenchError
from loadtest.figures import Result, Row, number, ratio
from loadtest.rounds import Account, alone, post
from loadtest.settings import Settings
from loadtest.subjects import Subject, directory, pobox, postgresql

CHANNEL = "everybody"
_LIMIT_S = 1_800.0


def _fill(subject: Subject, members: int) -> None:
    """Make the channel and put ``members`` users into it."""
    with httpx.Client(base_url=subject.url, timeout=120) as client:
        if subject.delivers_later:
            made = client.put(f"/api/v3/channels/{CHANNEL}", json={"name": "Everybody"})
            if made.is_error:
                raise BenchError(f"no channel: {made.status_code} {made.text[:500]}")
        for names in load.portions(load.users(members)):
            added = client.post(f"/api/v3/channels/{CHANNEL}/members", json={"add": names})
            if added.is_error:
                raise BenchError(f"no members: {added.status_code} {added.text[:500]}")


def _send(account: Account, members: int, number: int) -> tuple[float, float]:
    """Seconds to the 202, and seconds until every member has the message."""
    content = f"message {number}: " + "the members of this channel are told so. " * 13
    began = time.monotonic()
    answered = post(
        account.subject.url, {"channelId": CHANNEL, "title": "to all", "content": content}, timeout_s=_LIMIT_S
    )
    last = time.monotonic()
    account.accepted += members
    settled = account.subject.settle(account.accepted, limit_s=_LIMIT_S)
    return answered, (settled if account.subject.delivers_later else last) - began


def channel(settings: Settings) -> Result:
    members = settings.members
    with directory(settings.data, "channel") as base, contextlib.ExitStack() as stack:
        node = stack.enter_context(pobox(base, shards=settings.shards, routers=settings.routers))
        peer = stack.enter_context(postgresql(base, processes=1))
        accounts = [Account(node), Account(peer)]
        took: dict[str, list[tuple[float, float]]] = {account.subject.name: [] for account in accounts}
        joined_s = {}
        for account in accounts:
            with alone([other for other in accounts if other is not account]):
                began = time.monotonic()
                # Joining is stored like a message is, but is none: it has to be through before counting.
                _fill(account.subject, members)
                account.accepted = account.subject.rest(limit_s=_LIMIT_S)
                joined_s[account.subject.name] = time.monotonic() - began
        first = {}
        for round_ in range(-1, settings.rounds):
            for account in accounts:
                with alone([other for other in accounts if other is not account]):
                    times = _send(account, members, round_ + 1)
                if round_ < 0:
                    first[account.subject.name] = times
                else:
                    took[account.subject.name].append(times)
        our_drains = [drained for _, drained in took[node.name]]
        their_drains = [drained for _, drained in took[peer.name]]
        stored = node.verify(members * (settings.rounds + 1))
        return Result(
            name="channel",
            title=f"one channel message to {number(members)} members",
            how="One message at a time on an idle node: to the 202, and until each member's mailbox holds it. "
            "PostgreSQL: one INSERT … SELECT from a table of members, committed.",
            rows=[
                Row(label="pobox: 202", values=[a * 1e3 for a, _ in took[node.name]], unit="ms", at_most=10.0),
                Row(label="pobox: drained", values=our_drains, unit="s"),
                Row(label="PostgreSQL: committed", values=their_drains, unit="s"),
                ratio("drained: pobox / PostgreSQL", our_drains, their_drains, at_most=1.0),
                Row(label="pobox: all joined, their mailboxes born", values=[joined_s[node.name]], unit="s"),
                Row(label="PostgreSQL: all joined", values=[joined_s[peer.name]], unit="s"),
                Row(label="pobox: 202 of the first message", values=[first[node.name][0] * 1e3], unit="ms"),
                Row(label="pobox: first message drained", values=[first[node.name][1]], unit="s"),
                Row(label="PostgreSQL: first message", values=[first[peer.name][1]], unit="s"),
            ],
            notes=[
                f"All {number(stored.messages)} messages are in the {number(stored.mailboxes)} mailboxes, counted by "
                "another process after the node had stopped."
            ],
        )
