"""``pobox encrypt`` and ``pobox master-key``: on the machine where the data is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import click

from node import paths, placement
from node.audit_deed import written_down
from node.config import Config
from node.errors import ConfigError, DiskFull
from shard import keyring, sqlite
from shard import master_key as keys
from shard.backup_command import on_data
from shard.disk import full_is_507
from shard.encrypt import Encryption
from shard.layout import nobody_at_work


@click.command()
@on_data
def encrypt(config: Config) -> None:
    """Encrypt what is plain, on a stopped node with [encryption] on. Killed, the same command goes on."""
    data = Path(config.node.data)
    layout = placement.load(data)
    if layout is None:
        raise ConfigError(f"{data} holds no node: placement.json is missing")
    if not config.encryption.enabled:
        raise ConfigError("[encryption] enabled is false: what is new would be plain again")
    sqlite.set_up()
    with nobody_at_work(data, layout), _plainly():
        opened = keyring.open_keyring(config.encryption, data, make=True)
        assert opened is not None
        work = Encryption(data, layout, opened, click.echo)
        try:
            with written_down(config, "node.encrypt") as line:
                done = work.run()
                line.what = {"files": done.files, "segments": done.segments}
        except DiskFull as error:
            raise DiskFull(f"{error}; {work.done.files} files are encrypted, all others are as they were") from error
        finally:
            opened.close()
    for left in done.left:
        click.echo(f"left   {left}", err=True)
    click.echo(f"{done.files} files and {done.segments} segments of the history encrypted")
    if config.backup.store and done.files:
        click.echo("what is off-site already stays plain until its days are over; pobox backup now sends it encrypted")
    if done.left:
        raise SystemExit(1)


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """What is in the way goes into one line."""
    try:
        with full_is_507():
            yield
    except DiskFull as error:
        raise click.ClickException(f"{error}: make room, and run it again") from error
    except (apsw.Error, OSError) as error:
        raise click.ClickException(f"{error}; run it again") from error


@click.group("master-key")
def master_key() -> None:
    """The key that opens all others. Without it nothing that is encrypted can be read: keep a copy elsewhere."""


@master_key.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def new(file: Path) -> None:
    """Make one, in the new file FILE, for its owner alone."""
    try:
        made = keys.make(file)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{file}: master key {keyring.fingerprint(made)}. Keep a copy where the data is not")


class _Held(click.ParamType[tuple[Path, bytes]]):
    """A file and the master key in it, read before root becomes the owner of the data, who may not read it."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Path, bytes]:
        try:
            return Path(value), keys.read(Path(value))
        except ConfigError as error:
            raise click.ClickException(str(error)) from error


@master_key.command()
@click.argument("held", metavar="FILE", type=_Held())
@on_data
def rotate(config: Config, held: tuple[Path, bytes]) -> None:
    """From now on the master key in FILE opens the node, which may run; so does the one before until confirm."""
    data = Path(config.node.data)
    file, fresh = held
    with written_down(config, "master-key.rotate") as line:
        keyring.rotate(paths.keyring_dir(data), keys.load(config.encryption), fresh)
        line.what = {"is": keyring.fingerprint(fresh)}
    click.echo(f"{data} is opened by {keyring.fingerprint(fresh)} now, and by the old one still")
    click.echo(f"name {file} in [encryption] master_key, start the node again, then pobox master-key confirm")


@master_key.command()
@on_data
def confirm(config: Config) -> None:
    """End a rotation: from now on the master key before opens nothing. The settings must name the new one."""
    data, master = Path(config.node.data), keys.load(config.encryption)
    directory = paths.keyring_dir(data)
    if not keyring.is_rotating(directory):
        click.echo("there is no rotation to confirm")
        return
    with written_down(config, "master-key.confirm") as line:
        keyring.confirm(directory, master)
        line.what = {"is": keyring.fingerprint(master)}
    click.echo(f"{data} is opened by {keyring.fingerprint(master)} alone")
    if config.backup.store:
        click.echo("what is off-site is opened by the old one until the next pobox backup push")
