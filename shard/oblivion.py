"""Those who were deleted, taken out of backups: of the copies of journals here, and of what is off-site.

Boxes off-site are dropped from the sets that were begun before, and what nobody else's set names is removed at once:
it is noted (``backups/erasing.json``) before a set stops naming it. A journal is everybody's: each copy that names them
is written anew without them (:mod:`shard.scrub`). They are struck off the list last of all; killed, the same is begun
again, and changes nothing that was done.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import obstore

from node import paths
from node.placement import sync_directory, write_durably
from shard import backup_files as files
from shard import erased, offsite, scrub
from shard.backup_set import Manifest, Part, load, part_of, whole_sets
from shard.copying import seal
from shard.erased import Erased
from shard.keyring import Keyring

_ERASING = "erasing.json"


def see_to(data: Path, store: Any | None, said: Callable[[str], None], keyring: Keyring | None = None) -> None:
    """Take everybody who is noted out of what is here and, if there is a ``store``, of what is there. Raises what the
    store raises, :class:`shard.offsite.Incomplete`, and ``OSError``."""
    people = erased.noted(data)
    if not people:
        return
    being_made = any(paths.backups_dir(data).glob("*/*/*.begun"))  # it may hold them, and is not looked at yet
    copies = sum(_in_copies(data, people, keyring))
    removed = 0 if store is None else erase(data, store, people, keyring)
    said(f"{len(people)} deleted people: {copies} copies of journals written anew, {removed} objects off-site removed")
    if not being_made:
        erased.strike_off(data, people)


def _in_copies(data: Path, people: list[Erased], keyring: Keyring | None) -> list[bool]:
    """Of each copy of a journal here: whether it was written anew."""
    done = []
    for day, layout, manifests in whole_sets(data):
        for manifest in manifests:
            part = part_of(data, day, layout, manifest.shard)
            mark = part.journal.with_suffix(".fresh")
            fresh = load(mark)
            if fresh is not None:  # a kill came between the two that belong together
                if files.sha256_of(part.journal) == fresh.journal_sha256:
                    part.close(fresh)
                mark.unlink()
            done.append(scrub.mentions(part.journal, people, keyring))
            if done[-1]:
                _write_anew(part, fresh or manifest, mark, people, keyring)
    return done


def _write_anew(part: Part, manifest: Manifest, mark: Path, people: list[Erased], keyring: Keyring | None) -> None:
    """The copy of a journal, and the manifest that says what it is."""
    made = part.journal.with_suffix(".part")
    shutil.copyfile(part.journal, made)
    scrub.scrub(made, manifest.layout, manifest.ended_us, people, keyring)
    size, sha256 = seal(made, durably=True)
    fresh = msgspec.structs.replace(manifest, journal_size=size, journal_sha256=sha256)
    write_durably(mark, msgspec.json.encode(fresh))
    made.rename(part.journal)
    sync_directory(part.place)
    part.close(fresh)
    mark.unlink()


def erase(data: Path, store: Any, people: list[Erased], keyring: Keyring | None = None) -> int:
    """Take ``people`` out of the sets that were begun before they were deleted: their boxes are named no more, journals
    that name them are written anew. What no set names then is removed at once; how much of it. Killed, the same again
    goes on."""
    gone_us = {one.user: one.at_us for one in people}
    sealer = offsite.sealer_of(keyring)
    with offsite.alone(data, "push"):
        offsite.Keys(store, keyring).put()
        loose, named = _Loose(paths.backups_dir(data) / _ERASING), set[str]()
        for path in offsite.manifests(store):
            manifest = offsite.manifest_at(store, path, sealer)
            items = []
            for item in manifest.items:
                if item.user and manifest.began_us <= gone_us.get(item.user, -1):
                    continue
                is_journal = not item.user and item.kind == "journal"
                items.append(_without(data, store, keyring, item, manifest, people, loose) if is_journal else item)
            if items != manifest.items:
                loose.note({item.sha256 for item in manifest.items} - {item.sha256 for item in items})
                offsite.put_manifest(store, msgspec.structs.replace(manifest, items=items), sealer)
            named |= {item.sha256 for item in items}
        return loose.remove(store, named)


class _Loose:
    """Content that maybe no set names: noted in the file at ``path`` before that can be, until it has been removed. So
    a kill leaves nothing of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._noted = set(msgspec.json.decode(path.read_bytes(), type=list[str])) if path.exists() else set[str]()

    def note(self, content: set[str]) -> None:
        """On disk when it returns."""
        if not content <= self._noted:
            self._noted |= content
            write_durably(self._path, msgspec.json.encode(sorted(self._noted)))

    def remove(self, store: Any, named: set[str]) -> int:
        """All of it that isn't in ``named``; how much that was."""
        idle = self._noted - named
        for sha256 in idle:
            with contextlib.suppress(FileNotFoundError):  # it was gone before a kill
                obstore.delete(store, offsite.name_of(sha256))
        self._path.unlink(missing_ok=True)
        return len(idle)


def _without(
    data: Path,
    store: Any,
    keyring: Keyring | None,
    journal: offsite.Item,
    manifest: offsite.Manifest,
    people: list[Erased],
    loose: _Loose,
) -> offsite.Item:
    """``journal``, or another that names nobody of ``people`` and is sent."""
    fetched = paths.backups_dir(data) / "erase.part"
    fetched.unlink(missing_ok=True)
    try:
        offsite.fetch(store, offsite.sealer_of(keyring), keyring, journal, fetched)
        if not scrub.mentions(fetched, people, keyring):
            return journal
        scrub.scrub(fetched, manifest.layout, manifest.began_us, people, keyring)
        size, sha256 = seal(fetched)
        fresh = offsite.Item("", journal.kind, sha256, size)
        loose.note({fresh.sha256})  # until the manifest names it
        offsite.send(store, offsite.sealer_of(keyring), fresh, fetched)
        return fresh
    finally:
        fetched.unlink(missing_ok=True)
