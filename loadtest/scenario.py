"""``python -m loadtest.scenario NAME``: a node, a load by locust, a count of what was stored, a verdict.

Only wires. A fresh node with its own data is started on a free port, unless ``--host`` names one that runs; then what
was stored is counted over its API. Exit code 1 if anything that is wanted of the scenario was missed.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import httpx
import msgspec
from rich.console import Console

from loadtest import load, machine, report, rounds, traffic
from loadtest.children import ROOT, unwind_on_sigterm
from loadtest.errors import BenchError
from loadtest.figures import Result
from loadtest.scenarios import addressing, running, tally, verdict
from loadtest.scenarios.catalogue import SCENARIOS, Scenario, maximum_phases, overload_phases
from loadtest.scenarios.plan import Phase, Plan
from loadtest.scenarios.verdict import Figures
from loadtest.scenarios.watching import Watcher
from loadtest.subjects import PoboxNode, divided, pobox

CHANNEL = "everybody"
_DRAIN_LIMIT_S = 600.0
_REQUESTS_A_PROCESS = 1_500.0
"""a second, from one locust process on an ordinary core, with some room to spare"""
_OVERLOAD_RUN = 1_000_000_000
"""letters of the second run are numbered from here, those of the third from twice as much"""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says about a run."""

    place: Path
    """an empty directory for everything"""
    shards: int = 2
    routers: int = 1
    postmen: int | None = None
    """of the whole node; None: as many as it thinks right"""
    processes: int | None = None
    host: str | None = None
    record: Path | None = None
    members: Path | None = None
    messages_max: int = 20_000
    members_max: int = 50
    paced: bool = True
    """a recording keeps its rhythm; else it is sent evenly"""
    pace: float | None = None
    """how many times faster than it was recorded; None: so that it fills the scenario's seconds"""


class Subject:
    """What is loaded: a node of our own, or one that runs elsewhere."""

    def __init__(self, url: str, node: PoboxNode | None) -> None:
        self.url = url
        self.node = node

    def watcher(self) -> Watcher:
        """Of the node's processes; of none if it isn't ours."""
        node = self.node
        return Watcher(lambda: [] if node is None else node.processes())

    def drain(self) -> None:
        """Wait until nothing waits. Of a node that isn't ours nobody knows: each read of a box delivers first what
        waits for it."""
        if self.node is not None:
            self.node.rest(limit_s=_DRAIN_LIMIT_S)

    def count(self, plan_path: Path) -> tally.Tally:
        """What lies in the boxes; a node of our own is stopped for it."""
        if self.node is None:
            return tally.elsewhere(plan_path, data=None)
        self.node.stop()
        return tally.elsewhere(plan_path, data=self.node.data)


def cores_apart() -> tuple[list[int], list[int]] | None:
    """Cores for the node and cores for locust; None if there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    split = math.ceil(len(cores) / 2)
    return cores[:split], cores[split:]


@contextlib.contextmanager
def subject(scenario: Scenario, options: Options, cpus: list[int] | None) -> Iterator[Subject]:
    """Start what is to be loaded; each shard gets its part of what is said of the whole node."""
    if options.host is not None:
        yield Subject(options.host.rstrip("/"), None)
        return
    environ = divided(options.shards, postmen=options.postmen, waiting_max=scenario.waiting_max)
    with pobox(options.place, shards=options.shards, routers=options.routers, environ=environ, cpus=cpus) as node:
        yield Subject(node.url, node)


def prepare(url: str, this: Plan, letters: int) -> None:
    """Make the boxes, with so many letters in each, and channels that the plan needs."""
    members = {CHANNEL: load.users(this.users)} if this.channel else {}
    if this.recorded is not None:
        members = msgspec.json.decode(addressing.members_path(this.recorded).read_bytes(), type=dict[str, list[str]])
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        for channel, users in members.items():
            client.put(f"/api/v3/channels/{channel}", json={"name": channel}).raise_for_status()
            for names in load.portions(users):
                client.post(f"/api/v3/channels/{channel}/members", json={"add": names}).raise_for_status()
    if not members:
        rounds.fill(url, this.users, letters, content="x" * this.body_bytes)


def prepare_recording(options: Options) -> Path:
    """What is to be replayed, as locust takes it; made-up traffic if no recording was named."""
    record, members = options.record, options.members
    if record is None or members is None:
        traffic.write(options.place, traffic.Traffic(users=1_000, channels=8, seed=1), options.messages_max)
        record, members = options.place / "traffic.ndjson.gz", options.place / "members.json"
    prepared = options.place / "replay"
    prepared.mkdir()
    return addressing.prepare(
        record, members, prepared, messages_max=options.messages_max, members_max=options.members_max
    )


def of_recording(scenario: Scenario, options: Options, recorded: Path) -> Scenario:
    """``scenario`` with the seconds and the rate that the recording has at its pace; raises :class:`BenchError` if it
    has none."""
    if not options.paced:
        return msgspec.structs.replace(scenario, title="recorded traffic, {rate} messages a second")
    times = addressing.times_of(addressing.letters_of(str(recorded)))
    if not times:
        raise BenchError("the recording is empty")
    if options.pace is not None:
        if not (span_s := times[-1] - times[0]):
            raise BenchError("the recording is of one moment, so it has no pace; --seconds says how long it takes")
        title = f"recorded traffic, {options.pace:,.10g} times as fast as it was recorded"
        scenario = msgspec.structs.replace(scenario, title=title, seconds=span_s / options.pace)
    return msgspec.structs.replace(scenario, rate=len(times) / scenario.seconds)


def make_plan(
    scenario: Scenario, options: Options, url: str, phases: list[Phase], *, recorded: Path | None = None
) -> Plan:
    """What locust is told, but for how many processes it takes."""
    ledger = options.place / "ledger"
    ledger.mkdir()
    return Plan(
        run=secrets.token_hex(4),
        url=url,
        ledger=str(ledger),
        phases=phases,
        users=scenario.users,
        fan=scenario.fan,
        lines=scenario.lines,
        channel=CHANNEL if scenario.channel else None,
        recorded=None if recorded is None else str(recorded),
        paced=recorded is not None and options.paced,
        priorities=scenario.priorities,
        reads=scenario.reads,
        checks=scenario.checks,
    )


def with_processes(this: Plan, options: Options, cpus: list[int] | None) -> Plan:
    """``this`` with as many processes of locust as its requests a second take, one for each core at most.

    ``cpus``: those that locust has to itself, if it has. How much clients who wait will ask for nobody knows before:
    they get all of those.
    """
    most = len(cpus or os.sched_getaffinity(0))
    if cpus is not None and any(phase.clients for phase in this.phases):
        needed = most
    else:
        needed = math.ceil(max(phase.rate for phase in this.phases) / this.lines / _REQUESTS_A_PROCESS)
    return msgspec.structs.replace(this, processes=options.processes or max(1, min(most, needed)))


def _say(console: Console, words: str) -> None:
    console.print(words, style="dim", highlight=False)


def ordinary(name: str, scenario: Scenario, options: Options, console: Console) -> Result:
    """One open phase, then the count."""
    recorded = prepare_recording(options) if scenario.recorded else None
    if recorded is not None:
        scenario = of_recording(scenario, options, recorded)
    phase = Phase(name=name, seconds=scenario.seconds, rate=scenario.rate)
    with subject(scenario, options, None) as target:
        this = with_processes(make_plan(scenario, options, target.url, [phase], recorded=recorded), options, None)
        _say(console, f"makes boxes for {this.users:,} people ...")
        prepare(target.url, this, scenario.letters_before)
        target.drain()
        _say(console, f"loads the node for {this.seconds:g} s ...")
        run = running.run(this, options.place / "locust", target.watcher(), console)
        target.drain()
        drained_s = max(0.0, time.time() - run.ended)
        _say(console, "counts what was stored ...")
        counted = target.count(run.prefix.with_suffix(".plan.json"))
    figures = verdict.of_phase(run, phase)
    if target.node is not None:
        figures |= {"all stored after, at most": (drained_s, "s")} | verdict.of_memory(run.node)
    return _judged(name, scenario, options, figures, run, counted)


def overload(name: str, scenario: Scenario, options: Options, console: Console) -> Result:
    """The maximum, from clients who wait; a multiple of it, on schedule; the maximum once more, of the fuller boxes."""
    apart = cores_apart() if scenario.apart and options.host is None else None
    ours, locusts = apart or (None, None)
    with subject(scenario, options, ours) as target:
        this = make_plan(scenario, options, target.url, maximum_phases(scenario.seconds))

        def carry_out(plan: Plan, name: str) -> running.Run:
            plan = with_processes(plan, options, locusts)
            carried_out = running.run(plan, options.place / name, target.watcher(), console, cpus=locusts)
            target.drain()
            return carried_out

        _say(console, f"makes boxes for {this.users:,} people ...")
        prepare(target.url, this, scenario.letters_before)
        target.drain()
        _say(console, f"finds out the maximum, in {this.seconds:g} s ...")
        before = carry_out(this, "maximum")
        rate = verdict.maximum_rate([before])
        if not rate:
            raise BenchError("nothing was accepted, so there is no maximum to exceed")
        phases = overload_phases(scenario.seconds, scenario.rate)
        seconds = sum(phase.seconds for phase in phases)
        _say(console, f"{rate * scenario.fan:,.0f} user-messages a second; exceeds that, {seconds:g} s in all ...")
        more = running.with_rates(msgspec.structs.replace(this, phases=phases, first=_OVERLOAD_RUN), rate)
        run = carry_out(more, "locust")
        _say(console, f"finds out the maximum of the fuller boxes, in {this.seconds:g} s ...")
        after = carry_out(msgspec.structs.replace(this, first=2 * _OVERLOAD_RUN), "maximum-after")
        _say(console, "counts what was stored ...")
        counted = target.count(run.prefix.with_suffix(".plan.json"))
    figures = verdict.of_overload([before, after], run, targets=scenario.fan)
    began = run.began("overload")
    figures |= verdict.of_memory([s for s in run.node if began is None or 0 <= s.at - began < scenario.seconds])
    return _judged(name, scenario, options, figures, run, counted)


def _judged(
    name: str, scenario: Scenario, options: Options, figures: Figures, run: running.Run, counted: tally.Tally
) -> Result:
    generator, warning = verdict.of_generator(run)
    figures |= verdict.of_boxes(counted) | generator
    notes = [*counted.words, *([warning] if warning else []), f"Report with plots: {run.prefix}.html"]
    how = f"{run.plan.seconds:g} s by locust, requests begun on schedule and timed from when they were due."
    return verdict.judge(name, scenario, how, figures, notes)


def run(name: str, scenario: Scenario, options: Options, console: Console) -> Result:
    """Carry out ``scenario``; raises :class:`BenchError` if there is nothing to judge."""
    return (overload if name == "overload" else ordinary)(name, scenario, options, console)


def changed(scenario: Scenario, **changes: float | None) -> Scenario:
    """``scenario`` with what was said on the command line."""
    return msgspec.structs.replace(scenario, **{key: value for key, value in changes.items() if value is not None})


def _refuse_contradictions(
    *,
    seconds: float | None,
    rate: float | None,
    lines: int | None,
    pace: float | None,
    even: bool,
    record: Path | None,
    members: Path | None,
) -> None:
    """Raise :class:`click.UsageError` if it isn't clear what is to be sent of a recording, and how fast."""
    if even and pace is not None:
        raise click.UsageError("--even sends at --rate, --pace at the recording's own: say one of them")
    if even and rate is None:
        raise click.UsageError("--even needs --rate: how many messages a second")
    if pace is not None and seconds is not None:
        raise click.UsageError("--pace says how long a recording takes, and so does --seconds: say one of them")
    if not even and (rate is not None or lines is not None):
        raise click.UsageError("--rate and --lines are for a recording that is sent --even")
    if (record is None) != (members is None):
        raise click.UsageError("--record and --members belong together: members are who is in each channel of it")


@click.command()
@click.argument("name", type=click.Choice(list(SCENARIOS)))
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Of the load.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Letters a second; of an overload, in units of the maximum.",
)
@click.option("--users", type=click.IntRange(1), help="Boxes.")
@click.option("--fan", type=click.IntRange(1), help="Users a letter.")
@click.option("--lines", type=click.IntRange(1), help="Letters a request.")
@click.option("--waiting-max", type=click.IntRange(1), help="Letters times targets that may wait, in the whole node.")
@click.option("--postmen", type=click.IntRange(2), help="Of the whole node.")
@click.option("--shards", type=click.IntRange(1), help="Default: 2, or one for each core that the node has to itself.")
@click.option("--routers", type=click.IntRange(1), default=1, show_default=True)
@click.option("--processes", type=click.IntRange(1), help="Of locust; by default as many as the rate takes.")
@click.option("--host", help="The URL of a node that runs already, instead of a fresh one.")
@click.option("--record", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="NDJSON, also .gz.")
@click.option("--members", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="JSON, by channel.")
@click.option("--messages-max", type=click.IntRange(1), default=20_000, show_default=True, help="Of the record.")
@click.option("--members-max", type=click.IntRange(1), default=50, show_default=True, help="Of each channel.")
@click.option("--pace", type=click.FloatRange(min=0, min_open=True), help="Of a record: 1 is its own, 2 twice that.")
@click.option("--even", is_flag=True, help="Send a record at --rate instead of at a pace.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Default: build/loadtest.")
@click.option("--keep", is_flag=True, help="Keep the data of the node.")
def main(
    name: str,
    seconds: float | None,
    rate: float | None,
    users: int | None,
    fan: int | None,
    lines: int | None,
    waiting_max: int | None,
    postmen: int | None,
    shards: int | None,
    routers: int,
    processes: int | None,
    host: str | None,
    record: Path | None,
    members: Path | None,
    messages_max: int,
    members_max: int,
    pace: float | None,
    even: bool,
    out: Path | None,
    keep: bool,
) -> None:
    """Load a node as scenario NAME says, count what it stored, and judge."""
    if SCENARIOS[name].recorded:
        _refuse_contradictions(
            seconds=seconds, rate=rate, lines=lines, pace=pace, even=even, record=record, members=members
        )
    elif even or pace is not None:
        raise click.UsageError(f"--pace and --even are for a recording; {name} has none")
    unwind_on_sigterm()
    console = Console()
    if not console.is_terminal:
        console.width = 120
    place = (out or ROOT / "build" / "loadtest").resolve() / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    place.mkdir(parents=True)
    scenario = changed(
        SCENARIOS[name], seconds=seconds, rate=rate, users=users, fan=fan, lines=lines, waiting_max=waiting_max
    )
    options = Options(
        place=place,
        shards=shards or (len(apart[0]) if scenario.apart and (apart := cores_apart()) else 2),
        routers=routers,
        postmen=postmen if postmen is not None else 10 if name == "steady" else None,
        processes=processes,
        host=host,
        record=record,
        members=members,
        messages_max=messages_max,
        members_max=members_max,
        paced=not even,
        pace=pace,
    )
    console.print(f"Machine: {machine.facts(place)}.", highlight=False)
    try:
        result = run(name, scenario, options, console)
    except BenchError as error:
        console.print(f"{name} FAILED: {error}", style="bold red", markup=False)
        sys.exit(1)
    console.print(report.table(result))
    for note in result.notes:
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)
    if verdict.is_sound(result) and not keep:
        shutil.rmtree(place / "node", ignore_errors=True)
    console.print("passed" if verdict.passed(result) else "MISSED", style="green" if verdict.passed(result) else "red")
    sys.exit(not verdict.passed(result))


if __name__ == "__main__":
    main()
