"""``python -m loadtest.devices``: devices sync under load while clients and server are killed; all end the same.

Some people of many have three devices each, with clocks that are wrong by days. Their mail comes with the
traffic of the kill tests; marks are made on every device; a device watches in a process of its own. Clients,
shards, routers and the whole node are killed, the files of one device of each person are damaged. In the end
every copy must be byte for byte what the node has, every status the same, and nothing that was acknowledged lost: no
message (by the ledger of the kill tests), and no mark that nothing was in conflict with.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx
import msgspec

from client.folder import checksum_of
from loadtest import kill_boxes
from loadtest.children import unwind_on_sigterm
from loadtest.devices_phone import Phone, Row
from loadtest.errors import BenchError
from loadtest.kill_ledger import Faults, Ledger
from loadtest.kill_load import Load
from loadtest.kill_node import KINDS, Victim, wait_drained
from node.clock import DAY_US
from node.model import ReadStatus, SyncCheck

_USERS = 60
_DEVICES = 3
_SKEWS_US = (0, -3 * DAY_US, DAY_US // 24)
_SHARDS, _ROUTERS = 2, 2
_WORKERS = 3
_FINISHED_S, _DRAINED_S = 120.0, 120.0
_PAGE = 10_000
_SETTINGS = {"POBOX_SHARD_MAILBOXES_OPEN_MAX": "40", "POBOX_SHARD_SNAPSHOT_S": "5", "POBOX_SHARD_BARRIER_S": "0.5"}


@dataclass
class Tally:
    """What has happened, and what is wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    faults: Faults = field(default_factory=Faults)


class Campaign:
    """In ``place``, with ``people`` who have devices; ``rng`` decides everything that chance decides."""

    def __init__(self, place: Path, people: int, rng: random.Random) -> None:
        self.tally = Tally()
        self._rng = rng
        self.node = Victim(place / "data", shards=_SHARDS, routers=_ROUTERS, environ=_SETTINGS)
        users = [f"user{number:02d}" for number in range(_USERS)]
        self._ledger = Ledger(users, ["news", "talk"])
        self._load = Load(self.node.url, self._ledger, rng, workers=_WORKERS)
        self._people = users[:people]
        self._phones = [
            Phone(
                user,
                index,
                _DEVICES,
                place,
                self.node.url,
                skew_us=_SKEWS_US[index],
                fragile=index == _DEVICES - 1,
            )
            for user in self._people
            for index in range(_DEVICES)
        ]

    async def run(self, seconds: float) -> None:
        """Raises :class:`BenchError` when the node doesn't come back."""
        try:
            self.node.start()
            await asyncio.to_thread(self.node.wait_ready)
            await self._load.set_up()
            await self._suffer(seconds)
            await wait_drained(self.node.data, _SHARDS, _DRAINED_S)
            await asyncio.to_thread(self._compare)
        finally:
            for phone in self._phones:
                phone.kill()
            await asyncio.to_thread(self.node.close)
        self._judge_boxes()
        for phone in self._phones:
            phone.count_syncs()
            self.tally.faults.take(phone.faults)
            self.tally.counts += phone.counts
        self.tally.counts += self._load.counts
        self.tally.counts["acknowledged"] = self._ledger.acknowledged
        self.tally.counts["deliveries"] = self._ledger.deliveries
        self.tally.faults.take(self._load.faults)

    async def _suffer(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        loading = asyncio.create_task(self._load.run())
        for phone in self._phones:
            phone.start()
        tasks = [
            asyncio.create_task(act(deadline)) for act in (self._use, self._kill_clients, self._kill_node, self._damage)
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            self._load.finish()
            await asyncio.wait_for(loading, _FINISHED_S)

    async def _use(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            phone = self._rng.choice(self._phones)
            await asyncio.to_thread(phone.use, self._rng)
            await asyncio.sleep(self._rng.uniform(0, 0.1))

    async def _kill_clients(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            await asyncio.sleep(self._rng.uniform(0.1, 2))
            phone = self._rng.choice(self._phones)
            await asyncio.to_thread(phone.kill)
            phone.start()

    async def _kill_node(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            await asyncio.sleep(min(self._rng.uniform(1, 12), max(0.0, deadline - time.monotonic())))
            kind = self._rng.choice(KINDS)
            who = self.node.kill(kind, self._rng)
            if not who:
                continue  # all of that kind are dead from the last blow
            self.tally.kills[who.partition("-")[0]] += 1
            if kind in ("supervisor", "all"):
                await asyncio.sleep(self._rng.choice((0, 0.2, 1)))
                self.node.start()
                await asyncio.to_thread(self.node.wait_ready)

    async def _damage(self, deadline: float) -> None:
        fragile = [phone for phone in self._phones if phone.fragile]
        while time.monotonic() < deadline:
            await asyncio.sleep(self._rng.uniform(0.5, 4))
            phone = self._rng.choice(fragile)
            with contextlib.suppress(FileNotFoundError, ValueError):  # the client is at it as well
                await asyncio.to_thread(phone.damage, self._rng)

    # -- the judgement -----------------------------------------------------------------------------

    def _compare(self) -> None:
        """Everything is quiet, and the node runs: all devices sync to the end, and are compared with it."""
        for phone in self._phones:
            phone.kill()
        for phone in [*self._phones, *self._phones]:  # the second time each hears what the others said
            phone.sync()
        with httpx.Client(base_url=self.node.url, timeout=60, trust_env=False) as http:
            for user in self._people:
                check = http.get(f"/api/v3/sync/{user}/check").raise_for_status()
                checksum = msgspec.json.decode(check.content, type=SyncCheck).server_checksum
                statuses = _statuses(http, user)
                for phone in self._phones:
                    if phone.user == user:
                        found = checksum_of(phone.directory / "messages.db")
                        phone.judge(checksum, found, statuses, phone.messages())
                        self.tally.counts["copies compared"] += 1

    def _judge_boxes(self) -> None:
        self.tally.faults.take(self._ledger.judge(kill_boxes.elsewhere(self.node.data)))
        if (words := kill_boxes.doctor(self.node.data)) is not None:
            self.tally.faults.say(f"pobox doctor: {words}")


def _statuses(http: httpx.Client, user: str) -> dict[str, Row]:
    """All that the node knows of a person's messages."""
    found: dict[str, Row] = {}
    since: str | None = None
    more = True
    while more:
        params: dict[str, str | int] = {"limit": _PAGE}
        if since is not None:
            params["since"] = since
        answer = http.get(f"/api/v3/sync/{user}/read-status", params=params).raise_for_status()
        page = msgspec.json.decode(answer.content, type=ReadStatus)
        for status in page.statuses:
            by = status.read_device if status.read_at else None
            found[status.message_id] = (status.read_at or "", by, status.archived_at, status.starred_at)
        since, more = page.since, page.more
    return {id: row for id, row in found.items() if any(row)}


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(counts.items()) if number)


@click.command()
@click.option("--seconds", type=click.FloatRange(1), default=60.0, show_default=True, help="Of load and kills.")
@click.option("--people", type=click.IntRange(1, _USERS), default=4, show_default=True, help="With devices.")
@click.option("--seed", type=int, help="The same seed makes the same choices; the moments are the machine's.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Where, instead of a temporary place.")
def main(seconds: float, people: int, seed: int | None, data: Path | None) -> None:
    """Sync devices under load and kills; exit code 1 with the evidence if anything differs in the end."""
    unwind_on_sigterm()
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="pobox-devices-", dir=data))
    click.echo(f"seed {seed}, data in {place}")
    campaign = Campaign(place, people, random.Random(seed))
    tally = campaign.tally
    try:
        asyncio.run(campaign.run(seconds))
    except BenchError as error:
        tally.faults.say(str(error))
    click.echo(f"done: {_listed(tally.counts)}")
    click.echo(f"of the node were killed: {_listed(tally.kills)}")
    for words in tally.faults.words:
        click.echo(f"FAULT {words}", err=True)
    faults = tally.faults
    click.echo(f"{tally.counts['copies compared']} copies compared, {faults.wrong} wrong, {faults.lost} lost")
    if faults:
        click.echo(f"the evidence is in {place}", err=True)
        sys.exit(1)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
