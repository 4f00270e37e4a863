"""``make bench``: measure the node beside its peers, say what was wanted, write it down.

Only wires: each bench is a function of the settings that returns a result. A bench that can't be
trusted (something refused, lost, or not stored) fails the run; a figure that is missed does not,
it is marked as missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from loadtest import channel, costs, deliveries, growth, machine, memory, report, syncing
from loadtest.children import ROOT, unwind_on_sigterm
from loadtest.errors import BenchError
from loadtest.figures import Result
from loadtest.settings import Settings

BENCHES: dict[str, Callable[[Settings], Result]] = {
    "one": deliveries.one,
    "hundred": deliveries.hundred,
    "accept": deliveries.accept,
    "channel": channel.channel,
    "memory": memory.memory,
    "growth": growth.growth,
    "check": syncing.check,
    "download": syncing.download,
    "delta": syncing.delta,
    "snapshot": syncing.snapshot,
    "crowd": syncing.crowd,
    "profile": costs.profile,
}


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(BENCHES)), help="Run this one; may be repeated.")
@click.option("--seconds", type=click.FloatRange(1), default=10, show_default=True, help="Of load, a turn.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns of each subject.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Default: build/bench.")
@click.option("--write", type=click.Path(path_type=Path, dir_okay=False), help="Write the results into this page.")
@click.option("--shards", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--routers", type=click.IntRange(1), default=2, show_default=True, help="The peer gets as many processes."
)
@click.option("--connections", type=click.IntRange(1), default=128, show_default=True)
@click.option("--members", type=click.IntRange(1), default=100_000, show_default=True, help="Of the channel.")
def main(
    only: tuple[str, ...],
    seconds: float,
    rounds: int,
    data: Path | None,
    write: Path | None,
    shards: int,
    routers: int,
    connections: int,
    members: int,
) -> None:
    """Measure pobox beside PostgreSQL and beside the floor, in turns on this machine."""
    unwind_on_sigterm()
    console = Console()
    if not console.is_terminal:
        console.width = 140
    settings = Settings(
        data=(data or ROOT / "build" / "bench").resolve(),
        seconds=seconds,
        rounds=rounds,
        shards=shards,
        routers=routers,
        connections=connections,
        members=members,
    )
    settings.data.mkdir(parents=True, exist_ok=True)
    preface, facts = machine.describe(), machine.facts(settings.data)
    console.print(f"Machine: {facts}. {preface}", highlight=False)
    failed = []
    for name in only or tuple(BENCHES):
        try:
            result = BENCHES[name](settings)
        except BenchError as error:
            failed.append(name)
            console.print(f"{name} FAILED: {error}", style="bold red", markup=False)
            continue
        console.print(report.table(result))
        for note in result.notes:
            console.print(f"  {note}", markup=False)
        if write is not None:
            stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {rounds} rounds of {seconds:g} s; {facts}"
            sections = {name: report.section(result, stamp=stamp)}
            report.write(write, preface=preface, sections=sections, order=list(BENCHES))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
