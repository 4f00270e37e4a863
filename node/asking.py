"""What commands have in common that ask a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from node.apiclient import ApiError
from node.errors import ConfigError
from node.show import printable
from node.shown import key_option

_Command = TypeVar("_Command", bound=Callable[..., Any])


def server_option(command: _Command) -> _Command:
    """``--server``, which the command gets, and ``--key``, which whoever asks the node for it looks up."""
    where = click.option("--server", default="http://127.0.0.1:8080", show_default=True, help="where the node is")
    return where(key_option(command))


class Failures(click.Command):
    """A command that asks a node: what it can't get is one clear line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ApiError, ConfigError) as error:
            raise click.ClickException(printable(str(error))) from error
