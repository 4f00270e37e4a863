"""``pobox serve`` and ``pobox doctor``: what runs on the machine where the data is.

Exit codes: 0 when it was stopped, 1 when the node can't come up, 2 when the configuration isn't
usable.
"""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from node import config as configuration
from node import owner
from node.child import GaveUp
from node.errors import ConfigError
from node.listen import PortTaken
from node.process import configure_logging
from node.rundir import InUse
from node.show import counted
from node.supervisor import StartFailed, Supervisor

config_option = click.option(
    "--config", "config_file", type=click.Path(path_type=Path, dir_okay=False), help="instead of pobox.toml"
)


def on_data(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where the data is; it gets ``config``, and runs as the user whose the data
    is."""

    @naming_data
    @functools.wraps(function)
    def command(config: configuration.Config, **options: Any) -> None:
        try:
            config = owner.as_owner(config)
        except ConfigError as error:
            raise click.ClickException(str(error)) from error
        function(config=config, **options)

    return command


def naming_data(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where the data is, if it is here; it gets ``config``."""

    @click.option("--data", help="the data directory  [default: data]")
    @config_option
    @functools.wraps(function)
    def command(data: str | None, config_file: Path | None, **options: Any) -> None:
        function(config=loaded(config_file, {"data": data}), **options)

    return command


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


@click.command()
@on_data
def doctor(config: configuration.Config) -> None:
    """Check every mailbox and journal; exit code 1, naming what, if anything is wrong."""
    command = [sys.executable, "-m", "shard.doctor", "--data", config.node.data]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("POBOX_")}
    environment = {**inherited, **configuration.environment(config), "POBOX_CONFIG": os.devnull}
    # It inherits secrets that this process alone could open.
    sys.exit(subprocess.run(command, check=False, env=environment, close_fds=False).returncode)


def loaded(config_file: Path | None, options: dict[str, Any]) -> configuration.Config:
    """The configuration, with ``options`` of the command line over its ``[node]``."""
    try:
        return configuration.load(config_file, overrides={"node": options})
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


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
