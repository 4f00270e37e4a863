"""memory: what an idle shard takes, what open mailboxes take, and that the journal doesn't grow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from loadtest import load
from loadtest.errors import BenchError
from loadtest.figures import Result, Row, number
from loadtest.looking import looking
from loadtest.rounds import Account, post
from loadtest.settings import Settings
from loadtest.subjects import PoboxNode, directory, pobox

_MB = 1e6
_MESSAGES_A_BOX = 20
_IDLE_S = 2.0
_SETTLE_S = 12.0
"""two barriers, after which the journal has let go what is stored"""


def _shards_mb(node: PoboxNode) -> list[float]:
    found = [process.memory_info().rss / _MB for process in node.processes("shard")]
    if len(found) != node.shards:
        raise BenchError(f"{len(found)} shard processes found; there should be {node.shards}")
    return found


def journal_bytes(data: Path) -> int:
    """What the journals take on disk, logs included."""
    total = 0
    for path in data.glob("journals-*/*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


@contextlib.contextmanager
def _sampled(data: Path, every_s: float = 0.25) -> Iterator[list[float]]:
    """The journals' size in MB, again and again while the block runs."""
    samples: list[float] = []

    def look() -> None:
        samples.append(journal_bytes(data) / _MB)

    look()
    with looking(look, every_s=every_s):
        yield samples


def memory(settings: Settings) -> Result:
    with directory(settings.data, "memory") as base:
        with pobox(base / "one-shard", shards=1, routers=1) as node:
            time.sleep(_IDLE_S)
            idle = _shards_mb(node)
            account = Account(node)
            for index in range(_MESSAGES_A_BOX):
                names = [load.user(number) for number in range(settings.open_mailboxes)]
                post(node.url, {"users": names, "title": f"message {index}", "content": "six hundred bytes. " * 30})
                account.accepted += len(names)
                node.settle(account.accepted, limit_s=300)
            opened = node.states()[0].open_mailboxes
            with_open = _shards_mb(node)
        with pobox(base / "load", shards=settings.shards, routers=settings.routers) as node:
            account = Account(node)
            account.warm_up(settings.users)
            time.sleep(_SETTLE_S)
            before = journal_bytes(node.data) / _MB
            halves = []
            for half in range(2):
                with _sampled(node.data) as samples:
                    account.turn(
                        [],
                        seconds=settings.seconds * settings.rounds / 2,
                        users=settings.users,
                        targets=1,
                        connections=settings.connections,
                        seed=half,
                    )
                halves.append(samples)
            time.sleep(_SETTLE_S)
            after = journal_bytes(node.data) / _MB
            loaded = _shards_mb(node)
            node.verify(account.accepted)
        rows = [
            Row(label="idle shard", values=idle, unit="MB", at_most=60.0),
            Row(label=f"shard with {number(opened)} mailboxes open", values=with_open, unit="MB", at_most=700.0),
            Row(label="each of the shards after the load below", values=loaded, unit="MB"),
            Row(label="journals before the load", values=[before], unit="MB"),
            Row(label="journals in the first half of the load, largest", values=[max(halves[0])], unit="MB"),
            Row(label="journals in the second half, largest", values=[max(halves[1])], unit="MB"),
            Row(label="second half / first half", values=[max(halves[1]) / max(halves[0])], unit="x", at_most=1.25),
            Row(label="journals after the load", values=[after], unit="MB"),
        ]
        accepted = sum(run.load.accepted for run in account.runs)
        return Result(
            name="memory",
            title="memory, and the size of the journals",
            how=f"Resident memory; each open mailbox holds {_MESSAGES_A_BOX} messages. Then {number(accepted)} "
            f"requests in {settings.seconds * settings.rounds:.0f} s, one user each, with the size of all journal "
            "files sampled four times a second.",
            rows=rows,
        )
