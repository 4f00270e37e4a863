"""``pobox top``: what the node is doing, from ``/metrics``, again and again until Ctrl-C.

``--once`` shows it one time and ends, for scripts: rates are those of one ``--interval``, and without a terminal the
cells of a line are parted by tabs.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Sequence

import click
import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from node.apiclient import Api, ApiError, said
from node.asking import Failures, server_option
from node.model import Alert, Alerts
from node.scrape import Between, Scrape
from node.show import printable
from node.shown import authorization, shown_key, trust

_TIMEOUT_S = 10.0
_LANES = ("high", "normal", "low")
_SHARDS = (
    "shard", "accepted/s", "stored/s", "failed/s", "refused/s", "waiting", "full", "accept p99", "journal", "oldest",
    "boxes", "postmen", "at work", "memory", "cpu",
)  # fmt: skip
_LANE = ("lane", "shard", "letters", "users", "first waits", "stored p50", "stored p99")
_ROUTERS = ("router", "answers/s", "4xx/s", "5xx/s", "deliver p99", "connections", "listeners", "memory", "cpu")
_ALERTS = ("alert", "shard", "since", "reading", "threshold")


class Shown:
    """One look at the node: a title, and tables of cells."""

    def __init__(self, between: Between, alerts: Sequence[Alert]) -> None:
        self._between = between
        self._now = between.after
        self._alerts = alerts

    def tables(self) -> list[tuple[Sequence[str], list[list[str]]]]:
        """Head and rows of each, those without rows left out."""
        shards, routers = self._now.values("shard"), self._now.values("process")
        made: list[tuple[Sequence[str], list[list[str]]]] = [
            (_SHARDS, [self._shard(name) for name in shards]),
            (_LANE, [self._lane(lane, name) for lane in _LANES for name in shards if self._is_up("shard", name)]),
            (_ROUTERS, [self._router(name) for name in routers]),
            (_ALERTS, [_alert(alert) for alert in self._alerts]),
        ]
        return [(head, rows) for head, rows in made if rows]

    def _is_up(self, label: str, name: str) -> bool:
        return self._now.sum("pobox_up", **{label: name}) > 0

    def _shard(self, name: str) -> list[str]:
        if not self._is_up("shard", name):
            return [name, "no answer", *[""] * (len(_SHARDS) - 2)]
        now, between = self._now, self._between
        full = now.sum("pobox_alert_reading", shard=name, alert="lanes_full")
        at_work = 1.0 - between.rate("pobox_postmen_rested_seconds_total", shard=name)
        failed = between.rate("pobox_deliveries_put_off_total", shard=name)
        return [
            name,
            _number(between.rate("pobox_deliveries_accepted_total", shard=name)),
            _number(between.rate("pobox_deliveries_stored_total", shard=name)),
            _number(failed + between.rate("pobox_deliveries_given_up_total", shard=name)),
            _number(between.rate("pobox_letters_refused_total", shard=name)),
            _number(now.sum("pobox_waiting", shard=name)),
            _percent(full),
            _seconds(between.quantile("pobox_accept_seconds", 0.99, shard=name)),
            _number(now.sum("pobox_journal_rows", shard=name)),
            _seconds(now.sum("pobox_journal_oldest_seconds", shard=name)),
            _number(now.sum("pobox_mailboxes_open", shard=name)),
            _number(now.sum("pobox_postmen", shard=name)),
            _percent(min(1.0, max(0.0, at_work))),
            *self._costs("shard", name),
        ]

    def _lane(self, lane: str, shard: str) -> list[str]:
        now, between = self._now, self._between
        return [
            lane,
            shard,
            _number(now.sum("pobox_lane_letters", shard=shard, lane=lane)),
            _number(now.sum("pobox_lane_users", shard=shard, lane=lane)),
            _seconds(now.sum("pobox_lane_wait_seconds", shard=shard, lane=lane)),
            _seconds(between.quantile("pobox_stored_seconds", 0.5, shard=shard, lane=lane)),
            _seconds(between.quantile("pobox_stored_seconds", 0.99, shard=shard, lane=lane)),
        ]

    def _router(self, name: str) -> list[str]:
        if not self._is_up("process", name):
            return [name, "no answer", *[""] * (len(_ROUTERS) - 2)]
        now, between = self._now, self._between
        statuses = {labels["status"] for labels, _count in now.each("pobox_http_seconds_count", process=name)}
        rates = {status: between.rate("pobox_http_seconds_count", process=name, status=status) for status in statuses}
        return [
            name,
            _number(sum(rates.values())),
            _number(sum(rate for status, rate in rates.items() if status[0] == "4")),
            _number(sum(rate for status, rate in rates.items() if status[0] == "5")),
            _seconds(between.quantile("pobox_http_seconds", 0.99, process=name, route="/api/v3/messages")),
            _number(now.sum("pobox_connections", process=name)),
            _number(now.sum("pobox_listeners", process=name)),
            *self._costs("process", name),
        ]

    def _costs(self, label: str, name: str) -> list[str]:
        here = {label: name}
        return [
            f"{self._now.sum('process_resident_memory_bytes', **here) / 2**20:.0f} MiB",
            _percent(self._between.rate("process_cpu_seconds_total", **here)),
        ]


@click.command(cls=Failures)
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, help="seconds between two looks")
@click.option("--once", is_flag=True, help="one look, then end")
@server_option
def top(server: str, interval: float, once: bool) -> None:
    """Watch shards, lanes, routers and alerts of a running node."""
    headers, verify = authorization(shown_key()), trust(server)
    with (
        httpx.Client(base_url=server, timeout=_TIMEOUT_S, trust_env=False, headers=headers, verify=verify) as http,
        Api(server) as api,
    ):

        def look() -> Scrape:
            return _scrape(http, server)

        def alerts() -> list[Alert]:
            return api.get("/api/v3/alerts", Alerts).alerts

        before = look()
        if once:
            time.sleep(interval)
            _print(server, Shown(Between(before, look()), alerts()))
        else:
            _live(server, interval, before, look, alerts)


def _scrape(http: httpx.Client, server: str) -> Scrape:
    try:
        response = http.get("/metrics")
    except httpx.TransportError as error:
        raise ApiError(f"no answer from {server}: {error}") from error
    if not response.is_success:
        raise ApiError(said(response))
    try:
        return Scrape(response.text, time.monotonic())
    except ValueError as error:
        raise ApiError(f"{server} doesn't answer like pobox: {error}") from error


def _live(
    server: str, interval: float, before: Scrape, look: Callable[[], Scrape], alerts: Callable[[], list[Alert]]
) -> None:
    """A node that is gone for a moment is waited for."""
    with contextlib.suppress(KeyboardInterrupt), Live(screen=sys.stdout.isatty(), auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            try:
                now = look()
                live.update(_drawn(server, Shown(Between(before, now), alerts())), refresh=True)
                before = now
            except ApiError as error:
                live.update(Text(printable(str(error)), style="bold red"), refresh=True)


def _drawn(server: str, shown: Shown) -> RenderableType:
    """For a terminal."""
    parts: list[RenderableType] = [Text(f"pobox at {printable(server)}   {time.strftime('%H:%M:%S')}", style="bold")]
    for head, rows in shown.tables():
        alarming = head is _ALERTS
        drawn = Table(box=None, pad_edge=False, header_style="bold red" if alarming else "bold cyan")
        for column, name in enumerate(head):
            drawn.add_column(name, justify="left" if column == 0 or alarming else "right", no_wrap=True)
        for row in rows:
            style = "red" if alarming or "no answer" in row else ""
            drawn.add_row(*(Text(printable(cell), style=style) for cell in row))
        parts += [Text(), drawn]
    return Group(*parts)


def _print(server: str, shown: Shown) -> None:
    if sys.stdout.isatty():
        Console().print(_drawn(server, shown))
        return
    for head, rows in shown.tables():
        for line in (head, *rows):
            click.echo("\t".join(map(printable, line)))


def _alert(alert: Alert) -> list[str]:
    return [alert.name, str(alert.shard), alert.since, f"{alert.value:.3g}", f"{alert.threshold:g}"]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "-"
    if value < 1:
        return f"{1000 * value:.1f} ms"
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.0f} min"
