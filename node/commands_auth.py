"""``pobox key`` and ``pobox token``: who may use the node. They work on the data directory, with or without a node
that runs on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import click

from node import keys, rundir, tokens
from node.audit_deed import written_down
from node.clock import now_us
from node.config import Config
from node.errors import BadField, ConfigError
from node.keys import SCOPES, Scope
from node.options import on_data
from node.show import table

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")


class Duration(click.ParamType[float]):
    """``90d``, ``12h``, ``30m`` or ``45s``, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = _DURATION.fullmatch(str(value))
        if found is None:
            self.fail(f"{value} is no duration like 90d, 12h, 30m or 45s", param, ctx)
        return float(int(found[1]) * _UNITS_S[found[2]])


class Scopes(click.ParamType[list[Scope]]):
    """Scopes, separated by commas."""

    name = ",".join(SCOPES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Scope]:
        names = str(value).split(",")
        for name in names:
            if name not in SCOPES:
                self.fail(f"{name} is none of {', '.join(SCOPES)}", param, ctx)
        return cast(list[Scope], names)


class Local(click.Command):
    """What can't be done is one clear line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BadField, ConfigError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group()
def key() -> None:
    """Make, list and revoke the keys of services."""


@key.command(cls=Local)
@click.option("--name", required=True, help="what the key is called; unique")
@click.option("--scope", "scopes", type=Scopes(), required=True, help="what it is good for")
@click.option("--expires", "valid_s", type=Duration(), help="after so long, like 90d; never, unless told")
@click.option("--rate", type=click.FloatRange(0), default=0.0, help="requests a second in the long run; 0: any number")
@click.option("--burst", type=click.IntRange(1), help="and so many at once  [default: two seconds' worth]")
@on_data
def create(
    config: Config,
    name: str,
    scopes: list[Scope],
    valid_s: float | None,
    rate: float,
    burst: int | None,
) -> None:
    """Make a key and show it, this once."""
    expires_us = None if valid_s is None else now_us() + int(valid_s * 1e6)
    data = _data(config)
    with written_down(config, "keys.create", name=name) as done:
        shown = keys.create(data, name, scopes, expires_us=expires_us, rate=rate, burst=burst)
        done.whom["key"] = keys.id_of(shown)
        done.what["scopes"] = ",".join(scopes)
    click.echo(shown)


@key.command("list", cls=Local)
@on_data
def list_keys(config: Config) -> None:
    """List the keys there are, without their secrets."""
    now = now_us()
    table(
        ("name", "id", "scopes", "created", "expires", "rate", "burst"),
        [
            (
                key.name,
                key.id,
                ",".join(key.scopes),
                key.created,
                f"{key.expires or 'never'}{' (expired)' if key.expired(now) else ''}",
                f"{key.rate:g}/s" if key.rate else "any",
                str(key.burst or ""),
            )
            for key in keys.load(_data(config))
        ],
    )


@key.command(cls=Local)
@click.argument("name", metavar="NAME|ID")
@on_data
def revoke(config: Config, name: str) -> None:
    """Make a key worthless; routers that run know it within a second or two."""
    data = _data(config)
    with written_down(config, "keys.revoke", name=name) as done:
        gone = keys.revoke(data, name)
        done.whom = {"name": gone.name, "key": gone.id}
    click.echo(f"{gone.name} ({gone.id}) revoked")


@click.command(cls=Local)
@click.argument("user")
@click.option("--expires", "valid_s", type=Duration(), default="30d", help="after so long")
@on_data
def token(config: Config, user: str, valid_s: float) -> None:
    """Show a token with which USER gets at their own box, and nothing else."""
    data = _data(config)
    with written_down(config, "tokens.issue", user=user) as done:
        shown = tokens.issue(data, user, valid_s)
        done.what["seconds"] = int(valid_s)
    click.echo(shown)


def _data(config: Config) -> Path:
    directory = Path(config.node.data)
    rundir.create(directory)
    return directory
