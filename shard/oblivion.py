"""Those who were deleted, taken out of backups: of the copies of journals here, and of what is off-site.

Boxes off-site are dropped from the sets that were begun before, and what nobody else's set names is removed at once. A
journal is everybody's: each copy that names them is written anew without them (:mod:`shard.scrub`). They are struck off
the list last of all; killed, the same is begun again, and changes nothing that was done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from node import paths
from node.placement import sync_directory, write_durably
from shard import backup_files as files
from shard import erased, offsite, scrub
from shard.backup_set import Manifest, Part, load, part_of, whole_sets
from shard.copying import seal
from shard.erased import Erased
from shard.keyring import Keyring


def see_to(data: Path, store: Any | None, said: Callable[[str], None], keyring: Keyring | None = None) -> None:
    """Take everybody who is noted out of what is here and, if there is a ``store``, of what is there. Raises what the
    store raises, :class:`shard.offsite.Incomplete`, and ``OSError``."""
    people = erased.noted(data)
    if not people:
        return
    being_made = any(paths.backups_dir(data).glob("*/*/*.begun"))  # it may hold them, and is not looked at yet
    copies = sum(_in_copies(data, people, keyring))
    removed = 0 if store is None else offsite.erase(data, store, people, keyring)
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
