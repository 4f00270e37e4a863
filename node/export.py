"""What a person takes along: a zip, and in it a list of what else is in it."""

from __future__ import annotations

import hashlib
import zipfile
from typing import IO

import msgspec

MANIFEST = "manifest.json"
_PORTION = 1024 * 1024


class Exported(msgspec.Struct):
    """A file of the zip."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct):
    """The last file of the zip."""

    user: str
    made: str
    version: str
    """of the box in ``messages.db``"""
    files: list[Exported]


class Broken(Exception):
    """The zip doesn't hold what it should; the message says what."""


def verify(file: IO[bytes], user: str) -> Manifest:
    """Read all of a zip: it is what its manifest says, and of ``user``. Raises :class:`Broken`."""
    try:
        with zipfile.ZipFile(file) as made:
            manifest = msgspec.json.decode(made.read(MANIFEST), type=Manifest)
            if manifest.user != user:
                raise Broken(f"it is of {manifest.user}")
            names = sorted([*(one.name for one in manifest.files), MANIFEST])
            if names != sorted(made.namelist()):
                raise Broken("its manifest names other files than there are")
            for one in manifest.files:
                digest, size = hashlib.sha256(), 0
                with made.open(one.name) as entry:
                    while portion := entry.read(_PORTION):
                        digest.update(portion)
                        size += len(portion)
                if (size, digest.hexdigest()) != (one.size, one.sha256):
                    raise Broken(f"{one.name} is not what its manifest says")
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, msgspec.MsgspecError) as error:
        raise Broken(f"it is no whole export: {error}") from error
    return manifest
