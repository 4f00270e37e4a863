"""``pobox reshard`` and ``pobox move``: people change hands while the node runs (:mod:`node.reshard`)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import click

from node.audit_deed import Deed, written_down
from node.config import Config
from node.errors import BadField, ConfigError
from node.ids import check_name
from node.options import on_data
from node.paths import user_dir
from node.reshard import BATCH, Moved, Reshard, Stuck
from node.show import counted


@click.command()
@click.option("--shards", type=click.IntRange(1, 256), required=True, help="how many there are to be")
@click.option("--batch", type=click.IntRange(1, 4096), default=BATCH, help="slots that change hands together")
@on_data
def reshard(config: Config, shards: int, batch: int) -> None:
    """Change the number of shards while the node runs.

    Mail goes on; slots change hands a few at a time. Killed, run it again: it goes on.
    """
    with _written_down(config, "slots.reshard") as line:
        line.what["shards"] = shards
        done, took_s = _run(Reshard(Path(config.node.data), click.echo, batch=batch).to(shards))
    boxes = "1 box" if done.people == 1 else f"{done.people} boxes"
    click.echo(f"{counted(done.slots, 'slot')} and {boxes} moved, {_how(done, took_s)}")
    if config.node.shards != shards:
        click.echo(f"now set [node] shards = {shards} where this node's settings are: a start goes by them")


@click.command()
@click.argument("user")
@click.option("--shard", type=click.IntRange(0, 255), required=True, help="the number of the shard")
@on_data
def move(config: Config, user: str, shard: int) -> None:
    """Let one person's box be served by another shard, while the node runs."""
    try:
        check_name(user, "user")
    except BadField as error:
        raise click.UsageError(str(error)) from error
    with _written_down(config, "boxes.move", user=user) as line:
        line.what["shard"] = shard
        done, took_s = _run(Reshard(Path(config.node.data), click.echo).user(user, shard))
    if done.longest_s:
        click.echo(f"{user} is served by shard {shard} from now on, {_how(done, took_s)}")
    if not user_dir(Path(config.node.data), user).exists():
        click.echo(f"there is no box of {user} yet: whoever gets mail by that name will have it there")


@contextlib.contextmanager
def _written_down(config: Config, deed: str, **whom: str) -> Iterator[Deed]:
    try:
        with written_down(config, deed, **whom) as line:
            yield line
    except ConfigError as error:
        raise click.ClickException(str(error)) from error


def _run(work: Coroutine[Any, Any, Moved]) -> tuple[Moved, float]:
    """And how many seconds it took."""
    began = time.monotonic()
    try:
        return asyncio.run(work), time.monotonic() - began
    except Stuck as error:
        raise click.ClickException(f"{error}; nothing is lost, and the same again goes on") from error


def _how(done: Moved, took_s: float) -> str:
    return (
        f"{counted(done.letters, 'letter')} that could not be stored went along, in {took_s:.1f} s;"
        f" the longest pause was {done.longest_s * 1000:.0f} ms"
    )
