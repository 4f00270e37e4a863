"""One device in a process of its own, to be killed: it watches its person's box by a clock that is wrong.

It prints a line for each sync that changed something, and ``FAULT …`` for an error that neither a killed node
nor another process in the folder explains.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from client import Busy, Device, DeviceError, NoBox, Synced, Unavailable
from node.clock import now_us

_PATIENCE_S = 2.0


@click.command()
@click.argument("user")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--server", required=True)
@click.option("--name", required=True)
@click.option("--skew-us", type=int, default=0, help="How far its clock is ahead.")
@click.option("--interval", type=float, default=0.3)
def main(user: str, directory: Path, server: str, name: str, skew_us: int, interval: float) -> None:
    """Until SIGTERM."""
    device = Device(
        user,
        directory,
        server=server,
        name=name,
        on_change=_say,
        patience_s=_PATIENCE_S,
        clock=lambda: now_us() + skew_us,
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def complain(error: DeviceError) -> None:
        too_early = isinstance(error, NoBox) and not (directory / "messages.db").exists()
        expected = too_early or isinstance(error, Unavailable | Busy)
        click.echo(f"{'expected' if expected else 'FAULT'} {type(error).__name__}: {error}")

    device.watch(interval, stop, on_error=complain)


def _say(synced: Synced) -> None:
    click.echo(f"{synced.how} {synced.received} {synced.sent} {synced.heard} {len(synced.conflicts)}")


if __name__ == "__main__":
    main()
