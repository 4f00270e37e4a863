"""``pobox serve``: a node on the machine where its data is.

Exit codes: 0 when it was stopped, 1 when the node can't come up, 2 when the configuration isn't
usable.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from node import config as configuration
from node import owner
from node.child import GaveUp
from node.errors import ConfigError
from node.listen import PortTaken
from node.logs import configure_logging
from node.options import config_option, loaded
from node.rundir import InUse
from node.show import counted
from node.supervisor import StartFailed, Supervisor


@click.command()
@click.option("--data", help="the data directory  [default: data]")
@click.option("--shards", type=int, help="processes that store, best one a core  [default: 2]")
@click.option("--routers", type=int, help="processes that take requests  [default: 1]")
@click.option("--host", help="a loopback address, as long as nobody has to log in  [default: 127.0.0.1]")
@click.option("--port", type=int, help="0 takes a free one  [default: 8080]")
@config_option
def serve(config_file: Path | None, **options: Any) -> None:
    """Run a node until SIGTERM or Ctrl-C (a second one hurries)."""
    config = loaded(config_file, options)
    configure_logging("supervisor")
    try:
        owner.become(Path(config.node.data))
        asyncio.run(Supervisor(config, on_ready=lambda url, is_new: show_ready(config, url, is_new)).run())
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except (StartFailed, GaveUp, InUse, PortTaken) as error:
        raise click.ClickException(str(error)) from error


def show_ready(config: configuration.Config, url: str, is_new: bool) -> None:
    """The block that says where the node is; for a new one, also what to do next."""
    node = config.node
    click.echo(f"pobox ready at {url} ({counted(node.shards, 'shard')}, {counted(node.routers, 'router')})")
    click.echo(f"  data in {Path(node.data).resolve()}")
    if is_new:
        pobox = min(sys.argv[0], os.path.relpath(sys.argv[0]), key=len)
        server = "" if node.port == 8080 else f" --server {url}"
        data = "" if node.data == "data" or config.auth.mode == "open" else f" --data {node.data}"
        click.echo("  next, in another terminal:")
        if config.auth.mode == "keys":
            click.echo(f"    export POBOX_KEY=$({pobox} key create --name first --scope deliver,channels,read{data})")
        click.echo(f"    {pobox} demo{server}{data}      fills an inbox to look at, live")
        click.echo(f"    {pobox} deliver --users ada --title Hello --content 'The first letter'{server}")
        click.echo(f"    {pobox} read ada{server}")
    sys.stdout.flush()
