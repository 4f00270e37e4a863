"""``pobox export`` and ``pobox delete``: what a person may ask of whoever runs the node."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import click

from node import export as exports
from node.apiclient import PATIENCE_S, Api, ApiError, segment
from node.ids import is_name
from node.placement import sync_directory
from node.show import Failures, counted, server_option


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
        # Beside the target: its second name makes it the export, whole or not at all.
        with tempfile.NamedTemporaryFile(dir=None if to_stdout else target.parent, prefix=".pobox-export-") as made:
            file = made.file
            with Api(server, patience_s=PATIENCE_S) as api:
                api.fetch(f"/api/v3/users/{segment(user)}/export", file)
            manifest = exports.verify(file, user)
            file.flush()
            if to_stdout:
                file.seek(0)
                shutil.copyfileobj(file, sys.stdout.buffer)
                return
            os.fsync(file.fileno())
            os.link(made.name, target)
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
