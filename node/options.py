"""The options that say where a node's data is, for commands that work on it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from node import config as configuration
from node import owner
from node.errors import ConfigError

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


def loaded(config_file: Path | None, options: dict[str, Any]) -> configuration.Config:
    """The configuration, with ``options`` of the command line over its ``[node]``."""
    try:
        return configuration.load(config_file, overrides={"node": options})
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
