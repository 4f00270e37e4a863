"""``python -m loadtest.capacity``: how much is stored a second, by users, postmen and room for waiting mail.

Each cell is a node of its own settings on boxes that stay from cell to cell, loaded for a few seconds by clients who
wait for their answers; what was acknowledged is counted in the boxes after the last cell of each number of users.
What a message costs router and shard is measured beside it, for what can't be measured: more cores.
"""

from __future__ import annotations

import math
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import click
from rich.console import Console

from loadtest import machine, rounds
from loadtest.capacity_page import BOXES_OPEN, Cell, Costs, page
from loadtest.children import ROOT, unwind_on_sigterm
from loadtest.errors import BenchError
from loadtest.looking import looking
from loadtest.scenarios import running, tally
from loadtest.scenarios.names import Outcome
from loadtest.scenarios.plan import Phase, Plan
from loadtest.scenarios.watching import Watcher
from loadtest.subjects import PoboxNode, divided, pobox

_FAN = 100
_CLIENTS = 48
_PORTION = 10_000
_LOOK_S = 0.2
_LIMIT_S = 600.0


class Stored:
    """How many user-messages the node has stored, looked at a few times a second while it has some to store."""

    def __init__(self, node: PoboxNode) -> None:
        self._node = node
        self._looks: list[tuple[float, int]] = []

    @contextmanager
    def watching(self) -> Iterator[Stored]:
        with looking(self._look, every_s=_LOOK_S):
            yield self

    def _look(self) -> None:
        try:
            states = self._node.states()
        except BenchError:  # too busy to say; it will be asked again
            return
        if any(state.waiting for state in states):
            self._looks.append((time.monotonic(), sum(state.stored for state in states)))

    @property
    def rate(self) -> float:
        """User-messages a second while there were some; NaN if there hardly were."""
        if len(self._looks) < 2:
            return math.nan
        (first_s, first), (last_s, last) = self._looks[0], self._looks[-1]
        return (last - first) / (last_s - first_s)


def _greet(node: PoboxNode, users: int) -> None:
    """One letter to each of ``users``; they have it when this returns."""
    rounds.greet(node.url, users)
    node.rest(limit_s=_LIMIT_S)


class Level:
    """All cells of one number of users, on the same boxes in ``base``."""

    def __init__(self, base: Path, users: int, shards: int, console: Console) -> None:
        self._base, self._users, self._shards, self._console = base, users, shards, console
        self._run = secrets.token_hex(4)
        self._ledger = base / "ledger"
        self._ledger.mkdir(parents=True)
        self._number = 0
        self._plan_path: Path | None = None
        with pobox(base, shards=shards, routers=1) as node:
            _greet(node, users)

    def cell(self, postmen: int, queue: int, seconds: float) -> Cell:
        """Load a node of these settings."""
        phase = Phase(name="maximum", seconds=seconds, clients=_CLIENTS)
        settings = divided(self._shards, postmen=postmen, waiting_max=queue)
        with pobox(self._base, shards=self._shards, routers=1, environ=settings) as node:
            if self._users <= self._shards * BOXES_OPEN:  # as it would be on a node that has run for a while
                _greet(node, self._users)
            with Stored(node).watching() as stored:
                run = self._load(node, phase, fan=_FAN)
            node.rest(limit_s=_LIMIT_S)
            rss = max(sample.rss_mib for sample in run.node)
        answered_ms = run.rows.request_ms("maximum", "deliver", "99%")
        return Cell(
            users=self._users,
            postmen=postmen,
            queue=queue,
            stored_rate=stored.rate,
            answer_ms=math.nan if answered_ms is None else answered_ms,
            rss_mib=rss,
        )

    def costs(self, seconds: float) -> Costs:
        """What a message to one user, and a delivery of one to a hundred, cost each role."""
        used = []
        for fan in (1, _FAN):
            with pobox(self._base, shards=self._shards, routers=1) as node:
                _greet(node, self._users)  # boxes that are open: what opening them costs is paid once
                before = node.cpu_s()
                run = self._load(node, Phase(name="cost", seconds=seconds, clients=_CLIENTS), fan=fan)
                node.rest(limit_s=_LIMIT_S)
                after = node.cpu_s()
            sent = run.rows.letters("cost", Outcome.ACCEPTED)
            if not sent:
                raise BenchError("nothing was accepted")
            used.append({role: (after[role] - before[role]) * 1e6 / (sent * fan) for role in ("router", "shard")})
        one, hundred = used
        return Costs(
            router_us=one["router"],
            shard_us=one["shard"],
            router_hundred_us=hundred["router"],
            shard_hundred_us=hundred["shard"],
        )

    def count(self) -> tally.Tally:
        """What all cells had acknowledged; raises :class:`BenchError` unless it is there, once."""
        assert self._plan_path is not None
        counted = tally.elsewhere(self._plan_path, data=self._base / "node")
        if counted.lost or counted.doubled or counted.wrong:
            raise BenchError("; ".join(counted.words))
        return counted

    def _load(self, node: PoboxNode, phase: Phase, *, fan: int) -> running.Run:
        self._number += 1
        name = f"cell-{self._number}"
        ledger = self._ledger if fan == _FAN else self._base / "ledger-of-one"
        ledger.mkdir(exist_ok=True)
        plan = Plan(
            run=self._run if fan == _FAN else f"{self._run}1",
            url=node.url,
            ledger=str(ledger),
            phases=[phase],
            users=self._users,
            fan=fan,
            first=self._number * 1_000_000_000,
        )
        watcher = Watcher(node.processes)
        run = running.run(plan, self._base / name, watcher, self._console)
        if fan == _FAN:
            self._plan_path = (self._base / name).with_suffix(".plan.json")
        return run


def measure(
    place: Path,
    *,
    users: Sequence[int],
    postmen: Sequence[int],
    queues: Sequence[int],
    seconds: float,
    shards: int,
    console: Console,
) -> tuple[list[Cell], Costs, int]:
    """All cells, what a message costs, and how many deliveries were found to be there, once."""
    cells, costs, found = [], None, 0
    for number in users:
        base = place / f"users-{number}"
        level = Level(base, number, shards, Console(quiet=True))
        for crew, queue in product(postmen, queues):
            cells.append(level.cell(crew, queue, seconds))
            console.print(
                f"{number:,} users, {crew} postmen, queue {queue:,}: {cells[-1].stored_rate:,.0f} stored a second",
                highlight=False,
            )
        if costs is None and (number >= _PORTION or number == users[-1]):
            costs = level.costs(seconds)
        found += level.count().found
        shutil.rmtree(base)
    assert costs is not None
    return cells, costs, found


@click.command()
@click.option("--users", type=click.IntRange(1), multiple=True, default=(1_000, 10_000, 100_000), show_default=True)
@click.option("--postmen", type=click.IntRange(2), multiple=True, default=(4, 20, 100), show_default=True)
@click.option("--queue", type=click.IntRange(1), multiple=True, default=(1_000, 10_000, 50_000), show_default=True)
@click.option("--seconds", type=click.FloatRange(1), default=5, show_default=True, help="Of load, a cell.")
@click.option("--shards", type=click.IntRange(1), default=2, show_default=True)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Default: build/capacity.")
@click.option("--write", type=click.Path(path_type=Path, dir_okay=False), default=ROOT / "docs" / "capacity.md")
def main(
    users: tuple[int, ...],
    postmen: tuple[int, ...],
    queue: tuple[int, ...],
    seconds: float,
    shards: int,
    data: Path | None,
    write: Path,
) -> None:
    """Measure the capacity table, and write the page."""
    unwind_on_sigterm()
    console = Console()
    place = (data or ROOT / "build" / "capacity").resolve() / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    place.mkdir(parents=True)
    began = time.monotonic()
    try:
        cells, costs, found = measure(
            place, users=users, postmen=postmen, queues=queue, seconds=seconds, shards=shards, console=console
        )
    except BenchError as error:
        raise click.ClickException(f"{error} (evidence in {place})") from error
    stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {seconds:g} s a cell, {time.monotonic() - began:.0f} s in all"
    write.write_text(page(cells, costs, found=found, shards=shards, machine=machine.facts(place), stamp=stamp))
    shutil.rmtree(place)
    console.print(f"written: {write}", highlight=False)


if __name__ == "__main__":
    main()
