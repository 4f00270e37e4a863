"""``pobox sync`` and ``pobox mark``: a device, from a shell."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any, cast

import click

from client.device import NAME_MAX, Device, Synced
from client.errors import DeviceError
from client.marks import MARKS, Mark
from node.asking import server_option
from node.show import printable
from node.shown import shown_key

to_option = click.option(
    "--to",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="the folder of this device",
)
device_option = click.option(
    "--device", "name", metavar="NAME", help=f"what this device is called, up to {NAME_MAX} characters; remembered"
)


class Failures(click.Command):
    """What a device can't do is one clear line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DeviceError as error:
            raise click.ClickException(printable(str(error))) from error


@click.command(cls=Failures)
@click.argument("user")
@to_option
@click.option("--watch", is_flag=True, help="go on, until Ctrl-C or SIGTERM")
@click.option("--interval", type=click.FloatRange(0.05), default=5.0, help="with --watch: seconds between two looks")
@device_option
@server_option
def sync(server: str, user: str, directory: Path, watch: bool, interval: float, name: str | None) -> None:
    """Keep a copy of USER's box in a folder, and tell the server what was read there.

    messages.db is the copy, for reading; read_status.db is what was read.
    """
    if not watch:
        _say(Device(user, directory, server=server, key=shown_key(), name=name).sync())
        return
    device = Device(user, directory, server=server, key=shown_key(), name=name, on_change=_say)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    device.watch(interval, stop, on_error=lambda error: click.echo(f"Error: {printable(str(error))}", err=True))


@click.command(cls=Failures)
@click.argument("user")
@click.argument("message_id", metavar="MESSAGE_ID")
@click.argument("status", type=click.Choice(MARKS))
@to_option
@device_option
def mark(user: str, message_id: str, status: str, directory: Path, name: str | None) -> None:
    """Mark a message of USER's in a device's folder; the next sync tells the server."""
    Device(user, directory, name=name).mark(message_id, cast(Mark, status))


def _say(synced: Synced) -> None:
    """One line of what a sync did, and one for each mark that didn't come through."""
    came = {"nothing": "nothing new", "delta": "changed pages", "download": "whole box"}[synced.how]
    words = [f"{came}, {synced.received} bytes" if synced.received else came]
    if synced.sent:
        words.append(f"{synced.sent} marks sent")
    if synced.heard:
        words.append(f"{synced.heard} statuses came")
    click.echo(f"{synced.version}: {', '.join(words)}")
    for conflict in synced.conflicts:
        why = "the server knows a later one" if conflict.reason == "newer" else "the message isn't there"
        click.echo(f"{conflict.message_id} was not marked {conflict.status}: {why}", err=True)
    for message_id in synced.dropped:
        click.echo(f"{printable(message_id)} was not marked: the server can't take it", err=True)
    sys.stdout.flush()
