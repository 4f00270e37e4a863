"""``pobox export``, ``delete`` and ``quota``: one person's box as a whole, for whoever runs the node."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import click

from node import export as exports
from node.apiclient import PATIENCE_S, Api, ApiError, segment
from node.asking import Failures, server_option
from node.ids import is_name
from node.model import Quota, Usage
from node.placement import sync_directory
from node.show import counted


@click.command(cls=Failures)
@click.argument("user")
@click.option("-o", "--output", help="the file to make; - for standard output  [default: USER.zip]")
@server_option
def export(server: str, user: str, output: str | None) -> None:
    """All there is of USER as a zip: databases, JSON, and a manifest with the SHA-256 of each, which is checked before
    the file is there."""
    if not is_name(user):
        raise click.BadParameter(f"{user!r} is no userId", param_hint="USER")
    target = Path(output or f"{user}.zip")
    to_stdout = output == "-"
    if not to_stdout and target.exists():
        raise click.UsageError(f"{target} is there already")
    try:
        with tempfile.TemporaryDirectory(dir=None if to_stdout else target.parent, prefix=".pobox-export-") as place:
            with (Path(place) / "export.zip").open("xb+") as file:
                with Api(server, patience_s=PATIENCE_S) as api:
                    api.fetch(f"/api/v3/users/{segment(user)}/export", file)
                manifest = exports.verify(file, user)
                if to_stdout:
                    file.seek(0)
                    shutil.copyfileobj(file, sys.stdout.buffer)
                    return
                os.fsync(file.fileno())
            os.rename(file.name, target)
            sync_directory(target.parent)
    except exports.Broken as error:
        raise ApiError(f"what {server} sent can't be kept: {error}") from error
    except OSError as error:
        raise ApiError(f"{target}: {error.strerror or error}") from error
    size = sum(one.size for one in manifest.files)
    click.echo(f"{target}: {counted(len(manifest.files), 'file')}, {size} bytes, as their SHA-256 says")


@click.command(cls=Failures)
@click.argument("user")
@click.option("--yes", is_flag=True, help="without being asked")
@server_option
def delete(server: str, user: str, yes: bool) -> None:
    """Delete all there is of USER: the box, its backups, memberships, and what is on its way. There is no way back."""
    if not yes:
        click.confirm(f"Delete everything of {user}, for good?", abort=True)
    with Api(server, patience_s=PATIENCE_S) as api:
        api.ask("DELETE", f"/api/v3/users/{segment(user)}", type(None))
    click.echo(f"{user} is deleted")


class Size(click.ParamType[int]):
    """A number of bytes, or of kB, MB, GB (of 1024)."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number, unit = value[:-1], value[-1:].upper()
        if unit not in _UNITS:
            number, unit = value, ""
        if not (number.isascii() and number.isdecimal()):
            self.fail(f"{value} is no size like 500M", param, ctx)
        return int(number) << _UNITS[unit]


_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}


@click.command(cls=Failures)
@click.argument("user")
@click.option("--messages", type=click.IntRange(0), help="at most so many; 0 for no limit")
@click.option("--bytes", "size", type=Size(), help="of titles, texts and metadata: 500M; 0 for no limit")
@click.option("--default", is_flag=True, help="no quota of their own: what [shard] quota_messages and quota_bytes say")
@server_option
def quota(server: str, user: str, messages: int | None, size: int | None, default: bool) -> None:
    """Show what USER's box holds and may hold; with an option, set that. What is not said is as the settings say."""
    is_said = messages is not None or size is not None
    if is_said and default:
        raise click.UsageError("--default takes no numbers")
    path = f"/api/v3/users/{segment(user)}"
    with Api(server, patience_s=PATIENCE_S) as api:
        if default:
            api.ask("DELETE", f"{path}/quota", type(None))
        elif is_said:
            api.send("PUT", f"{path}/quota", Quota(messages=messages, bytes=size), type(None))
        else:
            _show(api.get(path, Usage))


def _show(usage: Usage) -> None:
    for what, held, most in (
        ("messages", usage.messages, usage.quota_messages),
        ("bytes", usage.bytes, usage.quota_bytes),
    ):
        click.echo(f"{what:9}{held}" + (f" of {most} ({100 * held // most}%)" if most else ""))
    if usage.full:
        click.echo(f"{usage.id} is full: nothing new is taken")
