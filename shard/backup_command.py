"""``pobox backup`` and ``pobox restore``: on the machine where the data is.

What needs a box that is in use is asked of the running node's shards, over their sockets; files that never change are
looked at here. Exit code 1 when something is not as it should be, with what and where.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import apsw
import click
import obstore

from node import daily as daily_rule
from node import ops, options, paths, placement
from node.audit_deed import written_down
from node.clock import iso, now_us, us_of
from node.config import Config
from node.errors import ConfigError, PoboxError, Unavailable
from node.ids import check_name
from node.link import ask_once
from node.placement import Placement
from node.show import table
from shard import archive_copies, backup_set, oblivion, offsite, offsite_restore, offsite_store, pushed, sqlite
from shard import backup_files as files
from shard.keyring import JOURNAL, Keyring, open_keyring
from shard.sealing import Unreadable

T = TypeVar("T")
_POLL_S = 0.2
_PATIENCE_S = 24 * 3600.0
"""for what takes its time, as long as the shard answers pings"""
_PING_S = 5.0
_PONG_S = 10.0


def on_data(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where the data is; it gets ``config``. What can't be done is one line."""

    @options.on_data
    @functools.wraps(function)
    def command(**options: Any) -> None:
        try:
            function(**options)
        except (ConfigError, PoboxError, OSError) as error:
            raise click.ClickException(str(error) or getattr(error, "title", "")) from error

    return command


@click.group()
def backup() -> None:
    """Copies of all boxes: make them, look at them, send them away."""


@backup.command()
@on_data
def daily(config: Config) -> None:
    """Make today's backup if it is due, and send it to [backup] store if it isn't there: what a timer starts, once a
    day or as often as it likes. Exit code 1 if something is left to do."""
    data, at = Path(config.node.data), config.backup.at
    if not at:
        click.echo("[backup] at is empty: there is no daily backup")
        return
    _layout(config)
    paths.backups_dir(data).mkdir(mode=0o700, exist_ok=True)
    with _plainly(), offsite.alone(data, "daily backup"):
        if daily_rule.is_due(at, backup_set.last_set_us(data), now_us()):
            _make(config)
        _see_to_the_deleted(config)
        if config.backup.store and not pushed.is_pushed(data):
            _push(config, None)


@backup.command()
@on_data
def now(config: Config) -> None:
    """Have the running node make today's backup, and wait for it."""
    _make(config)
    _see_to_the_deleted(config)
    if config.backup.store:
        _push(config, None)


def _see_to_the_deleted(config: Config) -> None:
    """Before anything is sent: people who were deleted are in no copy of a journal."""
    store, data = offsite_store.store(config.backup) if config.backup.store else None, Path(config.node.data)
    keyring = open_keyring(config.encryption, data)
    with _plainly():
        oblivion.see_to(data, store, click.echo, keyring)


def _make(config: Config) -> None:
    """Exits with code 1 if it is not whole."""
    layout = _layout(config)
    states = asyncio.run(_gather(_back_up(config, shard) for shard in range(layout.shards)))
    for shard, state in enumerate(states):
        said = f"{state.done} boxes, {state.copied} of them copied ({state.bytes} bytes), {state.linked} unchanged"
        took_s = (state.ended_us - state.began_us) / 1e6
        click.echo(f"shard {shard}: {state.day}: {said}, {took_s:.1f} s")
        if state.failed:
            click.echo(
                f"shard {shard}: {state.failed} boxes have none of today, or not all of it; the node's log says why",
                err=True,
            )
        if state.error:
            click.echo(f"shard {shard}: not whole: {state.error}", err=True)
    if any(state.failed or not state.whole for state in states):
        raise SystemExit(1)


@backup.command()
@click.option("--day", help="YYYYMMDD  [default: the last whole one]")
@on_data
def push(config: Config, day: str | None) -> None:
    """Send a backup to [backup] store; what is there already isn't sent again."""
    _see_to_the_deleted(config)
    _push(config, day)


def _push(config: Config, day: str | None) -> None:
    store, data = offsite_store.store(config.backup), Path(config.node.data)
    keyring = open_keyring(config.encryption, data)
    with _plainly():
        done = offsite.push(data, store, day, config.backup.keep_days, click.echo, keyring)
    click.echo(f"{done.files} files, {done.sent} sent ({done.sent_bytes} bytes), {done.removed} old ones removed")


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """What can't be done is one line."""
    try:
        yield
    except (offsite.Incomplete, Unreadable, OSError, obstore.exceptions.BaseError) as error:
        raise click.ClickException(offsite_store.plainly(error)) from error


@backup.command("list")
@click.argument("user", required=False)
@on_data
def show(config: Config, user: str | None) -> None:
    """The backups there are, of everybody or of USER."""
    data = Path(config.node.data)
    if user is None:
        sets = backup_set.whole_sets(data)
        rows = [
            (day, str(sum(part.boxes for part in parts)), str(sum(part.failed for part in parts)), str(len(parts)))
            for day, _layout, parts in sets
        ]
        table(("day", "boxes", "failed", "shards"), rows)
        day, made_us = pushed.day_and_us(data)
        if day:
            click.echo(f"off-site: {day}, made {iso(made_us)}", err=True)
        elif config.backup.store:
            click.echo("off-site: none", err=True)
        return
    index = files.load(files.directory(data, check_name(user, "USER")))
    table(
        ("day", "kind", "as of", "rows", "bytes", "sha256"),
        [
            (day, kind, iso(entry.at_us), str(entry.rows), str(entry.size), entry.sha256)
            for day, entries in sorted(index.items())
            for kind, entry in sorted(entries.items())
        ],
    )


@backup.command()
@on_data
def verify(config: Config) -> None:
    """Read every backup again: its checksum, SQLite's own check, its rows."""
    data = Path(config.node.data)
    sqlite.set_up()
    keyring = open_keyring(config.encryption, data)
    seen: set[tuple[int, int]] = set()
    fitting: set[tuple[str, ...]] = set()
    faults = days = 0
    for place in sorted(paths.boxes_dir(data).glob("*/*/backups")):
        for day, entries in sorted(files.load(place).items()):
            days += 1
            for kind, entry in entries.items():
                path = files.file(place, kind, day)
                faults += not _is_whole(data, path, kind, entry, seen, keyring)
            faults += not _fits_together(data, place, day, entries, fitting, keyring)
    sets = backup_set.whole_sets(data)
    for day, version, parts in sets:
        for part in parts:
            path = backup_set.part_of(data, day, version, part.shard).journal
            try:
                if files.sha256_of(path) != part.journal_sha256:
                    raise files.Damaged("its content is not what was backed up")
                files.check(path, "journal", JOURNAL, keyring)
            except (files.Damaged, OSError) as error:
                faults += 1
                click.echo(f"FAULT  {path.relative_to(data)}: {error}", err=True)
    click.echo(f"{len(sets)} whole sets, {days} backups of boxes, {len(seen)} files, {faults} faults")
    if faults:
        raise SystemExit(1)


def _is_whole(
    data: Path, path: Path, kind: str, entry: files.Entry, seen: set[tuple[int, int]], keyring: Keyring | None
) -> bool:
    try:
        status = path.stat()
        if (status.st_dev, status.st_ino) not in seen:  # one file may be the backup of many days
            seen.add((status.st_dev, status.st_ino))
            files.check_against(path, kind, entry, keyring)
    except (files.Damaged, OSError) as error:
        click.echo(f"FAULT  {path.relative_to(data)}: {error}", err=True)
        return False
    return True


def _fits_together(
    data: Path,
    place: Path,
    day: str,
    entries: dict[str, files.Entry],
    fitting: set[tuple[str, ...]],
    keyring: Keyring | None,
) -> bool:
    """Whether the archive of that day holds what the box of that day names; ``fitting`` are those that did already."""
    content = tuple(sorted(entry.sha256 for kind, entry in entries.items() if kind != "read_status"))
    if "messages" not in entries or content in fitting:
        return True
    box = files.file(place, "messages", day)
    years = {year: files.file(place, kind, day) for kind in entries if (year := files.year_of(kind)) is not None}
    try:
        count = archive_copies.lacking(box, years, place.parent.name, keyring)
    except (*archive_copies.DAMAGED, apsw.CantOpenError):
        return True  # that was said of the file itself
    if count:
        click.echo(f"FAULT  {box.relative_to(data)}: {count} archived messages are not in the backup", err=True)
        return False
    fitting.add(content)
    return True


@click.command()
@click.argument("user", required=False)
@click.option("--at", help="an ISO time, UTC if it names no zone: 2026-11-24T15:30 or …:30:00+01:00")
@click.option("--all", "everybody", is_flag=True, help="the whole node, into an empty data directory")
@click.option("--from", "url", help="with --all: where the backups are  [default: [backup] store]")
@click.option("--day", help="with --all: YYYYMMDD  [default: the last whole one]")
@on_data
def restore(
    config: Config, user: str | None, at: str | None, everybody: bool, url: str | None, day: str | None
) -> None:
    """Bring USER's box to what it held at a time, while the node runs; what is there now is kept beside it. Or a whole
    node from off-site (--all); killed, the same command goes on."""
    if everybody:
        if user or at:
            raise click.UsageError("--all restores everybody, to the end of a backup")
        store = offsite_store.store(config.backup, url, make=False)
        with _plainly():
            restored, count = offsite_restore.restore_all(
                store, Path(config.node.data), day, click.echo, config.encryption
            )
        with written_down(config, "node.restore") as line:  # before, the directory had to be empty
            line.what = {"day": restored, "files": count}
        click.echo(f"{config.node.data} is the node as of {restored}, {count} files; pobox doctor checks it")
        return
    if not user or not at or url or day:
        raise click.UsageError("USER and --at are needed, or --all")
    check_name(user, "USER")
    try:
        moment = datetime.fromisoformat(at)
    except ValueError as error:
        raise click.UsageError(f"--at {at}: not an ISO time") from error
    at_us = us_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    layout = _layout(config)
    table = layout.table
    slot, shard = table.place(user)
    request = ops.Restore(0, table.number, slot, user, at_us)
    with written_down(config, "boxes.restore", user=user) as line:
        line.what["at"] = iso(at_us)
        done = asyncio.run(_ask(config, shard, request, ops.Restored))
        line.what["version"] = done.version
    for name, held in (("before", done.before), ("after", done.after)):
        if held is not None:
            archived = f", {held.archived} archived" if held.archived else ""
            click.echo(f"{name:7}{held.messages} messages, {held.removed} removed, {held.checksum}{archived}")
    click.echo(f"from the backup of {iso(done.base_us)} and {done.letters} letters since; version {done.version}")
    if done.aside:
        click.echo(f"what was there: {paths.user_dir(Path(config.node.data), user) / done.aside}")
    marks = f"as of {iso(done.statuses_us)}" if done.statuses_us else "as they were: there is no backup of them"
    click.echo(f"read marks {marks}; channels as they are now")


def _layout(config: Config) -> Placement:
    layout = placement.load(Path(config.node.data))
    if layout is None:
        raise ConfigError(f"{config.node.data} holds no node: placement.json is missing")
    return layout


async def _back_up(config: Config, shard: int) -> ops.BackupState:
    state = await _ask(config, shard, ops.BackUp(0), ops.BackupState)
    while state.running:
        await asyncio.sleep(_POLL_S)
        state = await _ask(config, shard, ops.AskBackup(0), ops.BackupState)
    return state


async def _ask(config: Config, shard: int, request: ops.AnyRequest, answer: type[T]) -> T:
    """Raises :class:`ConfigError` if nobody listens, :class:`Unavailable`, which names the shard, if it answers nothing
    any more, and what it refuses with."""
    path = paths.socket_path(Path(config.node.data), shard)
    asked = asyncio.create_task(ask_once(path, request, answer, timeout_s=_PATIENCE_S))
    try:
        while not (await asyncio.wait({asked}, timeout=_PING_S))[0]:
            with contextlib.suppress(ConnectionError, PoboxError):  # then the question hears of it too
                await ask_once(path, ops.Ping(0), ops.State, timeout_s=_PONG_S)
        return asked.result()
    except TimeoutError as error:
        raise Unavailable(f"shard {shard} does not answer: it hangs, or waits for a disk") from error
    except Unavailable as error:
        raise Unavailable(f"shard {shard} ended before it had answered") from error
    except OSError as error:
        raise ConfigError(f"no node runs on {config.node.data}: shard {shard}: {error.strerror}") from error
    finally:
        asked.cancel()


async def _gather(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    return list(await asyncio.gather(*work))
