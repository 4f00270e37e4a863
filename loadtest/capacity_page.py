"""docs/capacity.md: what was measured, what follows for eight cores, and why. Pure.

The extrapolation is the law of the shared-nothing design with a little less faith: shards share no lock, no memory
and no file, so their throughput adds up, but for what they do share (the disk's flush, a router's frames, the
kernel). The universal scalability law puts that into one number, sigma; what it is on eight cores nobody has
measured, so a range is given: from nothing shared to a cautious five percent.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from loadtest.figures import number
from node.config import Shard

CORES = 8
BOXES_OPEN = Shard().mailboxes_open_max
SIGMA = 0.05


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    users: int
    postmen: int
    """of the whole node"""
    queue: int
    """letters times targets that may wait, of the whole node"""
    stored_rate: float
    """user-messages a second"""
    answer_ms: float
    """99 % of the answers, refusals among them"""
    rss_mib: float
    """the most of all processes of the node together"""


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """CPU microseconds, user and system: a message to one user, and a user-message of one to a hundred."""

    router_us: float
    shard_us: float
    router_hundred_us: float
    shard_hundred_us: float


def scaled(cores: float, sigma: float) -> float:
    """How many times one core's throughput ``cores`` have, by the universal scalability law without crosstalk."""
    return cores / (1 + sigma * (cores - 1))


def split(router_us: float, shard_us: float, cores: int = CORES) -> tuple[int, int]:
    """(routers, shards): ``cores`` divided as the work is, at least one each."""
    routers = min(cores - 1, max(1, round(cores * router_us / (router_us + shard_us))))
    return routers, cores - routers


def extrapolated(router_us: float, shard_us: float, sigma: float, cores: int = CORES) -> float:
    """Messages a second that ``cores`` have time for: what the busier side has, routers or shards."""
    routers, shards = split(router_us, shard_us, cores)
    alone = min(routers * 1e6 / router_us, shards * 1e6 / shard_us)
    return alone * scaled(cores, sigma) / cores


_PAGE = """# Capacity

Written by `python -m loadtest.capacity`; run it on your machine.

## Measured

Machine: {machine}.
{stamp}. {shards} shards and one router; locust, with 48 clients who wait for their answers, on the same cores.
Letters of 600 B to 100 users each.

- *Postmen* are those of the whole node; each shard has its part, as `[shard] postmen` and `postmen_max`.
- *Queue* is how many deliveries (letters times targets) may wait in the whole node; each shard has its part, as
  `[shard] waiting_max`. Beyond it mail is refused, by priority.
- *Stored* are user-messages a second that reached their boxes while some were waiting.
- *Answer* is the 99th percentile, refusals among them. *Memory* is the most of all processes of the node together.

{table}

All {found:,} deliveries that were acknowledged are in their boxes, once: counted by another process after
the node had stopped.

All postmen of a shard share its loop: more of them only keep more boxes in the opening at once. Room for more waiting
mail lets more of it be written in one go, and some of it wait longer. Where all boxes fit into `mailboxes_open_max`
({boxes_open:,} a shard) they were open when a cell began. Of more users a shard opens boxes while it delivers, and
closes others for them; what that costs is in the rows with many more users.

## Extrapolated to eight cores

Not measured. What it rests on is: CPU time, user and system, counted by the kernel until all was stored, of as many
messages as those 48 clients got accepted.

| | router | shard | {cores} cores: routers + shards | a second |
|---|---:|---:|---:|---:|
{one}
{hundred}

Why shards add up: a slot belongs to one shard; shards share no lock, no memory and no file, and routers keep nothing.
So n of them have n times the time of one. What they do share is the disk (one `fdatasync` for a group of letters, one
`syncfs` for all boxes) and the kernel. The universal scalability law calls that share sigma. The upper figure has
none; the lower has {sigma:.0%}, which on {cores} cores costs {loss:.0%}; what it really is nobody has measured.

What speaks against the figure: a letter to users of all shards costs each of them a frame and a row, whatever the
number of its targets there, so with more shards a letter to many costs more. What speaks for more: where
locust takes no core from the node, groups and transactions are larger, and a message costs less in them.
"""


def page(cells: Sequence[Cell], costs: Costs, *, found: int, shards: int, machine: str, stamp: str) -> str:
    """The whole page."""
    return _PAGE.format(
        machine=machine,
        stamp=stamp,
        shards=shards,
        boxes_open=BOXES_OPEN,
        table=_table(cells),
        found=found,
        cores=CORES,
        one=_costs_row("to one user", costs.router_us, costs.shard_us),
        hundred=_costs_row("to 100 users, a user-message", costs.router_hundred_us, costs.shard_hundred_us),
        sigma=SIGMA,
        loss=1 - scaled(CORES, SIGMA) / CORES,
    )


def _table(cells: Sequence[Cell]) -> str:
    lines = ["| users | postmen | queue | stored | answer | memory |", "|---:|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {cell.users:,} | {cell.postmen} | {cell.queue:,} | {number(cell.stored_rate)} /s | "
        f"{number(cell.answer_ms)} ms | {number(cell.rss_mib)} MiB |"
        for cell in cells
    ]
    return "\n".join(lines)


def _costs_row(label: str, router_us: float, shard_us: float) -> str:
    routers, shards = split(router_us, shard_us)
    low, high = (extrapolated(router_us, shard_us, sigma) for sigma in (SIGMA, 0.0))
    return (
        f"| {label} | {number(router_us)} µs | {number(shard_us)} µs | {routers} + {shards} | "
        f"{_rounded(low):,} to {_rounded(high):,} |"
    )


def _rounded(rate: float) -> int:
    """Two digits: more would be a claim."""
    unit: int = 10 ** max(0, len(str(int(rate))) - 2)
    return round(rate / unit) * unit
