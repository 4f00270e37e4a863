"""``python -m loadtest.kill``: kill a node again and again under load; nothing may be lost or doubled.

A cycle is some load and a kill, mostly when much was acknowledged a moment ago that can't be in its
boxes yet, sometimes with a second one while the first is mended. Meanwhile people are moved from one shard to another;
the command that does it may be killed as well.
Every few cycles the node drains and stops, and another process reads every box. A data directory serves
for a round of cycles, each round with other settings (few open boxes, short logs, rare barriers), so
that checkpoints, evictions and purges are under way when the blow comes.
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
from subprocess import DEVNULL

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtest import kill_boxes
from loadtest.children import python, unwind_on_sigterm
from loadtest.errors import BenchError
from loadtest.kill_ledger import Faults, Ledger
from loadtest.kill_load import Load
from loadtest.kill_node import KINDS, READY_S, Victim, wait_drained

_USERS, _CHANNELS = 120, 6
_SECOND_BLOW = 0.3
_ABSENT_S = 0.05
_AFTER_A_FLOOD, _FLOOD_S = 0.7, 3.0
_DRAINED_S = 120.0
_FINISHED_S = 120.0
_RECEIPTS_MAX = 500
_SETTINGS = {
    "POBOX_SHARD_MAILBOXES_OPEN_MAX": (16, 16, 40, 8192),
    "POBOX_SHARD_WAL_PAGES_MAX": (16, 64, 512),
    "POBOX_SHARD_BARRIER_S": (0.1, 0.5, 5),
    "POBOX_SHARD_GATHER_MAX_S": (0, 0.5, 3),
    "POBOX_SHARD_POSTMEN": (1, 10),
    "POBOX_SHARD_WINDOW_LETTERS": (1, 100, 500_000),
    "POBOX_SHARD_QUOTA_BYTES": (0, 10**12),  # nobody reaches it, but boxes count
}


@dataclass
class Plan:
    cycles: int
    seconds: float
    """of load, a cycle"""
    shards: int
    routers: int
    seed: int
    verify_every: int
    round_cycles: int
    data: Path
    """a new directory; each round has one of its own in it"""


@dataclass
class Tally:
    """What has happened so far, over all rounds."""

    cycles: int = 0
    acknowledged: int = 0
    deliveries: int = 0
    verified: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    faults: Faults = field(default_factory=Faults)

    def closing_line(self) -> str:
        wrong = f", {self.faults.wrong} wrong" if self.faults.wrong else ""
        return (
            f"{self.cycles} cycles, {self.acknowledged} acknowledged, {self.faults.lost} lost, "
            f"{self.faults.doubled} doubled{wrong}"
        )


class Round:
    """Some cycles on one data directory."""

    def __init__(self, plan: Plan, number: int, tally: Tally) -> None:
        self._plan = plan
        self._tally = tally
        self._rng = random.Random(f"{plan.seed}/{number}")
        environ = {name: str(self._rng.choice(values)) for name, values in _SETTINGS.items()}
        self.data = plan.data / f"round-{number}"
        self.node = Victim(self.data, shards=plan.shards, routers=plan.routers, environ=environ)
        users = [f"user{number:03d}" for number in range(_USERS)]
        self._ledger = Ledger(users, [f"channel{number}" for number in range(_CHANNELS)])
        self._load = Load(self.node.url, self._ledger, self._rng)
        self._turns: list[str] = []
        self._counted: Counter[str] = Counter()

    async def run(self, cycles: int) -> None:
        """Raises :class:`BenchError` when the node doesn't come back."""
        try:
            await self._start()
            await self._load.set_up()
            for cycle in range(1, cycles + 1):
                await self._cycle()
                self._tally.cycles += 1
                if cycle % self._plan.verify_every == 0 or cycle == cycles:
                    await self._verify()
                    if self._tally.faults or cycle == cycles:
                        return
                    await self._start()
        finally:
            await asyncio.to_thread(self.node.close)

    async def _cycle(self) -> None:
        rng = self._rng
        loading = asyncio.create_task(self._load.run())
        moving = asyncio.create_task(self._move_people())
        began = time.monotonic()
        await asyncio.sleep(rng.uniform(0.1, self._plan.seconds))
        if rng.random() < _AFTER_A_FLOOD:
            await self._flood()
        await self._blow(self._kind())
        if rng.random() < _SECOND_BLOW:
            await asyncio.sleep(rng.uniform(0, 1.5))
            await self._blow(rng.choice(KINDS))
        await asyncio.sleep(max(0.0, began + self._plan.seconds - time.monotonic()))
        self._load.finish()
        moving.cancel()
        await asyncio.wait([moving])
        try:
            await asyncio.wait_for(loading, _FINISHED_S)
        except TimeoutError:
            self._load.faults.say(f"a request was not answered in {_FINISHED_S:.0f} s; log: {self.node.log}")
        self._count()

    async def _move_people(self) -> None:
        """One after the other, until cancelled: then the command is killed, wherever it is."""
        rng = random.Random(self._rng.random())
        while self._plan.shards > 1:
            await asyncio.sleep(rng.uniform(0, 0.5))
            user, shard = rng.choice(self._ledger.users), rng.randrange(self._plan.shards)
            command = python("node", "move", user, "--shard", str(shard), "--data", str(self.data))
            process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)
            try:
                code = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    self._tally.kills["coordinator"] += 1
            self._tally.counts["moved"] += code == 0

    async def _flood(self) -> None:
        """Until much has just been acknowledged, and a little longer."""
        self._load.flooded.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._load.flooded.wait(), _FLOOD_S)
        await asyncio.sleep(self._rng.uniform(0, 0.3))

    def _kind(self) -> str:
        """Each has its turn, in an order of chance."""
        self._turns = self._turns or self._rng.sample(KINDS, len(KINDS))
        return self._turns.pop()

    async def _blow(self, kind: str) -> None:
        deadline = time.monotonic() + READY_S
        while not (who := self.node.kill(kind, self._rng)):
            if time.monotonic() > deadline:
                raise BenchError(f"no {kind} has come back in {READY_S:.0f} s; log: {self.node.log}")
            await asyncio.sleep(_ABSENT_S)  # all of that kind are dead from the last blow
        self._tally.kills[who.partition("-")[0]] += 1
        if kind in ("supervisor", "all"):
            await asyncio.sleep(self._rng.choice((0, 0, 0.2, 1)))
            await self._start()

    async def _start(self) -> None:
        self.node.start()
        await asyncio.to_thread(self.node.wait_ready)

    def _count(self) -> None:
        tally, ledger = self._tally, self._ledger
        new = Counter(self._load.counts)
        new["acknowledged"], new["deliveries"] = ledger.acknowledged, ledger.deliveries
        tally.acknowledged += new["acknowledged"] - self._counted["acknowledged"]
        tally.deliveries += new["deliveries"] - self._counted["deliveries"]
        for what in self._load.counts:
            tally.counts[what] += new[what] - self._counted[what]
        self._counted = new
        tally.faults.take(self._load.faults)
        self._load.faults = Faults()

    async def _verify(self) -> None:
        """Every box, read by another process after an orderly stop; the receipts before it, the doctor after."""
        await wait_drained(self.data, self._plan.shards, _DRAINED_S)
        await self._load.ask_receipts(_RECEIPTS_MAX)
        await asyncio.to_thread(self.node.stop)
        faults = await asyncio.to_thread(lambda: self._ledger.judge(kill_boxes.elsewhere(self.data)))
        if (words := await asyncio.to_thread(kill_boxes.doctor, self.data)) is not None:
            faults.say(f"pobox doctor: {words}")
        if leftovers := self.node.leftovers():
            faults.say(f"processes are left over: {leftovers}")
        self._count()
        self._tally.faults.take(faults)
        self._tally.verified += 1


class Screen:
    """The tally, live on a terminal; elsewhere a line now and then."""

    def __init__(self, plan: Plan, tally: Tally) -> None:
        self._plan = plan
        self._tally = tally
        self._began = time.monotonic()
        self._console = Console(stderr=True)
        self._said = 0

    def __rich__(self) -> Table:
        tally = self._tally
        table = Table(show_header=False, title=f"seed {self._plan.seed}", title_justify="left")
        table.add_row("cycles", f"{tally.cycles} of {self._plan.cycles} in {time.monotonic() - self._began:.0f} s")
        table.add_row("killed", _listed(tally.kills))
        table.add_row("done", _listed(tally.counts))
        table.add_row("acknowledged", f"{tally.acknowledged} messages, {tally.deliveries} deliveries")
        table.add_row("boxes compared", f"{tally.verified} times")
        faults = f"{tally.faults.lost} lost, {tally.faults.doubled} doubled, {tally.faults.wrong} wrong"
        table.add_row("faults", faults, style="bold red" if tally.faults else "green")
        return table

    async def show(self) -> None:
        """Until cancelled."""
        if not self._console.is_terminal:
            while True:
                await asyncio.sleep(1)
                if self._tally.cycles > self._said:
                    self._said = self._tally.cycles
                    self._console.print(f"{self._said}/{self._plan.cycles}: {_listed(self._tally.kills)} killed")
        with Live(self, console=self._console, refresh_per_second=2):
            await asyncio.Event().wait()


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(counts.items()) if number)


async def campaign(plan: Plan) -> Tally:
    """All rounds, until one finds something; what was found is in the tally, and its data is kept."""
    tally = Tally()
    showing = asyncio.create_task(Screen(plan, tally).show())
    number = 0
    try:
        while tally.cycles < plan.cycles and not tally.faults:
            number += 1
            this = Round(plan, number, tally)
            try:
                await this.run(min(plan.round_cycles, plan.cycles - tally.cycles))
            except BenchError as error:
                tally.faults.say(str(error))
            if not tally.faults:
                await asyncio.to_thread(shutil.rmtree, this.data)
                this.node.log.unlink()
    finally:
        showing.cancel()
        await asyncio.wait([showing])
    return tally


@click.command()
@click.option("--cycles", type=click.IntRange(1), default=20, show_default=True)
@click.option("--seconds-per-cycle", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Of load.")
@click.option("--shards", type=click.IntRange(1), default=2, show_default=True)
@click.option("--routers", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seed", type=int, help="The same seed makes the same choices; the moments are the machine's.")
@click.option("--verify-every", type=click.IntRange(1), default=5, show_default=True, help="Cycles.")
@click.option("--round-cycles", type=click.IntRange(1), default=40, show_default=True, help="On one data directory.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Where, instead of a temporary place.")
def main(
    cycles: int,
    seconds_per_cycle: float,
    shards: int,
    routers: int,
    seed: int | None,
    verify_every: int,
    round_cycles: int,
    data: Path | None,
) -> None:
    """Kill a node under load, again and again; exit code 1 with the evidence if anything is lost or doubled."""
    unwind_on_sigterm()
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="pobox-kill-", dir=data))
    click.echo(f"seed {seed}, data in {place}")
    plan = Plan(cycles, seconds_per_cycle, shards, routers, seed, verify_every, round_cycles, place)
    tally = asyncio.run(campaign(plan))
    click.echo(f"done: {_listed(tally.counts)}")
    click.echo(f"killed: {_listed(tally.kills)}; {tally.deliveries} deliveries, compared {tally.verified} times")
    for words in tally.faults.words:
        click.echo(f"FAULT {words}", err=True)
    click.echo(tally.closing_line())
    if tally.faults:
        click.echo(f"the evidence is in {place}", err=True)
        sys.exit(1)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
