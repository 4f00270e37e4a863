"""A whole node made of what is off-site (:mod:`shard.offsite`) alone, in an empty directory.

``restoring.json`` is there until it is whole, and says of which set: so killed, the same goes on. ``placement.json``
comes last.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import obstore
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node import paths
from node.config import Encryption
from node.ids import check_name
from node.placement import Placement, save, sync_directory, write_durably
from shard import backup_files as files
from shard.keyring import Keyring, open_keyring
from shard.offsite import (
    KEYRING,
    THREADS,
    Incomplete,
    Item,
    Manifest,
    fetch,
    listed,
    manifest_at,
    manifests,
    order,
    sealer_of,
)

_RESTORING = "restoring.json"


def restore_all(
    store: Any, data: Path, day: str | None, said: Callable[[str], None], settings: Encryption | None = None
) -> tuple[str, int]:
    """A whole node in the empty directory ``data``, from the store alone (and the master key of ``settings``): the last
    whole day, or ``day``; and how many files. After a kill the same again goes on. Raises :class:`Incomplete`,
    :class:`ConfigError`, and what the store raises."""
    mark = data / _RESTORING
    layout: int | None = None
    if mark.exists():
        day, layout = msgspec.json.decode(mark.read_bytes(), type=tuple[str | None, int | None])
    elif data.exists() and any(data.iterdir()):
        raise Incomplete(f"{data} is not empty")
    keys = listed(store, f"{KEYRING}/")
    if not keys:
        _set(store, day, layout, None)  # before anything is made
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(mark, msgspec.json.encode((day, layout)))
    keyring = _fetch_keyring(store, keys, data, settings or Encryption())
    sealer = sealer_of(keyring)
    found = _set(store, day, layout, sealer)
    first = found[0]
    write_durably(mark, msgspec.json.encode((first.day, first.layout)))
    journals = paths.journals_dir(data, first.layout)
    journals.mkdir(mode=0o700, exist_ok=True)
    for directory in (paths.boxes_dir(data), paths.backups_dir(data)):  # where there were backups, who goes is noted
        directory.mkdir(mode=0o700, exist_ok=True)
    count = 0
    for part in found:
        work = [(item, _target(data, part, item)) for item in part.items]
        for item, target in work:
            if item.user:  # first, so that it is private too, not only what is in it
                paths.user_dir(data, item.user).mkdir(mode=0o700, parents=True, exist_ok=True)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ThreadPoolExecutor(THREADS, "restore") as pool:
            fetched = list(pool.map(lambda one: fetch(store, sealer, keyring, *one), work))
        count += sum(fetched)
        said(f"shard {part.shard}: {len(work)} files of {part.day}")
        if gone := sum(not done for done in fetched):
            said(f"shard {part.shard}: {gone} of them are of people who were deleted since, or were there already")
    os.sync()  # the names too
    save(data, first.placement or Placement(version=first.layout, shards=first.shards))
    mark.unlink()
    sync_directory(data)
    return first.day, count


def _fetch_keyring(store: Any, keys: list[str], data: Path, settings: Encryption) -> Keyring | None:
    """The keyring that is at ``keys``, in its place, opened; None where nothing is encrypted."""
    if not keys:
        return None
    directory = paths.keyring_dir(data)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in keys:
        name = check_name(path.rpartition("/")[2], "keyring")
        write_durably(directory / name, bytes(obstore.get(store, path).bytes()))
    return open_keyring(settings, data)


def _set(store: Any, day: str | None, layout: int | None, sealer: AESGCM | None) -> list[Manifest]:
    """All parts of one day: the last that is whole."""
    sets: dict[str, list[str]] = {}
    for path in manifests(store):
        sets.setdefault(path.split("/")[1], []).append(path)
    wanted = {
        name: parts
        for name, parts in sets.items()
        if (day is None or name.startswith(f"{day}-")) and (layout is None or name.endswith(f"-{layout}"))
    }
    for name in sorted(wanted, key=order, reverse=True):
        found = [manifest_at(store, path, sealer) for path in wanted[name]]
        if len(found) == found[0].shards:
            return sorted(found, key=lambda part: part.shard)
    raise Incomplete("there is no whole backup" + (f" of {day}" if day else ""))


def _target(data: Path, part: Manifest, item: Item) -> Path:
    if item.user:
        return files.source(paths.user_dir(data, check_name(item.user, "user")), item.kind)
    if item.kind == "journal":
        return paths.shard_db(data, part.layout, part.shard)
    (target,) = [path for path in paths.node_files(data) if path.name == item.kind]
    return target
